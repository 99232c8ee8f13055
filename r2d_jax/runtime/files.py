"""Files that appear complete or not at all; in: a path and text, out: the file, an old one kept until then."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import TextIO

from r2d_jax.errors import UserError


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[TextIO]:
    """A UTF-8 text file to write, which stands at `path` only once the block has ended well.

    Raises:
        UserError: the place cannot be written to.
    """
    # A fixed name: what a killed process leaves behind is replaced by the next one, and never piles up.
    partial = path.with_name(f".{path.name}.partial")
    try:
        file = partial.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(
            str(path), f"cannot be written ({error.strerror})", "Choose another place."
        ) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text)

"""A folder that stands whole or not at all; in: where, out: a partial folder to fill, moved there at the end."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from r2d_jax.errors import UserError


class Workplace(NamedTuple):
    """Where to write: `partial` becomes the target, `scratch` is removed."""

    partial: pathlib.Path
    scratch: pathlib.Path


@contextlib.contextmanager
def whole_folder(out: pathlib.Path, *, marker: str, overwrite: bool) -> Iterator[Workplace]:
    """A folder to fill, which stands at `out` only once the block has ended well.

    Args:
        out: the target.
        marker: a file that folders of this kind hold; without it a folder is never replaced.
        overwrite: replace one that holds it.

    Raises:
        UserError: the target is in use, or the disk refuses.
    """
    _check_target(out, marker, overwrite)
    # Fixed names: what a killed process leaves behind is removed by the next one, and never piles up.
    work = Workplace(out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.unpacked"))
    _clear(*work)
    try:
        work.partial.mkdir(parents=True)
        yield work
        _replace(work.partial, out)
    except OSError as error:
        raise UserError(
            str(error.filename or out), f"cannot be used ({error.strerror})", "Make room or mend the path."
        ) from error
    finally:
        _clear(*work)


def _check_target(out: pathlib.Path, marker: str, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UserError(str(out), "is a file", "Choose another folder; nothing was changed.")
    if not (out / marker).is_file():
        raise UserError(
            str(out), "is not empty and no prepared data set", "Choose another folder; nothing was changed."
        )
    if not overwrite:
        raise UserError(
            str(out),
            "holds a prepared data set",
            "Choose another folder or add --overwrite; nothing was changed.",
        )


def _replace(partial: pathlib.Path, out: pathlib.Path) -> None:
    if not out.exists() or not any(out.iterdir()):
        os.replace(partial, out)
        return
    # A folder cannot be renamed over a full one; the old one steps aside and comes back on failure.
    old = out.with_name(f".{out.name}.old")
    _clear(old)
    os.replace(out, old)
    try:
        os.replace(partial, out)
    except OSError:
        os.replace(old, out)
        raise
    shutil.rmtree(old)


def _clear(*folders: pathlib.Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

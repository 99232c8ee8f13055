"""Files that appear whole or not at all; in: a path and text or JSON values, out: the file."""

import contextlib
import errno
import json
import os
import pathlib
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from r2d_jax.errors import UserError

LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Characters at which str.splitlines() ends a line but JSON does not escape; one row must stay one line."""
_DAMAGED = "The weights of the model are damaged or too large: take another checkpoint; nothing was written."


@contextlib.contextmanager
def named_faults(path: pathlib.Path) -> Iterator[None]:
    """Name the file that is written in the block, where the system refuses it and does not say which it was.

    Raises:
        UserError: no room, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        # One with a name is about another file, such as one that is read meanwhile.
        if error.filename is not None or error.strerror is None:
            raise
        raise UserError(
            str(path), f"cannot be written ({error.strerror})", "Make room, or choose another place."
        ) from error


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
        with named_faults(path), file:
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


def write_texts(folder: pathlib.Path, texts: Mapping[str, str]) -> None:
    """Write texts by file name into a folder, which is made where it is missing; each is there whole or not at all.

    Raises:
        UserError: the place cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def _plain(value: Any) -> Any:
    """Numbers of numpy and JAX as Python numbers, paths as text, for json."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def write_jsonl(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    r"""Write one JSON object per line, UTF-8, "\n" after each; the file appears whole or not at all.

    Text is written as it is, also "=1+1": JSON is no spreadsheet, so nothing needs to be neutralised.

    Args:
        path: the file; an old one is replaced only once all rows are written.
        rows: taken one by one.

    Raises:
        UserError: the place cannot be written to, or a row holds NaN or infinity, which JSON has not.
    """
    with whole_file(path) as file:
        for row in rows:
            line = _strict_json(row, path, "a figure of a row", _DAMAGED)
            file.write(line.translate(LINE_ENDS) + "\n")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Write one JSON value, indented, UTF-8; the file appears whole or not at all.

    A figure that cannot be computed, such as the mean over no rows, is None, and null in the file.

    Raises:
        UserError: the place cannot be written to, or a figure is NaN or infinity, which JSON has not.
    """
    with whole_file(path) as file:
        advice = "Look whether its rows and weights are sound; nothing was written."
        file.write(_strict_json(value, path, "a figure", advice, indent=2) + "\n")


def _strict_json(value: Any, path: pathlib.Path, figure: str, advice: str, indent: int | None = None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=_plain, allow_nan=False)
    except ValueError as error:
        raise UserError(str(path), f"{figure} is not a number", advice) from error


def write_fault(folder: pathlib.Path | str, *, limit_secs: float = 60.0) -> str | None:
    """Why a folder cannot be written to, or None; makes the folder and leaves nothing else behind.

    Text is an address such as gs://bucket/compiled, which is tried through the library by which JAX writes to it.

    A mounted bucket or network disk that does not answer is a fault too, after `limit_secs`.
    """
    answer: list[str | None] = []

    def probe() -> None:
        # A name of its own, since several processes may look at once.
        name = f".write_probe_{uuid.uuid4().hex}"
        try:
            place = _of_address(folder) if isinstance(folder, str) else folder
            file = place / name
            place.mkdir(parents=True, exist_ok=True)
            file.write_text("")
            file.unlink()
            answer.append(None)
        except Exception as error:
            # The libraries of buckets have errors of their own.
            answer.append(_reason(error))

    # A thread of its own can be left hanging; it dies with the process.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(limit_secs)
    return answer[0] if answer else f"no answer within {limit_secs:g} s"


def _reason(error: Exception) -> str:
    system = error.strerror if isinstance(error, OSError) else None
    return system or " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])


def _of_address(address: str) -> Any:
    from etils import epath

    return epath.Path(address)


def require_writable(path: pathlib.Path, where: str = "") -> None:
    """Refuse a file or folder, there or to be made with its parents, whose place cannot be written to; leaves nothing.

    Args:
        path: of the file or folder.
        where: how it is told; "": by its path.

    Raises:
        UserError: it cannot, see `write_fault`.
    """
    nearest = next(one for one in path.absolute().parents if one.exists())
    fault = write_fault(nearest) if nearest.is_dir() else os.strerror(errno.ENOTDIR)
    if fault:
        raise UserError(
            where or str(path), f"cannot be written ({fault})", "Correct the path, or choose another place."
        )

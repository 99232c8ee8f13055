"""Files of a path, a pattern or an address; in: "a.csv", "part-*.jsonl.gz", "gs://...", out: their parts."""

import contextlib
import glob
import gzip
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple

from r2d_jax.errors import UserError, how_to_install

PACKABLE = (".jsonl", ".json", ".csv", ".tsv")
FORMATS = (*PACKABLE, ".parquet")
_SHOWN_ERROR = 200


class Part(NamedTuple):
    """One file of a source.

    Attributes:
        path: path or address, for messages.
        name: stands before the place of a row, "part-1.csv "; "" where the source is one file.
        format: one of FORMATS.
        open: opens its bytes, unpacked.
    """

    path: str
    name: str
    format: str
    open: Callable[[], contextlib.AbstractContextManager[IO[bytes]]]


def address_of(path: str | pathlib.Path) -> str:
    """A path or address as text; repairs "gs:/bucket", which is what pathlib makes of "gs://bucket"."""
    return re.sub(r"^(?!hf:|tfds:|file:)([a-z][a-z0-9+.-]+):/(?!/)", r"\1://", str(path))


def brief(error: Exception) -> str:
    """What a library said, for the end of a message: one line, cut."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_SHOWN_ERROR]}" if text else type(error).__name__


def find_parts(address: str) -> list[Part]:
    """The files of a source, sorted by name.

    Raises:
        UserError: missing, a folder, no known format, or a protocol without its package.
    """
    return list(_remote(address) if "://" in address else _local(address))


def _local(address: str) -> Iterator[Part]:
    path = pathlib.Path(address)
    if path.is_dir():
        raise UserError(address, "is a folder, not a file", "Name the file itself, or a pattern of files.")
    if path.exists():
        yield _part(address, "", partial(open, address, "rb"))
        return
    if not glob.has_magic(address):
        raise UserError(address, "no such file", "Check the path.")
    found = sorted(name for name in glob.glob(address, recursive=True) if os.path.isfile(name))
    for name, short in zip(found, _short_names(address, found), strict=True):
        yield _part(name, short, partial(open, name, "rb"))


def _remote(address: str) -> Iterator[Part]:
    try:
        import fsspec

        system, inner = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(
            address,
            f"cannot be read by what is installed ({brief(error)})",
            f"Install its package (for gs:// {how_to_install('remote')}), or copy the file here.",
        ) from error
    if not glob.has_magic(inner):
        yield _part(address, "", partial(system.open, inner, "rb"))
        return
    try:
        found = sorted(system.glob(inner))
    # Each file system has errors of its own for a network or an account that fails.
    except Exception as error:
        raise UserError(
            address, f"cannot be listed ({brief(error)})", "Check the address and your access."
        ) from error
    for name, short in zip(found, _short_names(address, found, inner), strict=True):
        yield _part(system.unstrip_protocol(name), short, partial(system.open, name, "rb"))


def _short_names(address: str, found: list[str], pattern: str = "") -> list[str]:
    if not found:
        raise UserError(address, "no file matches", "Check the pattern.")
    # Below the last folder without a wildcard, so that a row id does not hold the path of a machine.
    folder = (pattern or address).split("*")[0].split("?")[0].split("[")[0].rpartition("/")[0]
    return [os.path.relpath(name, folder or ".").replace(os.sep, "/") + " " for name in found]


def _part(path: str, name: str, open_bytes: Callable[[], Any]) -> Part:
    suffixes = pathlib.PurePosixPath(path).suffixes
    last = suffixes[-1].lower() if suffixes else ""
    packed = last == ".gz"
    ending = (suffixes[-2].lower() if len(suffixes) > 1 else "") if packed else last
    if ending not in (PACKABLE if packed else FORMATS):
        told = ending + last if packed else last
        raise UserError(
            path,
            f"{told or 'no ending'} is not a known format",
            f"Use {', '.join(FORMATS)}, or one of the first four with .gz.",
        )

    @contextlib.contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with _opened(path, open_bytes) as file:
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield file

    return Part(path, name, ending, opened)


def _opened(path: str, open_bytes: Callable[[], Any]) -> IO[bytes]:
    try:
        file: IO[bytes] = open_bytes()
        return file
    except FileNotFoundError as error:
        raise UserError(path, "no such file", "Check the path.") from error
    except OSError as error:
        raise UserError(
            path, f"cannot be read ({error.strerror or brief(error)})", "Check its permissions."
        ) from error
    # Each remote file system has errors of its own for a network or an account that fails.
    except Exception as error:
        raise UserError(
            path, f"cannot be opened ({brief(error)})", "Check the address and your access."
        ) from error

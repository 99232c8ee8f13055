"""Text of a file as a stream; in: the bytes of a Part and an encoding, out: text read piece by piece, or its fault."""

import codecs
import contextlib
import io
import re
import zlib
from collections.abc import Iterator
from typing import IO, TextIO, cast

from r2d_jax.data.reading.files import Part, brief
from r2d_jax.errors import UserError

_BY = " by data.encoding (rows of a run) or --encoding (rows of --input)"
_CONTROLS = re.compile(rb"[\x80-\x9f]")


class _Counted(io.BufferedIOBase):
    """Bytes that remember how many of them, and how many line feeds, were read.

    Latin-1 takes any byte: of the dashes and quotes of a Windows file it makes control characters, which no text
    holds and no vocabulary knows. So those are refused.
    """

    def __init__(self, part: Part, file: IO[bytes], encoding: str):
        self._part, self._file, self._encoding = part, file, encoding
        self._without_controls = codecs.lookup(encoding).name.startswith("iso8859")
        self.bytes = self.line_feeds = 0
        self.start = b""

    def readable(self) -> bool:
        return True

    def read1(self, size: int | None = -1, /) -> bytes:
        data = self._file.read(-1 if size is None else size)
        self.start = self.start or data[:4]
        if self._without_controls and (found := _CONTROLS.search(data)):
            line = self.line_feeds + data.count(b"\n", 0, found.start()) + 1
            raise UserError(
                f"{self._part.path} line {line}",
                f"byte {self.bytes + found.start()} is a control character in {self._encoding}",
                f"Name cp1252{_BY}: there it is one of the dashes and quotes that Windows programs write.",
            )
        self.bytes += len(data)
        self.line_feeds += data.count(b"\n")
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        return self.read1(size)


@contextlib.contextmanager
def open_text(part: Part, encoding: str, newline: str) -> Iterator[TextIO]:
    """The text of a file, never held as a whole; a byte-order mark is left to the reader.

    Args:
        part: the file.
        encoding: a text encoding that Python knows.
        newline: "" to end lines at any line end, "\\n" only there; kept as written in both cases.

    Raises:
        UserError: cannot be opened, damaged, or not in this encoding (names line and byte), as is a control
            character of latin-1.
    """
    with part.open() as file:
        try:
            counted = _Counted(part, file, encoding)
            text = io.TextIOWrapper(cast(IO[bytes], counted), encoding, newline=newline)
        except (LookupError, ValueError) as error:
            raise UserError(f"encoding {encoding!r}", "is not known", "Use utf-8.") from error
        try:
            yield text
        except UnicodeDecodeError as error:
            # What a decoder looked at always ends with the last byte that it was given.
            byte = counted.bytes - len(error.object) + error.start
            line = counted.line_feeds - error.object[error.start :].count(b"\n") + 1
            utf16 = counted.start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            # Not latin-1, which takes any byte: of a Windows file it makes control characters without a word.
            likely = "utf-16" if utf16 else "cp1252"
            example = "" if codecs.lookup(encoding).name == likely else f", for example {likely},"
            raise UserError(
                f"{part.path} line {line}",
                f"byte {byte} is not {encoding}",
                f"Save the file as UTF-8, or name its encoding{example}{_BY}.",
            ) from error
        except UnicodeError as error:
            # Of the text as a whole: UTF-16 without a byte-order mark, or an encoding that decodes nothing.
            raise UserError(
                part.path,
                f"is not {encoding} ({brief(error)})",
                f"Save the file as UTF-8, or name its encoding{_BY}.",
            ) from error
        except (EOFError, zlib.error, OSError) as error:
            # gzip tells damage in all three ways; a file that ends too soon must not pass for a short one.
            raise UserError(
                part.path, f"cannot be read to its end ({brief(error)})", "Copy or pack it again."
            ) from error


def lines(text: TextIO) -> Iterator[str]:
    """Lines with their ends, without a byte-order mark."""
    for number, line in enumerate(text):
        yield line if number else line.removeprefix("\ufeff")


def nothing_in(part: Part) -> UserError:
    """The error for a file of blanks."""
    return UserError(part.path, "is empty", "Give a file with rows.")

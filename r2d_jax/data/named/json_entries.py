"""Entries of one large JSON file, one at a time; in: a path, out: key, value and line, in bounded memory."""

import codecs
import gzip
import json
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from r2d_jax.data.reading.files import brief
from r2d_jax.data.reading.raw_rows import Number, kind_of, shown
from r2d_jax.errors import UserError

_CHUNK_BYTES = 1 << 18
# Farther than this from the end of what is read, an error is one of the file and not of a cut.
_CUT_CHARS = 16
_BLANK = re.compile(r"[ \t\n\r]*")


class Entry(NamedTuple):
    """One member of the object, or one element of the array (key ""), and where it begins."""

    place: str
    key: str
    value: Any


def json_entries(path: pathlib.Path, member: str | None = None) -> Iterator[Entry]:
    """Members of the object that a file holds, or elements of one array in it.

    Streaming parsers in C (yajl under ijson) turn half a surrogate pair into "?" and keep the last of two equal
    keys without a word, so this one walks over the outermost level and leaves each value to `json`.

    Args:
        path: a UTF-8 file, or one packed as .gz; a byte-order mark is dropped.
        member: name of the array to walk; None: the members of the outermost object.

    Raises:
        UserError: not such a file, or a damaged one; names the physical line, never the text.
    """
    opened: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            yield from _entries(_Scanner(path, file), member)
    except (OSError, EOFError, zlib.error) as error:
        # gzip tells damage in all three ways, and only the system's errors have a text of their own.
        told = getattr(error, "strerror", None)
        raise UserError(
            str(path),
            f"cannot be read ({told or brief(error)})",
            "Check the path." if told else "Download it again.",
        ) from error


def _entries(scan: "_Scanner", member: str | None) -> Iterator[Entry]:
    if scan.peek() != "{":
        scan.fail("is not a JSON object")
    found = False
    seen: set[str] = set()
    for _ in scan.items("{", "}"):
        place = scan.place()
        key = scan.value()
        if not isinstance(key, str) or isinstance(key, Number):
            scan.fail("has a key that is not text")
        if key in seen:
            scan.fail("has a key that appears twice", place)
        seen.add(key)
        scan.take(":")
        if member is None:
            yield Entry(place, key, scan.value())
        elif key == member:
            found = True
            if scan.peek() != "[":
                scan.fail(f"{member!r} is not an array")
            for _ in scan.items("[", "]"):
                place = scan.place()
                yield Entry(place, "", scan.value())
        else:
            scan.value()
    if scan.peek():
        scan.fail("goes on after its end")
    if member is not None and not found:
        raise UserError(scan.name, f"has no {member!r}", "Give the file as it is published.")


def _checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(shown(sorted({name for name in names if names.count(name) > 1})))
    return made


class _TwiceError(Exception):
    """A key appears twice in one object; holds the key."""


class _Scanner:
    """The unread rest of a file; whatever was taken is dropped from memory."""

    def __init__(self, path: pathlib.Path, file: Any) -> None:
        self.name = str(path)
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder(
            object_pairs_hook=_checked_object, parse_int=Number, parse_float=Number, parse_constant=Number
        )
        self._buffer, self._at = "", 0
        self._line, self._line_from = 1, 0
        self._bytes, self._ended = 0, False

    def place(self) -> str:
        """Line of the next entry."""
        self.peek()
        self._line, self._line_from = self._line_at(self._at), self._at
        return f"line {self._line}"

    def peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            self._at = _end_of(_BLANK, self._buffer, self._at)
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def take(self, wanted: str) -> None:
        """Pass over one sign that must stand here."""
        if self.peek() != wanted:
            self.fail(f"is not JSON (expected {wanted!r})")
        self._at += 1

    def items(self, opening: str, closing: str) -> Iterator[None]:
        """Once for each item between two brackets; the caller takes the item."""
        self.take(opening)
        if self.peek() == closing:
            self._at += 1
            return
        while True:
            yield
            if self.peek() == closing:
                self._at += 1
                return
            self.take(",")

    def value(self) -> Any:
        """The next JSON value, numbers in their written form."""
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                whole = error.pos < len(self._buffer) - _CUT_CHARS and "Unterminated" not in error.msg
                if whole or not self._more():
                    self.fail(f"is not JSON ({error.msg})", f"line {self._line_at(error.pos)}")
            except _TwiceError as error:
                self.fail(f"key {error} appears twice in one entry")
            except RecursionError:
                self.fail("is nested too deeply")
            else:
                # A number at the very end of what is read may go on.
                if end < len(self._buffer) or not isinstance(value, Number) or not self._more():
                    self._at = end
                    return value

    def fail(self, what: str, place: str | None = None) -> Any:
        """End with an error at a place, by default the next sign."""
        place = place or f"line {self._line_at(self._at)}"
        raise UserError(f"{self.name} {place}", what, "Give the file as it is published.")

    def _line_at(self, position: int) -> int:
        if position < self._line_from:
            return self._line - self._buffer.count("\n", position, self._line_from)
        return self._line + self._buffer.count("\n", self._line_from, position)

    def _more(self) -> bool:
        """Read on, dropping what was taken; False at the end of the file."""
        if self._ended:
            return False
        # Growing with what an entry needs keeps the work for one huge entry linear.
        data = self._file.read(max(_CHUNK_BYTES, len(self._buffer) - self._at))
        self._ended = not data
        try:
            text = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            line = self._line_at(len(self._buffer)) + error.object[: error.start].count(b"\n")
            start = self._bytes + len(data) - len(error.object) + error.start
            self.fail(f"byte {start} is not utf-8", f"line {line}")
        self._bytes += len(data)
        self._line, self._line_from = self._line_at(self._at), 0
        self._buffer, self._at = self._buffer[self._at :] + text, 0
        return True


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    assert match is not None
    return match.end()


def require_object(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be a JSON object.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, dict):
        raise UserError(
            where, f"is a JSON {kind_of(value)}, not an object", "Give the file as it is published."
        )
    return value

"""Rows of JSON files as a stream; in: JSONL or an array of objects, out: Row by Row, numbers as written."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from r2d_jax.data.reading.cells import Number, Row, kind_of, shown
from r2d_jax.data.reading.files import Part
from r2d_jax.data.reading.text_stream import lines, nothing_in, open_text
from r2d_jax.errors import UserError

_PIECE = 1 << 16
# No token but a string is longer than -Infinity or \ud83d\ude00.
_LONGEST_TOKEN = 16
_BLANKS = re.compile(r"[ \t\n\r]*")
_LINE_FIX = "Write one object a line; a JSON array belongs in a .json file."
_ARRAY_FIX = "Write [{...}, {...}], or one object a line as .jsonl."


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys appear twice."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = {name for name in names if names.count(name) > 1} if len(self) < len(names) else set()


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_int=Number, parse_float=Number)


def _object_row(part: Part, place: str, value: Any) -> Row:
    where = f"{part.path} {place}"
    if not isinstance(value, _Object):
        raise UserError(
            where, f"is a JSON {kind_of(value)}, not an object", "Write {...} with the column names as keys."
        )
    if value.twice:
        raise UserError(where, f"key {shown(sorted(value.twice))} appears twice", "Fix this row.")
    return Row(f"{part.name}{place}", value)


def _not_json(part: Part, line: int, reason: str, fix: str) -> UserError:
    return UserError(f"{part.path} line {line}", f"is not JSON ({reason})", fix)


def _too_deep(part: Part, line: int) -> UserError:
    return UserError(f"{part.path} line {line}", "is nested too deeply", "Fix this row.")


def jsonl_rows(part: Part, encoding: str) -> Iterator[Row]:
    """One object a line; only a line feed ends one, for U+2028 and its like may stand inside a string."""
    empty = True
    with open_text(part, encoding, newline="\n") as text:
        for number, line in enumerate(lines(text), start=1):
            if not line.strip():
                continue
            empty = False
            try:
                value = _DECODER.decode(line.removesuffix("\n"))
            except json.JSONDecodeError as error:
                raise _not_json(part, number, error.msg, _LINE_FIX) from error
            except RecursionError as error:
                raise _too_deep(part, number) from error
            yield _object_row(part, f"line {number}", value)
    if empty:
        raise nothing_in(part)


class _Window:
    """The part of an array's text that is being read: at most about two rows and two pieces of it.

    Streaming parsers such as ijson turn numbers into int, float or Decimal, which loses how they were written
    (1e5, 1.50), so the decoder of the standard library is moved over the text, value by value.
    """

    def __init__(self, part: Part, file: TextIO):
        self._part, self._file = part, file
        self._text = file.read(_PIECE).removeprefix("\ufeff")
        self._at = 0
        self._lines_before = 0

    def _more(self) -> bool:
        # As much again as is held: a row of any length is then tried only a few times.
        piece = self._file.read(max(_PIECE, len(self._text) - self._at))
        self._lines_before += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def fault(self, reason: str, at: int | None = None) -> UserError:
        """The error for text that is not JSON, at an index of the window or here."""
        return _not_json(self._part, self._line(at), reason, _ARRAY_FIX)

    def _line(self, at: int | None = None) -> int:
        return self._lines_before + self._text.count("\n", 0, self._at if at is None else at) + 1

    def peek(self) -> str:
        """The next character that is not blank, not taken yet; "" at the end."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            assert blanks is not None
            self._at = blanks.end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Take the character that was peeked at."""
        self._at += 1

    def value(self) -> Any:
        """Take one JSON value."""
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
                return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated")
                cut = cut or error.pos > len(self._text) - _LONGEST_TOKEN
                # The place in the window, before it moves on.
                fault = self.fault(error.msg, error.pos)
                if not (cut and self._more()):
                    raise fault from error
            except RecursionError as error:
                raise _too_deep(self._part, self._line()) from error


def json_rows(part: Part, encoding: str) -> Iterator[Row]:
    """The objects of one array."""
    with open_text(part, encoding, newline="\n") as text:
        window = _Window(part, text)
        if window.peek() == "":
            raise nothing_in(part)
        if window.peek() != "[":
            raise UserError(part.path, "is not a JSON array", _ARRAY_FIX)
        window.take()
        number = 0
        while window.peek() != "]" or number:
            number += 1
            window.peek()
            yield _object_row(part, f"element {number}", window.value())
            sign = window.peek()
            if sign == "]":
                break
            if sign != ",":
                raise window.fault("Expecting ',' delimiter")
            window.take()
        window.take()
        if window.peek():
            raise window.fault("Extra data")

"""What a named cell has to be; in: raw rows and column names, out: text exactly as written, or where it is at fault."""

import collections
import difflib
import warnings
from collections.abc import Sequence

from r2d_jax.data.mentions import is_blank
from r2d_jax.data.reading.cells import (
    Number,
    Row,
    columns_told,
    delimiter_hint,
    kind_of,
    looks_like_data,
    shown,
)
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError

FILL_IN = "Fill it in, or remove the row."
FILL_IN_RATIONALE = (
    "Fill it in, or remove the row; with data.missing_rationales=skip a run leaves such rows out, with keep they teach "
    "their label alone."
)


def require_columns(path: str, found: Sequence[str], wanted: Sequence[str], *, data: bool = False) -> None:
    """Raise a UserError that names those of `wanted` that are not among the columns found, and the nearest that are.

    Args:
        path: for the message.
        found: names of columns; in a file without a header they are cells, which no message may tell.
        wanted: names.
        data: `found` were seen to be cells.
    """
    lacking = [name for name in dict.fromkeys(wanted) if name not in found]
    if not lacking:
        return
    near = dict.fromkeys(other for name in lacking for other in _nearest(name, found))
    if data or looks_like_data(found):
        hint = "A table needs the names of its columns in the first line. "
    else:
        hint = f"Did you mean {shown(list(near))}? " if near else ""
    others = f", nor {', '.join(map(repr, lacking[1:]))}" if lacking[1:] else ""
    them = "them" if others else "it"
    fix = f"{hint}Name {them} under data.columns, or beside --input by an option such as --question-column."
    told = columns_told(found, data=data)
    raise UserError(path, f"no column {lacking[0]!r}{others}; {told}", delimiter_hint(found) or fix)


def _nearest(name: str, found: Sequence[str]) -> list[str]:
    """The column that is likeliest meant by a name, or none."""
    same = [other for other in found if other.strip().casefold() == name.casefold()]
    return same[:1] or difflib.get_close_matches(name, found, n=1)


class Tables:
    """What the files of a pattern lack of the columns that are asked for, where each has a header of its own."""

    def __init__(self, path: str, wanted: Sequence[str]):
        """Prepare to look.

        Args:
            path: of the pattern, for the message.
            wanted: names of columns.
        """
        self._path, self._wanted = path, wanted
        self._last = ""
        self._fault: UserError | None = None

    def look_at(self, row: Row) -> None:
        """Look at the header of a row, where it is that of another file than that of the row before."""
        if row.table == self._last:
            return
        self._last = row.table
        lacking = next((name for name in self._wanted if name not in row.cells), None)
        if row.table and lacking is not None and self._fault is None:
            # The names that are there may be cells, so none is told.
            self._fault = UserError(
                row.table,
                f"no column {lacking!r}, which another file of {self._path} has",
                delimiter_hint(list(row.cells)) or "Add the column to this file, or leave the file out.",
            )

    def require_columns(self) -> None:
        """Raise what was found first.

        Raises:
            UserError: a file lacks a column: all of its rows would be taken for rows with an empty cell.
        """
        if self._fault is not None:
            raise self._fault


def text_of(
    path: str, row: Row, column: str, *, required: bool, number: bool = False, fix_empty: str = FILL_IN
) -> str:
    """The text of a cell.

    Args:
        path: for messages.
        row: where the cell stands.
        column: its name.
        required: whether blank, null or no cell is an error; else they give "" or the blanks.
        number: whether a whole number will do, as written.
        fix_empty: what to do about a cell that is blank or not there.

    Raises:
        UserError: names place and field, never the text.
    """
    value = row.cells.get(column)
    if value is None and not required:
        return ""

    def fault(what: str, fix: str) -> UserError:
        return UserError(f"{path} {row.place}, field {column!r}", what, fix)

    if column not in row.cells:
        raise fault("is missing", fix_empty)
    if not isinstance(value, str) or (isinstance(value, Number) and not number):
        raise fault(
            f"is {kind_of(value)}, not text", 'Store it as text (in JSON in quotes, for example "1").'
        )
    if required and is_blank(value):
        raise fault("is empty", fix_empty)
    return whole_text(f"{path} {row.place}, field {column!r}", value)


def whole_text(where: str, text: str) -> str:
    r"""The same text, as it is.

    Args:
        where: for the message.
        text: as JSON held it, which can say "\ud83d" alone; no file of UTF-8 and no request can.

    Raises:
        UserError: holds half of a character pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            where,
            "holds half of a character pair (a lone surrogate such as \\ud83d)",
            "Write the whole pair.",
        ) from error
    return str(text)


class Damage:
    """Counts replacement characters by field."""

    def __init__(self, path: str):
        self._path = path
        self._counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}

    def look_at(self, place: str, example: Example) -> None:
        """Count those of one row."""
        texts = {"question": example.question, "context": example.context, "label": example.label}
        texts |= {f"rationale {key}": value for key, value in example.rationales.items()}
        for name, text in texts.items():
            if "\ufffd" in text:
                self._counts[name] += text.count("\ufffd")
                self._first.setdefault(name, place)

    def warn(self) -> None:
        """Warn of each field that has some, with the first place."""
        for name, count in self._counts.items():
            warnings.warn(
                f"{self._path}: {count} replacement characters (U+FFFD) in the {name}, first at "
                f"{self._first[name]}; the text was damaged before it came here",
                stacklevel=4,
            )

"""What a raw row is before anything is checked; in: values of a format, out: Row, Number, Typed and their names."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_SHOWN_NAMES, _SHOWN_LENGTH = 30, 40
_MAX_WORDS = 5
_NUMBER = re.compile(r"\W*\d[\W\d]*")
_DELIMITERS = {";": "';'", ",": "','", "\t": "tabs", "|": "'|'"}


class Row(NamedTuple):
    """One raw row.

    Attributes:
        place: where it stands ("line 7", "element 2", "part-1.csv line 7").
        cells: by column.
        table: the file whose header names its columns, all of which every row has; "" where rows name their own.
    """

    place: str
    cells: Mapping[str, Any]
    table: str = ""


class Number(str):
    """A number in its written form, so that a long id neither overflows nor is rounded."""


@dataclasses.dataclass(frozen=True)
class Typed:
    """A value of a type that is neither text nor an integer, such as timestamp[us].

    Attributes:
        name: of the type.
        written: of a fraction or a truth value, how it is written ("0.5", "true"); else only the type is kept. No
            text of a row is made of it: nobody knows how the file had it.
    """

    name: str
    written: str = dataclasses.field(default="", compare=False)


def kind_of(value: Any) -> str:
    """What a value is, for a message: int, float, bool, null, list, object, text, or the type of its column."""
    if isinstance(value, Number):
        return "float" if set(value) & set(".eE") else "int"
    if isinstance(value, Typed):
        return value.name
    kinds = {bool: "bool", float: "float", type(None): "null", list: "list", str: "text"}
    return kinds.get(type(value), "object")


def shown(names: Iterable[str]) -> str:
    """Names for a message, long ones only by their length: in a file without a header they are case text."""
    names = list(names)
    texts = [
        repr(name) if len(name) <= _SHOWN_LENGTH else f"({len(name)} characters)"
        for name in names[:_SHOWN_NAMES]
    ]
    more = len(names) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


def looks_like_data(names: Sequence[str]) -> bool:
    """Whether one of these names of columns has the form of a cell: a number or date, a sentence, a long text."""
    # What holds another delimiter may be a whole header, of which the parts tell.
    parts = [part for name in names for part in re.split("[,;|\t]", name)]
    return any(len(name) > _SHOWN_LENGTH for name in (names if len(names) > 1 else parts)) or any(
        len(part.split()) > _MAX_WORDS or part.rstrip().endswith((".", "!", "?")) or _NUMBER.fullmatch(part)
        for part in parts
    )


def columns_told(names: Sequence[str], *, data: bool = False) -> str:
    """The columns of a file for a message: by name, or only how many where the names may be cells of a patient.

    Args:
        names: of the columns.
        data: they were found to be cells already.
    """
    if delimiter_hint(names):
        return f"columns found: {len(names)}"
    if data or looks_like_data(names):
        return f"columns found: {len(names)}, which look like data and not like names"
    return f"columns found: {shown(names)}"


def delimiter_hint(names: Sequence[str]) -> str:
    """What to do where the names of columns hold what separates them; "" where they do not."""
    alone, data = len(names) == 1, looks_like_data(names)
    for delimiter, told in _DELIMITERS.items():
        # A sentence in quotes may hold commas, and semicolons too; tabs in a line of one cell are no text.
        fits = alone and not data if delimiter == "," else alone or not data
        if fits and names and sum(name.count(delimiter) for name in names) >= len(names):
            return (
                f"Its cells seem to be separated by {told}: save it with commas (.csv) or with tabs (.tsv)."
            )
    return ""


def repeated(names: Iterable[str]) -> list[str]:
    """Names that stand more than once, sorted; unnamed ones aside."""
    names = list(names)
    return sorted({name for name in names if name and names.count(name) > 1})

"""What a raw row is before anything is checked; in: values of a format, out: Row, Number, Typed and their names."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_SHOWN_NAMES, _SHOWN_LENGTH = 30, 40


class Row(NamedTuple):
    """One raw row: where it stands ("line 7", "element 2", "part-1.csv line 7"), and its cells."""

    place: str
    cells: Mapping[str, Any]


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


def repeated(names: Iterable[str]) -> list[str]:
    """Names that stand more than once, sorted; unnamed ones aside."""
    names = list(names)
    return sorted({name for name in names if name and names.count(name) > 1})

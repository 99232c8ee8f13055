"""The subgroup of a row; in: a cell of any reader and edges of bands, out: the name of its group."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from r2d_jax.data.mentions import fold_white_space
from r2d_jax.data.reading.cell_checks import text_of
from r2d_jax.data.reading.cells import Row, Typed
from r2d_jax.errors import UserError

MISSING = "(missing)"
"""The group of rows whose cell is empty, null or not there."""
MAX_GROUPS, LONGEST_NAME = 40, 80
"""A column with more values, or a longer one, is no subgroup but may be case text, which figures must not show."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def group_of(path: str, row: Row, column: str, edges: Sequence[float] | None = None) -> str:
    """The group of a row, by one column.

    Blanks at the ends are removed and inner ones folded, for "F" and "F " are one group; case is kept.

    Args:
        path: for messages.
        row: its cells.
        column: text, a number or a truth value; anything else is an error.
        edges: lower ends of bands, rising; the column then has to be numeric. None: each value is a group.

    Raises:
        UserError: no number where there are edges, a type that is no group, or a value too long for one. Names
            place and field, never the value.
    """
    text = fold_white_space(_text(path, row, column))
    if not text:
        return MISSING
    if edges is not None:
        # float() alone would take "nan", "inf" and "1_000" too.
        value = float(text) if _NUMBER.fullmatch(text) else math.inf
        if not math.isfinite(value):
            raise UserError(
                f"{path} {row.place}, field {column!r}",
                "is not a number, so it has no band",
                "Write a number such as 45, or leave the cell empty.",
            )
        return band_of(value, edges)
    if len(text) > LONGEST_NAME:
        raise UserError(
            f"{path} {row.place}, field {column!r}",
            f"has {len(text)} characters, so it names no subgroup",
            "Name another column in data.columns.subgroups.",
        )
    return text


def _text(path: str, row: Row, column: str) -> str:
    value: Any = row.cells.get(column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, Typed) and value.written:
        # Tables write a missing number as NaN.
        return "" if value.written == "nan" else value.written
    return text_of(path, row, column, required=False, number=True)


def band_of(value: float, edges: Sequence[float]) -> str:
    """The band of a number: "below 18", "18 to below 65" (18 is inside, 65 is not) or "65 and above".

    Args:
        value: finite.
        edges: at least one, rising.
    """
    place = sum(value >= edge for edge in edges)
    if place == 0:
        return f"below {_written(edges[0])}"
    if place == len(edges):
        return f"{_written(edges[-1])} and above"
    return f"{_written(edges[place - 1])} to below {_written(edges[place])}"


def _written(edge: float) -> str:
    return str(int(edge)) if float(edge).is_integer() else repr(float(edge))


def in_order(groups: Iterable[str]) -> list[str]:
    """Names of groups as a table lists them: by their first number where they have one, the missing ones last."""
    return sorted(groups, key=_place)


def _place(name: str) -> tuple[bool, bool, float, bool, str]:
    number = re.search(r"-?\d+(\.\d+)?", name, re.ASCII)
    return (
        name == MISSING,
        number is None,
        float(number[0]) if number else 0.0,
        not name.startswith("below "),
        name,
    )

"""Rows checked against the column names of a run; in: a file of rows, out: Example rows, text exactly as written."""

import dataclasses
import difflib
import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.raw_rows import Number, Row, kind_of, raw_rows, shown
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError


def _require_columns(path: pathlib.Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            near = [other for other in found if other.strip().casefold() == name.casefold()]
            near = near or difflib.get_close_matches(name, found, n=1)
            hint = f"Did you mean {shown(near[:1])}? " if near else ""
            raise UserError(
                str(path),
                f"no column {name!r}; columns found: {shown(found)}",
                f"{hint}Name it under data.columns.",
            )


def _text(path: pathlib.Path, row: Row, column: str, *, required: bool, number: bool = False) -> str:
    value = row.cells.get(column)
    where = f"{path} {row.place}, field {column!r}"
    if value is None and not required:
        return ""
    if column not in row.cells:
        raise UserError(where, "is missing", "Fill it in, or remove the row.")
    if not isinstance(value, str) or (isinstance(value, Number) and not number):
        raise UserError(where, f"is {kind_of(value)}, not text", 'Write it in quotes, for example "1".')
    if required and not value.strip():
        raise UserError(where, "is empty", "Fill it in, or remove the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            where,
            "holds half of a character pair (a lone surrogate such as \\ud83d)",
            "Write the whole pair.",
        ) from error
    return str(value)


def _warn_of_damage(path: pathlib.Path, places: Sequence[str], examples: Sequence[Example]) -> None:
    damaged: dict[str, list[str]] = {}
    for place, row in zip(places, examples, strict=True):
        texts = {"question": row.question, "context": row.context, "label": row.label}
        for name, text in (
            texts | {f"rationale {key}": value for key, value in row.rationales.items()}
        ).items():
            damaged.setdefault(name, []).extend([place] * text.count("\ufffd"))
    for name, where in damaged.items():
        if where:
            warnings.warn(
                f"{path}: {len(where)} replacement characters (U+FFFD) in the {name}, first at {where[0]}; "
                "the text was damaged before it came here",
                stacklevel=3,
            )


class SplitExample(NamedTuple):
    """An Example and what its split column says ("" where there is none)."""

    example: Example
    split: str


def read_split_examples(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
) -> list[SplitExample]:
    """Rows of one file with their split value; see `read_examples`."""
    path = pathlib.Path(path)
    unknown = [name for name in rationale_sources if name not in columns.rationales]
    if unknown and need_targets:
        raise UserError(
            "rationale_source",
            f"{unknown[0]!r} is not one of data.columns.rationales ({shown(columns.rationales)})",
            "Name its column there, or choose another source.",
        )
    rows = list(raw_rows(path, encoding))
    if not rows:
        raise UserError(str(path), "holds no rows", "Give a file with rows.")
    wanted = [columns.question, *filter(None, (columns.context, columns.id, columns.split))]
    if need_targets:
        wanted += [columns.label, *(columns.rationales[name] for name in rationale_sources)]
    found = list(dict.fromkeys(name for row in rows for name in row.cells))
    _require_columns(path, found, wanted)
    read, seen = [], dict[str, str]()
    for row in rows:
        row_id = _text(path, row, columns.id, required=True, number=True) if columns.id else row.place
        if row_id in seen:
            raise UserError(
                f"{path} {row.place}", f"has the id of {seen[row_id]}", "Give every row an id of its own."
            )
        seen[row_id] = row.place
        example = Example(
            row_id=row_id,
            question=_text(path, row, columns.question, required=need_targets),
            context=_text(path, row, columns.context, required=False) if columns.context else "",
            label=_text(path, row, columns.label, required=True) if need_targets else "",
            rationales={
                name: _text(path, row, columns.rationales[name], required=True)
                for name in rationale_sources
                if need_targets
            },
        )
        split = _text(path, row, columns.split, required=True, number=True) if columns.split else ""
        read.append(SplitExample(example, split))
    _warn_of_damage(path, list(seen.values()), [row.example for row in read])
    return read


def read_examples(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
) -> list[Example]:
    """Rows of one file, in order, every cell text exactly as written.

    A cell such as "None", "NA", "01" or "2024-01-02" stays that text; only an empty cell is missing.
    Columns that are not named are not looked at. In JSON, a number may stand for an id or a split, as
    written; every other named field must be text in quotes, for 1 and "1" would be two labels.

    Args:
        path: .jsonl, .json (an array), .csv or .tsv.
        columns: names of the columns; the split column is not looked at.
        rationale_sources: which of columns.rationales every row must have.
        encoding: of the file; a byte-order mark is dropped.
        need_targets: False to predict: label and rationales are not read and a question may be empty.

    Raises:
        UserError: names file, physical line and field, never the text of the row.
    """
    rows = read_split_examples(
        path,
        dataclasses.replace(columns, split=None),
        rationale_sources=rationale_sources,
        encoding=encoding,
        need_targets=need_targets,
    )
    return [row.example for row in rows]

"""Rows checked against the column names of a run; in: a source of rows, out: Example rows, text exactly as written."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.reading.cell_checks import Damage, require_columns, text_of
from r2d_jax.data.reading.files import address_of
from r2d_jax.data.reading.raw_rows import Progress, Row, raw_rows, shown
from r2d_jax.data.reading.templates import Template, parse_template
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError


class SplitExample(NamedTuple):
    """An Example, and what its split and group columns say ("" where there is none)."""

    example: Example
    split: str
    group: str = ""


@dataclasses.dataclass
class SourceRows:
    """The rows of one source, and what became of the others.

    Attributes:
        rows: in order.
        without_rationale: rows left out for want of a rationale, by value of the split column.
        mapped: rows whose label data.label_map changed, by the label as written.
    """

    rows: list[SplitExample]
    without_rationale: collections.Counter[str]
    mapped: collections.Counter[str]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What is read from each row."""

    path: str
    columns: ColumnsConfig
    question: Template
    context: Template | None
    sources: Sequence[str]
    need_targets: bool
    label_map: Mapping[str, str]

    def wanted(self) -> Iterator[str]:
        yield from self.question.columns
        yield from self.context.columns if self.context else ()
        yield from filter(None, (self.columns.id, self.columns.split, self.columns.group))
        if self.need_targets:
            yield self.columns.label
            yield from (self.columns.rationales[name] for name in self.sources)

    def cell(self, row: Row, column: str | None, *, required: bool = True, number: bool = False) -> str:
        return text_of(self.path, row, column, required=required, number=number) if column else ""

    def filled(self, row: Row, template: Template | None, *, required: bool) -> str:
        if template is None:
            return ""
        return template.fill({name: self.cell(row, name, required=required) for name in template.columns})

    def rationales(self, row: Row, *, required: bool) -> dict[str, str]:
        columns = self.columns.rationales
        names = self.sources if self.need_targets else ()
        return {name: self.cell(row, columns[name], required=required) for name in names}

    def label(self, row: Row) -> str:
        return self.cell(row, self.columns.label) if self.need_targets else ""


def read_source(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
    skip_missing_rationales: bool = False,
    label_map: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> SourceRows:
    """Rows of one source with their split and group; see `read_examples`.

    Args:
        path: as for `raw_rows`.
        columns: names of the columns; question and context may be templates.
        rationale_sources: which of columns.rationales every row must have.
        encoding: of text files.
        need_targets: False to predict.
        skip_missing_rationales: leave a row out, and count it, where one of its rationales is missing, null
            or blank; False: that is an error.
        label_map: label as written -> label to use.
        progress: see `raw_rows`.

    Raises:
        UserError: names file, place and field, never the text of the row.
    """
    address = address_of(path)
    unknown = [name for name in rationale_sources if name not in columns.rationales]
    if unknown and need_targets:
        raise UserError(
            "rationale_source",
            f"{unknown[0]!r} is not one of data.columns.rationales ({shown(columns.rationales)})",
            "Name its column there, or choose another source.",
        )
    reader = _Reader(
        address,
        columns,
        parse_template(columns.question, "data.columns.question"),
        parse_template(columns.context, "data.columns.context") if columns.context else None,
        rationale_sources,
        need_targets,
        label_map or {},
    )
    found: dict[str, None] = {}
    read = SourceRows([], collections.Counter(), collections.Counter())
    damage = Damage(address)
    seen: dict[str, str] = {}
    fault: UserError | None = None
    for row in raw_rows(path, encoding, progress):
        if not row.cells.keys() <= found.keys():
            found |= dict.fromkeys(row.cells)
        # A column that no row has is a wrong name, not a fault of the first row: look at the rest to tell.
        if fault is None:
            try:
                _read_row(reader, row, seen, read, damage, skip_missing_rationales)
            except UserError as error:
                fault = error
    if not seen and fault is None:
        raise UserError(address, "holds no rows", "Give a file with rows.")
    require_columns(address, list(found), list(reader.wanted()))
    if fault is not None:
        raise fault
    damage.warn()
    return read


def _read_row(
    reader: _Reader, row: Row, seen: dict[str, str], read: SourceRows, damage: Damage, skip: bool
) -> None:
    columns = reader.columns
    row_id = reader.cell(row, columns.id, number=True) or row.place
    if row_id in seen:
        raise UserError(
            f"{reader.path} {row.place}",
            f"has the id of {seen[row_id]}",
            "Give every row an id of its own.",
        )
    seen[row_id] = row.place
    label = reader.label(row)
    example = Example(
        row_id=row_id,
        question=reader.filled(row, reader.question, required=reader.need_targets),
        context=reader.filled(row, reader.context, required=False),
        label=reader.label_map.get(label, label),
        rationales=reader.rationales(row, required=not skip),
    )
    split = reader.cell(row, columns.split, number=True)
    group = reader.cell(row, columns.group, number=True)
    if label in reader.label_map:
        read.mapped[label] += 1
    if not all(text.strip() for text in example.rationales.values()):
        read.without_rationale[split] += 1
        return
    damage.look_at(row.place, example)
    read.rows.append(SplitExample(example, split, group))


def read_split_examples(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
) -> list[SplitExample]:
    """Rows of one source with their split value; see `read_examples`."""
    read = read_source(
        path, columns, rationale_sources=rationale_sources, encoding=encoding, need_targets=need_targets
    )
    return read.rows


def read_examples(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
    label_map: Mapping[str, str] | None = None,
) -> list[Example]:
    """Rows of one source, in order, every cell text exactly as written.

    A cell such as "None", "NA", "01" or "2024-01-02" stays that text; only an empty cell is missing.
    Columns that are not named are not looked at. In JSON, Parquet and tables, a whole number may stand for
    an id, a split or a group, as written; every other named field must be text, for 1 and "1" would be two
    labels.

    Args:
        path: as for `raw_rows`.
        columns: names of the columns; the split and group columns are not looked at.
        rationale_sources: which of columns.rationales every row must have.
        encoding: of the file; a byte-order mark is dropped.
        need_targets: False to predict: label and rationales are not read and a question may be empty.
        label_map: label as written -> label to use; others stay.

    Raises:
        UserError: names file, physical line and field, never the text of the row.
    """
    read = read_source(
        path,
        dataclasses.replace(columns, split=None, group=None),
        rationale_sources=rationale_sources,
        encoding=encoding,
        need_targets=need_targets,
        label_map=label_map,
    )
    return [row.example for row in read.rows]

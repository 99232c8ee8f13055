"""Rows checked against the column names of a run; in: a source of rows, out: Example rows, text exactly as written."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.mentions import fold_white_space, is_blank
from r2d_jax.data.packed_columns import Ids
from r2d_jax.data.reading.cell_checks import (
    FILL_IN,
    FILL_IN_RATIONALE,
    Damage,
    Tables,
    require_columns,
    text_of,
)
from r2d_jax.data.reading.files import address_of
from r2d_jax.data.reading.raw_rows import Number, Row, RowCallback, kind_of, raw_rows, shown
from r2d_jax.data.reading.templates import Template, parse_template
from r2d_jax.data.row_store import kept
from r2d_jax.data.schema import Example
from r2d_jax.data.subgroups import MAX_GROUPS, MISSING, group_of
from r2d_jax.errors import UserError

# So many rows tell whether the header is one.
_ROWS_OF_A_HEADER = 1000

MissingRationales = Literal["error", "skip", "keep"]
"""What becomes of a row that lacks a rationale: an error, left out, or kept with "" in its place; both count it."""


class SplitExample(NamedTuple):
    """An Example, and what its split column says; "" where there is none."""

    example: Example
    split: str


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
    missing_rationales: MissingRationales = "error"
    need_subgroups: bool = True
    need_group: bool = True

    def wanted(self) -> Iterator[str]:
        yield from self.question.columns
        yield from self.context.columns if self.context else ()
        yield from filter(None, (self.columns.id, self.columns.split))
        if self.need_group and self.columns.group:
            yield self.columns.group
        if self.need_targets:
            yield self.columns.label
            yield from (self.columns.rationales[name] for name in self.sources)
            yield from self.columns.subgroups.values() if self.need_subgroups else ()

    def cell(self, row: Row, column: str | None, *, required: bool = True, number: bool = False) -> str:
        return text_of(self.path, row, column, required=required, number=number) if column else ""

    def asked(self, row: Row) -> str:
        names = self.question.columns
        cells = {name: self.cell(row, name, required=self.need_targets) for name in names}
        return self.question.fill_unless_blank(cells)

    def told(self, row: Row) -> str:
        if self.context is None:
            return ""
        return self.context.fill(
            {name: self.cell(row, name, required=False) for name in self.context.columns}
        )

    def group(self, row: Row) -> str:
        column = self.columns.group
        if not column:
            return ""
        where, value = f"{self.path} {row.place}, field {column!r}", row.cells.get(column)
        if isinstance(value, Number) and (kind := kind_of(value)) != "int":
            # 12 and 12.0 would be two patients.
            raise UserError(where, f"is {kind}, not a whole number", "Write it as a whole number or as text.")
        # As of subgroups: a blank too many must not part the rows of one patient.
        text = fold_white_space(self.cell(row, column, required=self.need_group, number=True))
        if not text and self.need_group:
            raise UserError(where, "is empty", FILL_IN)
        return text

    def rationales(self, row: Row) -> dict[str, str]:
        required = self.missing_rationales == "error"
        columns = {
            name: self.columns.rationales[name] for name in (self.sources if self.need_targets else ())
        }
        texts = {
            name: text_of(self.path, row, column, required=required, fix_empty=FILL_IN_RATIONALE)
            for name, column in columns.items()
        }
        return {name: "" if is_blank(text) else text for name, text in texts.items()}

    def subgroups(self, row: Row) -> dict[str, str]:
        columns = self.columns.subgroups if self.need_targets else {}
        edges = self.columns.subgroup_edges
        return {name: group_of(self.path, row, column, edges.get(name)) for name, column in columns.items()}

    def label(self, row: Row) -> str:
        return self.cell(row, self.columns.label) if self.need_targets else ""


class SourceRows:
    """The rows of one source as a stream, and what became of the others.

    Iterate once, to the end: only then are all faults told and the counts complete. Beside the rows themselves
    it holds 24 bytes a row and the name of its place, and only where ids come from a column.

    Attributes:
        without_rationale: rows that lack a rationale, left out or kept, by value of the split column.
        mapped: rows whose label data.label_map changed, by the label as written.
    """

    def __init__(self, reader: _Reader, rows: Iterator[Row]):
        """Prepare to read; see `read_source`."""
        self._reader, self._rows = reader, rows
        self._damage = Damage(reader.path)
        self._ids = Ids()
        self._groups: dict[str, set[str]] = collections.defaultdict(set)
        self.without_rationale: collections.Counter[str] = collections.Counter()
        self.mapped: collections.Counter[str] = collections.Counter()

    def __iter__(self) -> Iterator[SplitExample]:
        """Rows in order.

        Raises:
            UserError: at the end, for the first row that is at fault; the rows before it came already.
        """
        path, wanted = self._reader.path, list(self._reader.wanted())
        found: dict[str, None] = {}
        tables = Tables(path, wanted)
        fault: UserError | None = None
        empty, no_header = True, False
        for number, row in enumerate(self._rows):
            if not row.cells.keys() <= found.keys():
                found |= dict.fromkeys(row.cells)
            tables.look_at(row)
            # A column that no row has is a wrong name, not a fault of the first row: look at the rest to tell.
            if fault is None:
                try:
                    read = self._read(row)
                except UserError as error:
                    fault = error
                else:
                    empty = False
                    if read is not None:
                        yield read
            if number < _ROWS_OF_A_HEADER:
                # A name that is a value of its own column, too, is hardly a name.
                no_header |= any(name and name == cell for name, cell in row.cells.items())
        if empty and fault is None:
            raise UserError(path, "holds no rows", "Give a file with rows.")
        require_columns(path, list(found), wanted, data=no_header)
        tables.require_columns()
        if repeated := self._ids.repeated():
            raise UserError(
                f"{path} {repeated[0]}", f"has the id of {repeated[1]}", "Give every row an id of its own."
            )
        if fault is not None:
            raise fault
        self._damage.warn()

    def _read(self, row: Row) -> SplitExample | None:
        reader, columns = self._reader, self._reader.columns
        row_id = reader.cell(row, columns.id, number=True)
        if row_id:
            self._ids.append(row_id, row.place)
        label = reader.label(row)
        example = Example(
            row_id=row_id or row.place,
            question=reader.asked(row),
            context=reader.told(row),
            label=reader.label_map.get(label, label),
            rationales=reader.rationales(row),
            subgroups=reader.subgroups(row),
            group=reader.group(row),
        )
        self._count_groups(example.subgroups)
        split = reader.cell(row, columns.split, number=True)
        if label in reader.label_map:
            self.mapped[label] += 1
        if example.lacks_rationale:
            self.without_rationale[split] += 1
            if reader.missing_rationales == "skip":
                return None
        self._damage.look_at(row.place, example)
        return SplitExample(example, split)

    def _count_groups(self, subgroups: Mapping[str, str]) -> None:
        for name, value in subgroups.items():
            seen = self._groups[name]
            seen.add(value)
            if len(seen - {MISSING}) > MAX_GROUPS:
                raise UserError(
                    f"{self._reader.path}, field {self._reader.columns.subgroups[name]!r}",
                    f"has more than {MAX_GROUPS} different values, so it is not a subgroup",
                    f"Name another column in data.columns.subgroups.{name}, or for a number set "
                    f"data.columns.subgroup_edges.{name}.",
                )


def read_source(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
    missing_rationales: MissingRationales = "error",
    label_map: Mapping[str, str] | None = None,
    progress: RowCallback | None = None,
    need_subgroups: bool = True,
    need_group: bool = True,
) -> SourceRows:
    """Rows of one source with their split and group, as a stream; see `read_examples`.

    Args:
        path: as for `raw_rows`.
        columns: names of the columns; question and context may be templates.
        rationale_sources: which of columns.rationales are read.
        encoding: of text files.
        need_targets: False to predict.
        missing_rationales: what becomes of a row where one of these is missing, null or blank.
        label_map: label as written -> label to use.
        progress: see `raw_rows`.
        need_subgroups: False: a subgroup whose column no row has is missing in all of them; else that is an error.
        need_group: False: a row may be of no group, and the column be missing.

    Raises:
        UserError: here for settings and what cannot be opened; from the stream for rows. Names file, place
            and field, never the text of the row.
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
        missing_rationales,
        need_subgroups,
        need_group,
    )
    return SourceRows(reader, raw_rows(path, encoding, progress))


def read_examples(
    path: str | pathlib.Path,
    columns: ColumnsConfig,
    *,
    rationale_sources: Sequence[str],
    encoding: str = "utf-8",
    need_targets: bool = True,
    missing_rationales: MissingRationales = "error",
    label_map: Mapping[str, str] | None = None,
    progress: RowCallback | None = None,
    need_subgroups: bool = True,
) -> Sequence[Example]:
    """Rows of one source, in order, every cell text exactly as written; many rows are kept on disk.

    A cell such as "None", "NA", "01" or "2024-01-02" stays that text; only an empty cell is missing.
    Columns that are not named are not looked at. In JSON, Parquet and tables, a whole number may stand for
    an id, a split or a group, as written, and any number or truth value for a subgroup; every other named field
    must be text, for 1 and "1" would be two labels.

    Args:
        path: as for `raw_rows`.
        columns: names of the columns; that of the split is not looked at, that of the group only beside a label, if it
            is there.
        rationale_sources: which of columns.rationales are read.
        encoding: of the file; a byte-order mark is dropped.
        need_targets: False to predict: label and rationales are not read and a question may be empty.
        missing_rationales: see `read_source`.
        label_map: label as written -> label to use; others stay.
        progress: see `raw_rows`.
        need_subgroups: see `read_source`.

    Raises:
        UserError: names file, physical line and field, never the text of the row.
    """
    read = read_source(
        path,
        dataclasses.replace(columns, split=None, group=columns.group if need_targets else None),
        rationale_sources=rationale_sources,
        encoding=encoding,
        need_targets=need_targets,
        missing_rationales=missing_rationales,
        label_map=label_map,
        progress=progress,
        need_subgroups=need_subgroups,
        need_group=False,
    )
    return kept(row.example for row in read)

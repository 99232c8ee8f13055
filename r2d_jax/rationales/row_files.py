"""Labelled rows with all that came with them; in: a file or a run, out: RowFile, and JSONL files of such rows."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r2d_jax.data.reading.cell_checks import whole_text
from r2d_jax.data.reading.cells import columns_told
from r2d_jax.data.reading.raw_rows import Number, Row, Typed, kind_of, raw_rows, shown
from r2d_jax.data.schema import Example
from r2d_jax.data.sources import read_examples
from r2d_jax.errors import UserError
from r2d_jax.evaluation.labelled_rows import form_of_file, require_rows, rows_of_run
from r2d_jax.runtime.files import LINE_ENDS, whole_file

SPLITS = ("train", "validation", "test", "all")


@dataclasses.dataclass(frozen=True)
class RowFile:
    """Labelled rows.

    Attributes:
        rows: place and all cells of each row, as they came.
        examples: the same rows, checked.
        labels: label set of the model, else all labels of the rows, sorted.
        rationale_column: the column that holds rationales where the user names no other.
    """

    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    rationale_column: str

    def first(self, max_rows: int | None) -> "RowFile":
        """The first rows, with the labels of all."""
        return dataclasses.replace(self, rows=self.rows[:max_rows], examples=self.examples[:max_rows])

    def rationales(self, column: str) -> list[str]:
        """The texts of a column, "" where a row has none.

        Raises:
            UserError: no row has the column, or a cell of it is no text.
        """
        if not any(column in row.cells for row in self.rows):
            names = dict.fromkeys(name for row in self.rows for name in row.cells)
            raise UserError(
                "--rationale-column", f"no column {column!r}; {columns_told(list(names))}", "Name one."
            )
        return [_text(row, column) for row in self.rows]

    def require_new(self, *columns: str) -> None:
        """Refuse to write over columns of the input.

        Raises:
            UserError: a row has one of them, or a name is empty.
        """
        for column in columns:
            if not column.strip():
                raise UserError("--column", "is empty", "Name the new column.")
            if any(column in row.cells for row in self.rows):
                raise UserError("--column", f"{column!r} is there already", "Choose another --column.")

    def require_writable(self) -> None:
        """Refuse cells that `write_rows` could not write, before anything is paid for.

        Raises:
            UserError: a cell has a type that JSON lacks, or is nested too deeply.
        """
        for row in self.rows:
            for name, cell in row.cells.items():
                _json(cell, f"{row.place}, field {shown([name])}")


def _text(row: Row, column: str) -> str:
    value = row.cells.get(column)
    where = f"{row.place}, field {column!r}"
    if value is None:
        return ""
    if not isinstance(value, str) or isinstance(value, Number):
        raise UserError(where, f"is {kind_of(value)}, not text", 'Write it in quotes, for example "1".')
    return whole_text(where, value)


def read_row_file(
    model: pathlib.Path | None,
    input_file: pathlib.Path | None,
    *,
    split: str,
    columns: Mapping[str, str | None],
    encoding: str = "utf-8",
) -> RowFile:
    """Rows of a file, or of a run.

    The rows of a run get the columns id, split, question, context, label and one for its rationales.

    Args:
        model: a run's workdir, or with a file any model folder (column names and label set).
        input_file: as for `raw_rows`; None: the rows of the run.
        split: train, validation, test or all; for a run without a file.
        columns: names of question, context, label and id that differ; None where they do not.
        encoding: of the file.

    Raises:
        UserError: neither is given, or a fault of the file or folder.
    """
    require_rows(model, input_file, columns, encoding)
    if input_file is None:
        assert model is not None
        return _rows_of_run(model, split)
    form = form_of_file(model, columns)
    examples = read_examples(
        input_file, form.columns, rationale_sources=(), encoding=encoding, label_map=form.label_map
    )
    # The same reader in the same order; it refuses what it cannot read, so no row is ever left out.
    rows = tuple(raw_rows(input_file, encoding))
    assert len(rows) == len(examples)
    column = "rationale" if form.source is None else form.columns.rationales[form.source]
    found = form.labels or tuple(sorted({example.label for example in examples}))
    return RowFile(rows, tuple(examples), found, column)


def _rows_of_run(model: pathlib.Path, split: str) -> RowFile:
    if split not in SPLITS:
        raise UserError("--split", f"{split!r} is not known", f"Use {', '.join(SPLITS)}.")
    run = rows_of_run(model)
    column = "rationale" if run.source in (None, "default") else f"rationale_{run.source}"
    rows, examples = [], []
    for name in SPLITS[:-1] if split == "all" else (split,):
        for example in getattr(run.splits, name):
            cells = {"id": example.row_id, "split": name, "question": example.question}
            cells |= {"context": example.context} if example.context else {}
            cells |= {"label": example.label}
            if run.source is not None:
                cells[column] = example.rationales[run.source]
            rows.append(Row(f"{name} {example.row_id}", cells))
            examples.append(example)
    return RowFile(tuple(rows), tuple(examples), run.labels, column)


def write_rows(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write cells as JSONL, whole or not at all: text exactly as it came, numbers in their written form.

    Raises:
        UserError: the place cannot be written to, or a cell has a type that JSON lacks (Parquet dates) or is
            nested too deeply.
    """
    with whole_file(path) as file:
        for number, cells in enumerate(rows, start=1):
            file.write(row_text(cells, f"row {number}") + "\n")


def row_text(cells: Mapping[str, Any], where: str) -> str:
    """The line of a row, as `write_rows` writes it.

    Raises:
        UserError: as there; `where` names the row.
    """
    return _json(cells, where, -1)


def _json(value: Any, where: str, depth: int = 0) -> str:
    if depth > _DEEPEST:
        raise UserError(where, f"is nested more than {_DEEPEST} deep", _LEAVE_OUT)
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        cells = (f"{_json(name, where)}: {_json(cell, where, depth + 1)}" for name, cell in value.items())
        return "{" + ", ".join(cells) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_json(cell, where, depth + 1) for cell in value) + "]"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return json.dumps(value)
        # Some readers end a line at these; written as escapes they are safe and mean the same.
        return json.dumps(value, ensure_ascii=False).translate(LINE_ENDS)
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Typed) and value.written not in _NO_JSON:
        return value.written
    what = f"{value.written} ({value.name})" if isinstance(value, Typed) and value.written else kind_of(value)
    raise UserError(where, f"is {what}, which JSON lacks", _LEAVE_OUT)


# Far below where Python gives up, at whatever depth it is called.
_DEEPEST = 100
_LEAVE_OUT = "Leave that column out."
_NO_JSON = ("", "nan", "inf", "-inf")

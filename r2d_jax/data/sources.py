"""Files of rows, read as text exactly as written; in: JSONL, JSON, CSV or TSV, out: checked Example rows."""

import csv
import difflib
import io
import json
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError

FORMATS = (".jsonl", ".json", ".csv", ".tsv")


class Row(NamedTuple):
    """One raw row: physical line of its first character, and its cells."""

    line: int
    cells: Mapping[str, Any]


def read_text(path: pathlib.Path, encoding: str = "utf-8") -> str:
    """The whole text of a file, without a byte-order mark.

    Raises:
        UserError: missing, a folder, empty, or not in this encoding (names line and byte).
    """
    if not path.exists():
        raise UserError(str(path), "no such file", "Check the path.")
    if path.is_dir():
        raise UserError(str(path), "is a folder, not a file", "Name the file itself.")
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            str(path), f"{path.suffix or 'no ending'} is not a known format", f"Use {', '.join(FORMATS)}."
        )
    data = path.read_bytes()
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} line {line}",
            f"byte {error.start} is not {encoding}",
            "Save the file as UTF-8, or set data.encoding (for example latin-1).",
        ) from error
    except LookupError as error:
        raise UserError("data.encoding", f"{encoding!r} is not known", "Use utf-8.") from error
    if not text.strip():
        raise UserError(str(path), "is empty", "Give a file with rows.")
    if "\ufffd" in text:
        line = text[: text.index("\ufffd")].count("\n") + 1
        warnings.warn(
            f"{path} line {line}: {text.count(chr(0xFFFD))} replacement characters (U+FFFD) in the file; "
            "the text was damaged before it came here",
            stacklevel=2,
        )
    return text


def raw_rows(path: pathlib.Path, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of a file in order.

    Raises:
        UserError: a row that is broken; names file and physical line, never the text.
    """
    text = read_text(path, encoding)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _jsonl_rows(path, text)
    if suffix == ".json":
        return _json_rows(path, text)
    return _csv_rows(path, text, "\t" if suffix == ".tsv" else ",")


def _parse_json(where: str, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} line {first_line + error.lineno - 1}", f"is not JSON ({error.msg})", "Mend this row."
        ) from error


def _jsonl_rows(path: pathlib.Path, text: str) -> Iterator[Row]:
    # Only \n ends a row: U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        value = _parse_json(str(path), line, number)
        if not isinstance(value, dict):
            raise UserError(
                f"{path} line {number}",
                f"is a JSON {type(value).__name__}, not an object",
                "Write one {...} a line.",
            )
        yield Row(number, value)


def _json_rows(path: pathlib.Path, text: str) -> Iterator[Row]:
    rows = _parse_json(str(path), text, 1)
    if not isinstance(rows, list):
        raise UserError(
            str(path), "is no JSON array", "Write [{...}, {...}], or one object a line as .jsonl."
        )
    for number, value in enumerate(rows, start=1):
        if not isinstance(value, dict):
            raise UserError(
                f"{path} element {number}", f"is a {type(value).__name__}, not an object", "Mend this row."
            )
        yield Row(number, value)


def _csv_rows(path: pathlib.Path, text: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader)
        twice = {name for name in header if header.count(name) > 1}
        if twice:
            raise UserError(
                f"{path} line 1", f"column {sorted(twice)[0]!r} stands twice", "Rename one of them."
            )
        before = reader.line_num
        for record, cells in enumerate(reader, start=1):
            line, before = before + 1, reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path} line {line} (record {record})",
                    f"has {len(cells)} cells, the header {len(header)}",
                    "Quote cells that hold the delimiter or a line break.",
                )
            yield Row(line, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{path} line {reader.line_num}", f"broken quoting ({error})", "Mend this row."
        ) from error


def _require_columns(path: pathlib.Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UserError(
                str(path),
                f"no column {name!r}; columns found: {', '.join(map(repr, found))}",
                f"{hint}Name it under data.columns.",
            )


def _text(path: pathlib.Path, row: Row, column: str, *, required: bool) -> str:
    value = row.cells.get(column, "")
    where = f"{path} line {row.line}, field {column!r}"
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise UserError(where, f"is {kind}, not text", 'Write it in quotes, for example "1".')
    if required and not value.strip():
        raise UserError(where, "is empty", "Fill it in, or remove the row.")
    return value


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
    rows = list(raw_rows(path, encoding))
    if not rows:
        raise UserError(str(path), "holds no rows", "Give a file with rows.")
    targets = [columns.label, *(columns.rationales[name] for name in rationale_sources)]
    wanted = [
        columns.question,
        *filter(None, (columns.context, columns.id, columns.split if need_targets else None)),
    ]
    found = list(dict.fromkeys(name for row in rows for name in row.cells))
    _require_columns(path, found, [*wanted, *(targets if need_targets else [])])
    examples, seen = [], dict[str, int]()
    for row in rows:
        row_id = _text(path, row, columns.id, required=True) if columns.id else f"line {row.line}"
        if row_id in seen:
            raise UserError(
                f"{path} line {row.line}",
                f"has the id of line {seen[row_id]}",
                "Give every row an id of its own.",
            )
        seen[row_id] = row.line
        examples.append(
            SplitExample(
                Example(
                    row_id=row_id,
                    question=_text(path, row, columns.question, required=need_targets),
                    context=_text(path, row, columns.context, required=False) if columns.context else "",
                    label=_text(path, row, columns.label, required=True) if need_targets else "",
                    rationales={
                        name: _text(path, row, columns.rationales[name], required=True)
                        for name in rationale_sources
                        if need_targets
                    },
                ),
                _text(path, row, columns.split, required=True) if columns.split and need_targets else "",
            )
        )
    return examples


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
    Columns that are not named are not looked at.

    Args:
        path: .jsonl, .json (an array), .csv or .tsv.
        columns: names of the columns.
        rationale_sources: which of columns.rationales every row must have.
        encoding: of the file; a byte-order mark is dropped.
        need_targets: False to predict: label and rationales are not read and a question may be empty.

    Raises:
        UserError: names file, physical line and field, never the text of the row.
    """
    rows = read_split_examples(
        path, columns, rationale_sources=rationale_sources, encoding=encoding, need_targets=need_targets
    )
    return [row.example for row in rows]

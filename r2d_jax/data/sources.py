"""Files of rows, read as text exactly as written; in: JSONL, JSON, CSV or TSV, out: checked Example rows."""

import codecs
import csv
import difflib
import io
import json
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError

FORMATS = (".jsonl", ".json", ".csv", ".tsv")
_SHOWN_NAMES, _SHOWN_LENGTH = 30, 40


class Row(NamedTuple):
    """One raw row: where it stands ("line 7", or "element 2" of a JSON array), and its cells."""

    place: str
    cells: Mapping[str, Any]


class _Number(str):
    """A JSON number in its written form, so that a long id neither overflows nor is rounded."""


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys stand twice."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.twice = {name for name in names if names.count(name) > 1} if len(self) < len(names) else set()


def shown(names: Iterable[str]) -> str:
    """Names for a message, long ones only by their length: in a file without a header they are case text."""
    names = list(names)
    texts = [
        repr(name) if len(name) <= _SHOWN_LENGTH else f"({len(name)} characters)"
        for name in names[:_SHOWN_NAMES]
    ]
    more = len(names) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror})", "Check its permissions.") from error
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raise UserError(
            f"{path} line {line}",
            f"byte {error.start} is not {encoding}",
            f"Save the file as UTF-8, or set data.encoding (for example {'utf-16' if utf16 else 'latin-1'}).",
        ) from error
    except LookupError as error:
        raise UserError("data.encoding", f"{encoding!r} is not known", "Use utf-8.") from error
    if not text.strip():
        raise UserError(str(path), "is empty", "Give a file with rows.")
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


def _parse_json(where: str, text: str, first_line: int, fix: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Object, parse_int=_Number, parse_float=_Number)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{where} line {line}", f"is not JSON ({error.msg})", fix) from error
    except RecursionError as error:
        raise UserError(f"{where} line {first_line}", "is nested too deeply", "Mend this row.") from error


def _object_row(path: pathlib.Path, place: str, value: Any) -> Row:
    if not isinstance(value, _Object):
        raise UserError(
            f"{path} {place}",
            f"is {_kind(value)}, not an object",
            "Write {...} with the column names as keys.",
        )
    if value.twice:
        raise UserError(f"{path} {place}", f"key {shown(sorted(value.twice))} stands twice", "Mend this row.")
    return Row(place, value)


def _jsonl_rows(path: pathlib.Path, text: str) -> Iterator[Row]:
    # Only \n ends a row: U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            fix = "Write one object a line; a JSON array belongs in a .json file."
            yield _object_row(path, f"line {number}", _parse_json(str(path), line, number, fix))


def _json_rows(path: pathlib.Path, text: str) -> Iterator[Row]:
    fix = "Write [{...}, {...}], or one object a line as .jsonl."
    rows = _parse_json(str(path), text, 1, fix)
    if not isinstance(rows, list):
        raise UserError(str(path), "is no JSON array", fix)
    for number, value in enumerate(rows, start=1):
        yield _object_row(path, f"element {number}", value)


def _csv_rows(path: pathlib.Path, text: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    record, line = 0, 1
    try:
        for cells in reader:
            start, line = line, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = cells
                # Spreadsheets write unnamed columns at the end; nobody can ask for those.
                twice = sorted({name for name in header if name and header.count(name) > 1})
                if twice:
                    raise UserError(
                        f"{path} line {start}", f"column {shown(twice)} stands twice", "Rename one of them."
                    )
                continue
            record += 1
            if len(cells) != len(header):
                raise UserError(
                    f"{path} line {start} (record {record})",
                    f"has {len(cells)} cells, the header {len(header)}",
                    "Quote cells that hold the delimiter or a line break.",
                )
            yield Row(f"line {start}", dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(
            f"{path} line {line} (record {record + 1})", f"broken quoting ({error})", "Mend this row."
        ) from error


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


_KINDS = {_Number: "a number", bool: "true or false", type(None): "null", list: "a list", str: "text"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "an object")


def _text(path: pathlib.Path, row: Row, column: str, *, required: bool, number: bool = False) -> str:
    value = row.cells.get(column)
    where = f"{path} {row.place}, field {column!r}"
    if value is None and not required:
        return ""
    if column not in row.cells:
        raise UserError(where, "is missing", "Fill it in, or remove the row.")
    if not isinstance(value, str) or (isinstance(value, _Number) and not number):
        raise UserError(where, f"is {_kind(value)}, not text", 'Write it in quotes, for example "1".')
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
    wanted = [columns.question, *filter(None, (columns.context, columns.id))]
    if need_targets:
        wanted += [*filter(None, (columns.split,)), columns.label]
        wanted += [columns.rationales[name] for name in rationale_sources]
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
        has_split = columns.split and need_targets
        split = _text(path, row, columns.split, required=True, number=True) if has_split else ""
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

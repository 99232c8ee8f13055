"""Raw rows of a file, nothing guessed; in: JSONL, JSON, CSV or TSV, out: text cells by column with their place."""

import codecs
import csv
import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from r2d_jax.errors import UserError

FORMATS = (".jsonl", ".json", ".csv", ".tsv")
_SHOWN_NAMES, _SHOWN_LENGTH = 30, 40


class Row(NamedTuple):
    """One raw row: where it stands ("line 7", or "element 2" of a JSON array), and its cells."""

    place: str
    cells: Mapping[str, Any]


class Number(str):
    """A JSON number in its written form, so that a long id neither overflows nor is rounded."""


def kind_of(value: Any) -> str:
    """What a JSON value is, for a message: int, float, bool, null, list, object or text."""
    if isinstance(value, Number):
        return "float" if set(value) & set(".eE") else "int"
    return {bool: "bool", type(None): "null", list: "list", str: "text"}.get(type(value), "object")


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
        return json.loads(text, object_pairs_hook=_Object, parse_int=Number, parse_float=Number)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{where} line {line}", f"is not JSON ({error.msg})", fix) from error
    except RecursionError as error:
        raise UserError(f"{where} line {first_line}", "is nested too deeply", "Mend this row.") from error


def _object_row(path: pathlib.Path, place: str, value: Any) -> Row:
    if not isinstance(value, _Object):
        raise UserError(
            f"{path} {place}",
            f"is a JSON {kind_of(value)}, not an object",
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

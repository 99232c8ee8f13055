"""Rows of an uploaded file; in: its bytes and the names of its columns, out: notes with their ids, or what is wrong."""

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.reading.cell_checks import text_of
from r2d_jax.data.reading.cells import Row
from r2d_jax.data.reading.csv_rows import csv_rows
from r2d_jax.data.reading.files import Part
from r2d_jax.data.reading.json_rows import jsonl_rows
from r2d_jax.data.reading.templates import Template, parse_template
from r2d_jax.errors import UserError
from r2d_jax.serve.answers import note_text
from r2d_jax.serve.limits import Limits, Refused

Format = Literal["csv", "tsv", "jsonl"]
_FILE = "upload"


class UploadedRow(NamedTuple):
    """One row: its id, or where it stands, and its note; `fault` says why it gets no answer, "" where it does."""

    row_id: str
    text: str
    fault: str = ""


def read_upload(data: bytes, form: Format, columns: ColumnsConfig, limits: Limits) -> list[UploadedRow]:
    """All rows in order; a row without a question, or with too long a note, stays in place with its fault.

    Args:
        data: the file, UTF-8.
        form: csv and tsv have a header.
        columns: names of question, context and id; the others are not looked at.
        limits: of rows, and of characters per note.

    Raises:
        Refused: 413 for too many rows, 422 for a file that cannot be read. Names line and field; of the
            file's own words only the column names that were asked for.
    """
    question = _template(columns.question, "question")
    context = _template(columns.context, "context") if columns.context else None
    found: list[UploadedRow] = []
    ids: set[str] = set()
    missing = {
        *question.columns,
        *(context.columns if context else ()),
        *([columns.id] if columns.id else []),
    }
    try:
        for row in _raw_rows(data, form):
            if len(found) == limits.upload_rows:
                raise Refused(413, "rows", f"The file has more than {limits.upload_rows} rows.")
            missing -= row.cells.keys()
            found.append(_uploaded(row, question, context, columns.id, limits))
            if columns.id and found[-1].row_id in ids:
                raise Refused(422, "file", f"upload {row.place}: has the id of an earlier row.")
            ids.add(found[-1].row_id)
    except UserError as error:
        raise Refused(422, "file", _told(error)) from None
    if missing or not found:
        names = ", ".join(sorted(map(repr, missing)))
        what = f"no row has the column {names}; name your columns" if found else "holds no rows"
        raise Refused(422, "file", f"{_FILE}: {what}.")
    return found


def _template(text: str, field: str) -> Template:
    try:
        return parse_template(text, field)
    except UserError as error:
        raise Refused(422, "file", f"{field}_column: {error.fix}") from None


def _raw_rows(data: bytes, form: Format) -> Iterator[Row]:
    @contextlib.contextmanager
    def opened() -> Iterator[IO[bytes]]:
        yield io.BytesIO(data)

    part = Part(_FILE, "", f".{form}", opened)
    return jsonl_rows(part, "utf-8") if form == "jsonl" else csv_rows(part, "utf-8")


def _uploaded(
    row: Row, question: Template, context: Template | None, id_column: str | None, limits: Limits
) -> UploadedRow:
    def cells_of(template: Template) -> dict[str, str]:
        return {name: text_of(_FILE, row, name, required=False) for name in template.columns}

    row_id = text_of(_FILE, row, id_column, required=True, number=True) if id_column else row.place
    asked = question.fill_unless_blank(cells_of(question))
    text = note_text(asked, context.fill(cells_of(context)) if context else "")
    if is_blank(asked):
        return UploadedRow(row_id, "", "empty question")
    if len(text) > limits.note_characters:
        return UploadedRow(row_id, "", f"longer than {limits.note_characters} characters")
    return UploadedRow(row_id, text)


def _told(error: UserError) -> str:
    # Its words about a header may quote cells: in a file without one, the first row.
    if "appears twice" in error.what:
        return f"{error.where}: a column or key appears twice."
    return f"{error.where}: {error.what}."

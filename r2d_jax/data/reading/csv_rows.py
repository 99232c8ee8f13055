"""Rows of CSV and TSV files as a stream; in: a file with a header, out: Row by Row, every cell text."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from r2d_jax.data.reading.cells import Row, delimiter_hint, repeated
from r2d_jax.data.reading.files import Part
from r2d_jax.data.reading.text_stream import lines, nothing_in, open_text
from r2d_jax.errors import UserError

_BREAK = re.compile("\r\n|\r|\n")


class _Ends:
    """Hands lines on, and keeps the first and last of a record, which tell whether all of it is quoted."""

    def __init__(self, found: Iterable[str]):
        self._found = found
        self._first: str | None = None
        self._last = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._found:
            self._first = line if self._first is None else self._first
            self._last = line
            yield line

    def quoted(self) -> bool:
        return (self._first or "").startswith('"') and self._last.rstrip("\r\n").endswith('"')

    def begin(self) -> None:
        self._first = None


def csv_rows(part: Part, encoding: str) -> Iterator[Row]:
    """Records below the header, as RFC 4180 has them; blank lines are skipped, cells are never trimmed.

    Raises:
        UserError: a column name appears twice, a row has more or fewer cells or repeats the header, broken quoting, a
            cell that looks like several rows.
    """
    csv.field_size_limit(2**31 - 1)
    header: list[str] = []
    record, line = 0, 1
    with open_text(part, encoding, newline="") as text:
        delimiter = "\t" if part.format == ".tsv" else ","
        ends = _Ends(lines(text))
        reader = csv.reader(ends, delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                start, line = line, reader.line_num + 1
                # Of a record of one line nobody asks.
                cut_open = line > start + 1 and not ends.quoted()
                ends.begin()
                if not cells:
                    continue
                if not header:
                    header = cells
                    # Spreadsheets write unnamed columns at the end; nobody can ask for those.
                    if twice := repeated(header):
                        # By number, for in a file without a header the name is a cell.
                        places = [number for number, name in enumerate(header, start=1) if name == twice[0]]
                        raise UserError(
                            f"{part.path} line {start}",
                            f"the name of column {places[0]} is that of column {places[1]}, too",
                            "Rename one of them; where this line is data, write the names above it.",
                        )
                    continue
                if _repeats(cells, header):
                    raise UserError(
                        f"{part.path} line {start}",
                        "repeats the header, as where files were joined",
                        "Remove this line; where the first line is data, write the names of the columns above it.",
                    )
                record += 1
                if len(cells) != len(header):
                    raise UserError(
                        f"{part.path} line {start} (record {record})",
                        f"has {len(cells)} cells, the header {len(header)}",
                        delimiter_hint(header) or "Quote cells that hold the delimiter or a line break.",
                    )
                if cut_open and (merged := _merged_rows(cells, delimiter)):
                    raise UserError(
                        f"{part.path} line {start} (record {record})",
                        f"looks like {merged} rows in one quoted cell",
                        "Double the quotes inside cells, or quote every cell.",
                    )
                yield Row(f"{part.name}line {start}", dict(zip(header, cells, strict=True)), part.path)
        except csv.Error as error:
            raise UserError(
                f"{part.path} line {line} (record {record + 1})",
                f"broken quoting ({error})",
                "Fix this row.",
            ) from error
    if not record and not "".join(header).strip():
        raise nothing_in(part)


def _repeats(cells: list[str], header: list[str]) -> bool:
    """Whether these cells are the header again; a file that was joined to another may bring a byte-order mark along."""
    if cells[1:] != header[1:] or not any(name.strip() for name in header):
        return False
    first = cells[0].removeprefix("\ufeff")
    # Behind the mark, quotes are part of the cell.
    return first == header[0] or (first != cells[0] and first == f'"{header[0]}"')


def _merged_rows(cells: Sequence[str], delimiter: str) -> int:
    """How many rows one of these cells seems to hold; 0 where none does.

    A quote that begins a cell, and one that ends a cell of the same column further down, make one cell of all that is
    between, and the record has as many cells as the header. Its lines then are the rest of a row, whole rows, and the
    start of a row; and its delimiters are those of cells, not the commas of prose, which a blank follows.
    """
    whole = len(cells) - 1
    for column, cell in enumerate(cells):
        first, *others = _BREAK.split(cell)
        # A table of one column has no delimiters that could tell.
        if not others or not whole:
            continue
        rows = [line for line in others[:-1] if line]
        parts = [first, *rows, others[-1]]
        wanted = [whole - column, *(whole for _ in rows), column]
        if [part.count(delimiter) for part in parts] == wanted and not re.search(f"{delimiter} ", cell):
            return len(parts)
    return 0

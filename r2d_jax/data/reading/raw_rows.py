"""Raw rows of any source as a stream, nothing guessed; in: a path or address, out: cells by column and their place."""

import pathlib
from collections.abc import Callable, Iterator, Mapping

from r2d_jax.data.reading.arrow_rows import parquet_rows
from r2d_jax.data.reading.cells import Number, Row, Typed, kind_of, shown
from r2d_jax.data.reading.csv_rows import csv_rows
from r2d_jax.data.reading.files import FORMATS, Part, address_of, find_parts
from r2d_jax.data.reading.hub_rows import hub_rows, open_hub
from r2d_jax.data.reading.json_rows import json_rows, jsonl_rows
from r2d_jax.data.reading.tfds_rows import open_tfds, tfds_rows
from r2d_jax.errors import UserError

__all__ = ["FORMATS", "Number", "Row", "Typed", "kind_of", "raw_rows", "shown", "splits_within"]

RowCallback = Callable[[int], None]
PROGRESS_ROWS = 10_000


def raw_rows(
    path: str | pathlib.Path, encoding: str = "utf-8", progress: RowCallback | None = None
) -> Iterator[Row]:
    """Rows of a source in order, never held as a whole.

    Args:
        path: a file (.jsonl, .json, .csv, .tsv, each also .gz, .parquet), a pattern of files such as
            "part-*.csv", an address such as gs://bucket/rows.jsonl, hf:NAME[:CONFIG][:SPLIT] or
            tfds:NAME_OR_FOLDER[:SPLIT].
        encoding: of text files.
        progress: called with the number of rows so far, every 10,000 rows and at the end.

    Raises:
        UserError: at once for what cannot be opened; while reading for a row that is broken. Names file
            and physical line, never the text.
    """
    address = address_of(path)
    rows = _of_splits(address) if _has_splits(address) else _of_files(find_parts(address), encoding)
    return rows if progress is None else _counted(rows, progress)


def splits_within(path: str | pathlib.Path) -> tuple[str, ...]:
    """Names of the splits that a Hub or TFDS address without a split holds; () for files and for one split.

    Raises:
        UserError: as `raw_rows`.
    """
    address = address_of(path)
    found = tuple(_open(address)) if _has_splits(address) else ()
    return () if len(found) == 1 and address.endswith(f":{found[0]}") else found


def _has_splits(address: str) -> bool:
    return address.startswith(("hf:", "tfds:"))


def _open(address: str) -> Mapping[str, object]:
    return open_hub(address) if address.startswith("hf:") else open_tfds(address)


def _of_splits(address: str) -> Iterator[Row]:
    found = _open(address)
    if len(found) != 1:
        raise UserError(
            address,
            f"holds the splits {shown(found)}",
            f"Name one, for example {address}:{next(iter(found), 'train')}.",
        )
    ((split, source),) = found.items()
    return (
        hub_rows(address, split, source) if address.startswith("hf:") else tfds_rows(address, split, source)
    )


def _of_files(parts: list[Part], encoding: str) -> Iterator[Row]:
    for part in parts:
        if part.format == ".parquet":
            yield from parquet_rows(part)
        elif part.format == ".jsonl":
            yield from jsonl_rows(part, encoding)
        elif part.format == ".json":
            yield from json_rows(part, encoding)
        else:
            yield from csv_rows(part, encoding)


def _counted(rows: Iterator[Row], progress: RowCallback) -> Iterator[Row]:
    count = 0
    for count, row in enumerate(rows, start=1):
        yield row
        if count % PROGRESS_ROWS == 0:
            progress(count)
    progress(count)

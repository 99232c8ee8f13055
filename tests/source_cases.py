"""Rows written in every format and the refusals of reading them; in: rows, out: files, texts and one-line errors."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.reading.raw_rows import FORMATS
from r2d_jax.data.sources import read_examples
from r2d_jax.errors import UserError

COLUMNS = ColumnsConfig()
SECRET = "Zebedee Quux, 44 y, stabbing pain"
FIELDS = ("question", "label", "rationale")
ALL = [*FORMATS, ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz"]


def row(question="q", label="yes", rationale="r", **more):
    return {"question": question, "label": label, "rationale": rationale, **more}


def as_bytes(rows, suffix):
    """Rows in a format, written by other libraries than those that read them, where there is one."""
    text = io.StringIO(newline="")
    if suffix == ".parquet":
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file)
        return file.getvalue()
    if suffix in (".csv", ".tsv"):
        writer = csv.writer(text, delimiter="\t" if suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([list(rows[0]), *(one.values() for one in rows)])
    elif suffix == ".json":
        json.dump(rows, text, ensure_ascii=False)
    else:
        text.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    return text.getvalue().encode()


def write(path, rows, suffix=None):
    suffix = suffix or "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
    data = as_bytes(rows, suffix.removesuffix(".gz"))
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return path


def read(path, columns=COLUMNS, **options):
    return read_examples(path, columns, rationale_sources=["default"], **options)


def texts(examples):
    return [(one.question, one.label, one.rationales["default"]) for one in examples]


def refusal(path, *parts, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    text = str(caught.value)
    for part in parts:
        assert part in text, (part, text)
    assert "\n" not in text
    assert "Zebedee" not in text
    return text

"""JSON arrays in pieces and Parquet by type: what is kept, and how faults are told."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import FIELDS, SECRET, read, refusal, row, write

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.reading import json_rows
from r2d_jax.data.reading.raw_rows import raw_rows
from r2d_jax.data.sources import read_source
from r2d_jax.errors import UserError

# --- JSON arrays as a stream --------------------------------------------------------------------------

VALUES = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.booleans() | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def cells_of(path):
    return [dict(one.cells) for one in raw_rows(path)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=5),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_an_array_read_in_pieces_is_what_json_reads(tmp_path_factory, rows, piece, ascii_only, indent):
    """Pieces end anywhere: within escapes, numbers, words and keys."""
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_PIECE", piece)
        found = cells_of(path)
    # Oracle: the standard library, with integers kept as their digits.
    assert found == json.loads(path.read_text(encoding="utf-8"), parse_int=str)


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[\n{"a": "x"},\n]', 3, "Expecting value"),
        ('[\n{"a": "x"}\n{"a": "y"}]', 3, "Expecting ',' delimiter"),
        ('[\n{"a": "x"}\n\n', 4, "Expecting ',' delimiter"),
        ('[{"a": "x"}]\n\n[', 3, "Extra data"),
        ('[\n{"a": "x"},\n{"a": "y\tz"}]', 3, "Invalid control character at"),
        ('[\n{"a": "x"},\n{"a": "y', 3, "Unterminated string"),
        ('[\n{"a": tru}]', 2, "Expecting value"),
        ("[\n", 2, "Expecting value"),
    ],
)
def test_b020_broken_arrays_name_the_line(tmp_path, monkeypatch, piece, text, line, reason):
    monkeypatch.setattr(json_rows, "_PIECE", piece)
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        list(raw_rows(path))
    assert f"rows.json line {line}: is not JSON ({reason}" in str(caught.value)


def test_arrays_keep_numbers_as_written_and_see_keys_that_stand_twice(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1.50, "b": 1e5, "c": -0, "d": 12345678901234567890123}]')
    assert cells_of(path) == [{"a": "1.50", "b": "1e5", "c": "-0", "d": "12345678901234567890123"}]
    path.write_text(f'[{{"label": "a", "question": "{SECRET}", "label": "b"}}]')
    refusal(path, "element 1", "key 'label' appears twice")
    path.write_text('[{"question": "a", "label": NaN, "rationale": "r"}]')
    refusal(path, "element 1, field 'label'", "is float")


# --- Parquet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1, 2]), "is int"),
        (pa.array([1.0, None]), "is double"),
        (pa.array([True, False]), "is bool"),
        (pa.array(["2024-01-02", "2024-01-03"]).cast(pa.date32()), "is date32[day]"),
        (pa.array([b"a", b"b"]), "is binary"),
        (pa.array([["a"], ["b"]]), "is list<"),
        (pa.array(["a", None]), "row 2"),
        (pa.array([None, None]), "is null"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_b012_parquet_column_of_another_type_is_named(tmp_path, array, kind):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": [SECRET, "q"], "label": array, "rationale": ["r", "r"]}), path)
    refusal(path, "field 'label'", kind)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_text_of_every_kind(tmp_path, kind):
    path = tmp_path / "rows.parquet"
    label = pa.array(["None", "01", "None"]).cast(kind)
    pq.write_table(pa.table({"question": ["a", "b", "c"], "label": label, "rationale": ["r"] * 3}), path)
    assert [one.label for one in read(path)] == ["None", "01", "None"]


def test_parquet_whole_numbers_are_ids_and_splits_and_nothing_else_is_looked_at(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({name: ["x", "y"] for name in FIELDS} | {
        "id": pa.array([2**63, 7], pa.uint64()), "part": pa.array([0, 1], pa.int8()),
        "score": [0.5, None], "image": [b"\xff", None], "context": pa.array([None, "c"])})  # fmt: skip
    pq.write_table(table, path)
    columns = ColumnsConfig(id="id", split="part", context="context")
    found = read_source(path, columns, rationale_sources=["default"])
    assert [(one.example.row_id, one.split, one.example.context) for one in found] == [
        ("9223372036854775808", "0", ""),
        ("7", "1", "c"),
    ]
    assert read(path)[1].row_id == "row 2"
    refusal(path, "no column 'text'", "'score'", columns=ColumnsConfig(question="text"))
    refusal(path, "row 1, field 'score'", "is double", columns=ColumnsConfig(id="score"))


def test_damaged_parquet_is_told_in_one_line(tmp_path):
    path = write(tmp_path / "rows.parquet", [row(SECRET)] * 9)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    refusal(path, str(path), "is not a whole Parquet file")
    path.write_bytes(b"not parquet at all")
    refusal(path, "is not a whole Parquet file")
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xe9\xe9")]
    )
    pq.write_table(pa.table({"question": ["q"], "label": bad, "rationale": ["r"]}), path)
    refusal(path, "field 'label'", "not UTF-8")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.parquet", [row()])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refusal(path, "'.[parquet]'")

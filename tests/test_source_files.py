"""Files of every format as one stream: patterns, packed and remote files, and bounded memory."""

import gzip
import json
import subprocess
import sys
import tracemalloc
import uuid
import warnings

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import ALL, FIELDS, SECRET, as_bytes, read, refusal, row, texts, write

from r2d_jax.config import ColumnsConfig
from r2d_jax.data.mentions import is_blank
from r2d_jax.data.reading.raw_rows import FORMATS, raw_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: not is_blank(text))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4), st.sampled_from(ALL))
def test_any_text_comes_back_exactly_from_every_format(tmp_path_factory, cells, suffix):
    path = tmp_path_factory.mktemp("any") / f"rows{suffix}"
    write(path, [dict(zip(FIELDS, one, strict=True)) for one in cells], suffix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert texts(read(path)) == cells


GUESSED = ["None", "NA", "null", "nan", "True", "01", "1.0", "1e5", "2024-01-02", "2024-01-02T03:04:05Z"]


@pytest.mark.parametrize("suffix", ALL)
def test_b011_b014_b106_no_format_guesses(tmp_path, suffix):
    words = [*GUESSED, "=1+1", "-2 mmHg", "+3", "@x", "  x "]
    path = write(tmp_path / f"rows{suffix}", [row(word, word, word) for word in words], suffix)
    assert texts(read(path)) == [(word, word, word) for word in words]


def test_files_that_pandas_wrote(tmp_path):
    frame = pd.DataFrame([row(word, word, word) for word in GUESSED], dtype="str")
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.tsv.gz", index=False, sep="\t")
    frame.to_json(tmp_path / "c.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "d.json.gz", orient="records", indent=1)
    frame.to_parquet(tmp_path / "e.parquet")
    frame.astype({"label": "category"}).to_parquet(tmp_path / "f.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert texts(read(path)) == [(word, word, word) for word in GUESSED], path


# --- packed files -------------------------------------------------------------------------------------


def test_packed_file_that_ends_too_soon_is_no_short_file(tmp_path):
    whole = gzip.compress(as_bytes([row(str(index)) for index in range(5000)], ".jsonl"))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole[:-2000])
    refusal(path, "cannot be read to its end")
    # Whole, but not what was packed: its checksum is another.
    path.write_bytes(whole[:-8] + bytes(8))
    refusal(path, "cannot be read to its end")
    path.write_bytes(as_bytes([row()], ".jsonl"))
    refusal(path, "cannot be read to its end", "BadGzipFile")


@pytest.mark.parametrize("name", ["rows.parquet.gz", "rows.txt.gz", "rows.gz", "rows.jsonl.bz2"])
def test_unknown_packed_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    refusal(tmp_path / name, "is not a known format", ".parquet")


def test_faults_in_packed_files_name_the_line(tmp_path):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"question,label,rationale\nq,yes,r\nq\xe9,no,r\n"))
    refusal(path, "line 3", "byte 34 is not utf-8")
    path.write_bytes(gzip.compress(f"question,label,rationale\nq,yes,r\n{SECRET},r\n".encode()))
    refusal(path, "line 3 (record 2)", "4 cells")


# --- patterns -----------------------------------------------------------------------------------------


def test_a_pattern_is_one_source_in_the_order_of_names(tmp_path):
    for number in (2, 0, 1):
        write(tmp_path / "data" / f"part-{number}.jsonl", [row(f"{number}a"), row(f"{number}b")])
    write(tmp_path / "data" / "part-3.csv", [row("3a")])
    (tmp_path / "data" / "notes.txt").write_text("no rows")
    examples = read(str(tmp_path / "data" / "part-*"))
    assert [one.question for one in examples] == ["0a", "0b", "1a", "1b", "2a", "2b", "3a"]
    assert examples[3].row_id == "part-1.jsonl line 2"
    assert examples[6].row_id == "part-3.csv line 2"


def test_files_of_one_name_in_several_folders_have_ids_of_their_own(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / "all" / name / "rows.json", [row(name)])
    examples = read(tmp_path / "all" / "**" / "*.json")
    assert [one.row_id for one in examples] == ["a/rows.json element 1", "b/rows.json element 1"]


def test_faults_within_a_pattern_name_the_file(tmp_path):
    write(tmp_path / "part-0.jsonl", [row()])
    write(tmp_path / "part-1.jsonl", [row(), row(SECRET, label=1)])
    pattern = str(tmp_path / "part-*.jsonl")
    refusal(pattern, "part-1.jsonl line 2, field 'label'", "is int")
    (tmp_path / "part-1.jsonl").write_text(f'\n{{"question": "{SECRET}"')
    refusal(pattern, str(tmp_path / "part-1.jsonl line 2"), "is not JSON")
    (tmp_path / "part-1.jsonl").write_text("")
    refusal(pattern, "part-1.jsonl: is empty")
    refusal(str(tmp_path / "none-*.jsonl"), "no file matches")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_a_table_of_a_pattern_that_lacks_a_column_is_told(tmp_path, suffix):
    """All of its rows had an empty context, or were taken for rows without a rationale, and nothing was said."""
    write(tmp_path / f"part-0{suffix}", [row("a", context="c")], suffix)
    lacking = write(tmp_path / f"part-1{suffix}", [row("b", kontext=SECRET)], suffix)
    pattern = str(tmp_path / f"part-*{suffix}")
    columns = ColumnsConfig(context="context")
    for options in ({}, {"need_targets": False}):
        refusal(pattern, f"{lacking}: no column 'context'", "leave the file out", columns=columns, **options)
    assert len(read(pattern)) == 2
    write(lacking, [{"question": "b", "label": "yes"}], suffix)
    for missing in ("error", "skip", "keep"):
        refusal(pattern, f"{lacking}: no column 'rationale'", missing_rationales=missing)
    # Where no file has it, the name is wrong.
    refusal(pattern, f"{pattern}: no column 'contexts'", columns=ColumnsConfig(context="contexts"))


def test_a_table_without_a_header_in_a_pattern_shows_no_cell(tmp_path):
    write(tmp_path / "part-0.csv", [row()])
    (tmp_path / "part-1.csv").write_text(f'"{SECRET}",yes,r\n"{SECRET} again",yes,r\n')
    refusal(str(tmp_path / "part-*"), "part-1.csv: no column 'question'")


def test_rows_of_json_in_a_pattern_may_lack_a_key(tmp_path):
    write(tmp_path / "part-0.jsonl", [row("a", context="c")])
    write(tmp_path / "part-1.jsonl", [row("b")])
    examples = read(str(tmp_path / "part-*"), ColumnsConfig(context="context"))
    assert [one.context for one in examples] == ["c", ""]


def test_one_id_in_two_files_of_a_pattern(tmp_path):
    for number in (0, 1):
        write(tmp_path / f"part-{number}.jsonl", [row(id="MRN-77")])
    text = refusal(
        str(tmp_path / "part-*"), "part-1.jsonl line 1", "part-0.jsonl line 1", columns=ColumnsConfig(id="id")
    )
    assert "MRN" not in text


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    write(tmp_path / "rows[1].jsonl", [row("brackets")])
    write(tmp_path / "rows1.jsonl", [row("other")])
    (example,) = read(tmp_path / "rows[1].jsonl")
    assert (example.question, example.row_id) == ("brackets", "line 1")


# --- remote files -------------------------------------------------------------------------------------


@pytest.fixture
def memory():
    """A remote file system within this process."""
    system = fsspec.filesystem("memory")
    folder = f"/{uuid.uuid4().hex}"
    yield (
        lambda name, rows, suffix: system.pipe(f"{folder}/{name}", as_bytes(rows, suffix)),
        f"memory:/{folder}",
    )
    system.rm(folder, recursive=True)


@pytest.mark.parametrize("suffix", FORMATS)
def test_remote_files(memory, suffix):
    put, address = memory
    put(f"part-1{suffix}", [row("b")], suffix)
    put(f"part-0{suffix}", [row("a"), row("SpO2 < 92 % é")], suffix)
    assert [one.question for one in read(f"{address}/part-0{suffix}")] == ["a", "SpO2 < 92 % é"]
    both = read(f"{address}/part-*{suffix}")
    assert [one.question for one in both] == ["a", "SpO2 < 92 % é", "b"]
    assert both[2].row_id.startswith(f"part-1{suffix} ")


def test_remote_faults_name_the_address(memory):
    put, address = memory
    put("rows.jsonl", [row(), row(SECRET, label="")], ".jsonl")
    refusal(f"{address}/rows.jsonl", f"{address}/rows.jsonl line 2, field 'label'", "empty")
    refusal(f"{address}/none.jsonl", "no such file")
    refusal(f"{address}/none-*.jsonl", "no file matches")


def test_an_address_that_pathlib_has_folded_is_repaired(memory, tmp_path):
    put, address = memory
    put("rows.jsonl", [row("a")], ".jsonl")
    folded = tmp_path.__class__(f"{address}/rows.jsonl")
    assert "://" not in str(folded)
    assert read(folded)[0].question == "a"


def test_a_protocol_whose_package_is_missing_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for address in ("gs://bucket/rows.jsonl", "gs://bucket/part-*.jsonl"):
        refusal(address, address, "gcsfs", "'.[remote]'")
    refusal("zz://bucket/rows.jsonl", "Protocol not known: zz")


# --- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "before"), [("utf-8", "é" * 70_000), ("utf-16", "é" * 40_000), ("shift_jis", "痛" * 30_000)]
)
def test_b019_a_bad_byte_far_into_a_file_is_named_exactly(tmp_path, encoding, before):
    """Oracle: Python's decoding of the whole file at once."""
    lines = [json.dumps(row(before, id=str(index)), ensure_ascii=False) for index in range(3)]
    data = "\n".join([*lines, ""]).encode(encoding)
    data += b"\x00\xd8\n\x00" if encoding == "utf-16" else b"\xff\xff\n"
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(UnicodeDecodeError) as whole:
        data.decode(encoding)
    line = data[: whole.value.start].count(b"\n") + 1
    refusal(path, f"line {line}: byte {whole.value.start} is not {encoding}", encoding=encoding)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv.gz", ".parquet"])
def test_b013_large_files_are_not_held_in_memory(tmp_path, suffix):
    rows = [row("x" * 2000, id=str(index)) for index in range(10_000)]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000)
    else:
        write(path, rows, suffix)
    del rows
    list(raw_rows(write(tmp_path / f"small{suffix}", [row()], suffix)))
    counts, seen = [], 0
    tracemalloc.start()
    for one in raw_rows(path, progress=counts.append):
        seen += len(one.cells["question"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 20_000_000
    assert peak < 6_000_000
    assert counts == [10_000, 10_000]


def test_b078_plain_files_import_no_library_of_the_other_sources(tmp_path):
    path = write(tmp_path / "rows.csv", [row()])
    code = (
        "import sys\nfrom r2d_jax.data.reading.raw_rows import raw_rows\n"
        f"assert len(list(raw_rows({str(path)!r}))) == 1\n"
        "print([n for n in ('fsspec', 'pyarrow', 'datasets', 'tensorflow_datasets', 'tensorflow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

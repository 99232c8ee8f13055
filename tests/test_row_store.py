"""Rows kept on disk: they come back equal, from a file that nobody else can see and that ends with the process."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data import row_store
from r2d_jax.data.packed_columns import Digests, Ids, digest_of, numbered
from r2d_jax.data.row_store import RowStore, StoredRows, labels_of
from r2d_jax.data.schema import Example
from r2d_jax.data.splits import content_hash, describe, label_set, load_splits

# Every character there is, halves of pairs too, also side by side.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
MAPS = st.dictionaries(TEXT, TEXT, max_size=3)
ROWS = st.lists(
    st.builds(Example, TEXT, TEXT, TEXT, MAPS, TEXT, st.lists(TEXT).map(tuple), MAPS),
    max_size=8,
)


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(row_store, "MEMORY_BYTES", 1)


def stored(rows):
    store = RowStore()
    for one in rows:
        store.append(one)
    return store


@settings(max_examples=200, deadline=None)
@given(ROWS, st.data())
def test_any_rows_come_back_equal(rows, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_store, "MEMORY_BYTES", 1)
        patch.setattr(row_store, "_PIECE_BYTES", data.draw(st.sampled_from([1, 40, 2**20])))
        patch.setattr(row_store, "_PIECE_ROWS", data.draw(st.integers(1, 9)))
        store = stored(rows)
        picked = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)
        picked = picked[: data.draw(st.integers(0, len(rows)))]
        whole, some = store.rows(np.arange(len(rows)), picked)
        assert isinstance(whole, StoredRows) == bool(rows)
        chosen = [rows[index] for index in picked]
        for found, wanted in ((whole, rows), (some, chosen)):
            # Text for text: two halves side by side must not become one character.
            assert [repr(one) for one in found] == [repr(one) for one in wanted]
            assert [found[index] for index in range(-len(wanted), len(wanted))] == wanted * 2
            assert list(found[1:5:2]) == wanted[1:5:2]
            assert list(labels_of(found)) == [one.label for one in wanted]
            assert len(found) == len(wanted)


def test_two_readers_do_not_disturb_each_other(on_disk):
    rows = [Example(str(index), "q" * index, "yes", {}) for index in range(1500)]
    found = stored(rows).all()
    assert [one for pair in zip(found, found, strict=True) for one in pair] == [
        one for one in rows for _ in "ab"
    ]
    assert found == rows
    assert found != rows[:-1]
    with pytest.raises(IndexError):
        found[1500]


def test_few_rows_stay_in_memory():
    rows = [Example("1", "q", "yes", {})]
    assert stored(rows).all() == tuple(rows)


def test_the_file_has_no_name_and_one_reader(on_disk, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = stored([Example("1", "Zyzzyva", "yes", {})] * 3).all()
    told = os.fstat(found._file._file.fileno())
    assert (told.st_nlink, stat.S_IMODE(told.st_mode) & 0o077) == (0, 0)
    assert list(tmp_path.iterdir()) == []
    assert len(list(found)) == 3


SPILL = """
import sys, time
from r2d_jax.data import row_store
from r2d_jax.data.schema import Example
row_store.MEMORY_BYTES = 1
store = row_store.RowStore()
for index in range(20000):
    store.append(Example(str(index), "Zyzzyva " * 20, "yes", {}))
rows = store.all()
print(len(rows), flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SPILL], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert process.stdout.readline() == b"20000\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_one_line():
    """A limit on the size of files fails like a full disk."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
    ended = subprocess.run([sys.executable, "-c", limit + SPILL], capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert "r2d_jax.errors.UserError" in last
    assert "the rows cannot be kept there (File too large)" in last
    assert "TMPDIR" in last
    assert "Zyzzyva" not in last


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e", "aa", ""]), max_size=12))
def test_ids_that_stand_twice_against_a_dict(ids):
    found, seen, wanted = Ids(), {}, None
    for index, row_id in enumerate(ids):
        found.append(row_id, f"line {index}")
        if wanted is None and row_id in seen:
            wanted = f"line {index}", f"line {seen[row_id]}"
        seen.setdefault(row_id, index)
    assert found.repeated() == wanted
    column = Digests()
    for row_id in ids:
        column.append(digest_of(row_id))
    numbers = numbered(column.array())
    assert [[a == b for b in numbers] for a in numbers] == [[a == b for b in ids] for a in ids]


def test_a_digest_knows_where_texts_end():
    assert (
        len({digest_of(*texts) for texts in (("ab", ""), ("a", "b"), ("", "ab"), ("ab",), ("b", "a"))}) == 5
    )


WAYS = {
    "by column": {"columns": ColumnsConfig(id="id", split="part", context="context")},
    "drawn": {
        "columns": ColumnsConfig(id="id"),
        "split_shares": {"train": 0.7, "validation": 0.1, "test": 0.2},
    },
    "groups": {
        "columns": ColumnsConfig(id="id", group="pid", context="context"),
        "split_shares": {"train": 0.7, "test": 0.3},
        "duplicates": "drop",
    },
    "labels renamed": {
        "columns": ColumnsConfig(split="part"),
        "label_map": {"a": "b"},
        "missing_rationales": "skip",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_splits_from_disk_are_those_from_memory(tmp_path, monkeypatch, way):
    rng = np.random.default_rng(0)
    path = tmp_path / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(700):
            row = {
                "id": f"c{index}",
                "pid": f"p{rng.integers(90)}",
                "part": ["train", "train", "validation", "test"][rng.integers(4)],
                "question": f"é\u2028 {rng.integers(600)}",
                "context": "x" * int(rng.integers(3)),
                "label": "abc"[rng.integers(3)],
                "rationale": "r" if index % 9 or way != "labels renamed" else "",
            }
            file.write(json.dumps(row) + "\n")
    config = DataConfig(path=str(path), **WAYS[way])
    memory = load_splits(config, 5, ["default"])
    monkeypatch.setattr(row_store, "MEMORY_BYTES", 1)
    disk = load_splits(config, 5, ["default"])
    assert isinstance(disk.train, StoredRows) > isinstance(memory.train, StoredRows)
    assert disk.train == memory.train
    assert disk.validation == memory.validation
    assert disk.test == memory.test
    assert disk.notes == memory.notes
    assert content_hash(disk) == content_hash(memory)
    assert label_set(disk) == label_set(memory)
    assert describe(disk) == describe(memory)

"""TFDS in ArrayRecord: written and read without TensorFlow or a network, the same rows in the same order."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from cli_cases import as_lines, make_rows

from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.config_file import load_config
from r2d_jax.data.reading.raw_rows import raw_rows
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import content_hash, load_splits, splits_of_run
from r2d_jax.data.tfds_write import columns_of, write_tfds
from r2d_jax.errors import UserError

pytest_plugins = ["cli_cases"]
ROOT = pathlib.Path(__file__).parents[1]
TEXTS = ["None", "01", "a\nb\r\n", "\x00\x1f", "\u2028 é 😀", " x ", "=1+1", '"', "x" * 100_000]


@pytest.fixture
def jsonl(tmp_path):
    """Settings and splits of a JSONL file with texts that are easily changed."""
    rows = [
        {"id": f"case-{index}", "split": split, "question": f"{index} {text}", "context": text, "label": label,
         "r1": f"because {text}", "r2": f"for {text}"}
        for index, (text, split, label) in enumerate(
            (text, split, label)
            for split in ("train", "validation", "test") for text in TEXTS for label in ("yes", "None"))
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text(as_lines(rows))
    columns = ColumnsConfig(
        id="id", split="split", context="context", rationales={"llm": "r1", "nurse": "r2"}
    )
    config = DataConfig(path=str(path), columns=columns)
    return config, load_splits(config, 0, ["llm", "nurse"])


def from_tfds(folder, splits, **more):
    return DataConfig(path=f"tfds:{folder}", columns=ColumnsConfig(**columns_of(splits)), **more)


def refusal(act, *parts):
    with pytest.raises(UserError) as caught:
        act()
    text = str(caught.value)
    for part in parts:
        assert part in text, (part, text)
    assert "\n" not in text


@pytest.mark.parametrize("shards", [None, 1, 5])
def test_the_same_rows_in_the_same_order_as_from_jsonl(tmp_path, jsonl, shards):
    _, splits = jsonl
    folder = write_tfds(splits, tmp_path / "out", shards=shards)
    assert folder == tmp_path / "out" / "rows" / "1.0.0"
    found = load_splits(from_tfds(folder, splits), 0, ["llm", "nurse"])
    assert content_hash(found) == content_hash(splits)
    assert (found.train, found.validation, found.test) == (splits.train, splits.validation, splits.test)


def test_real_rows_are_the_same_from_tfds_and_parquet(tmp_path, shared_data):
    path = shared_data / "pubmedqa" / "pqal.jsonl"
    columns = ColumnsConfig(id="id", split="split", context="context")
    values = {"train": "trainval", "test": "test"}
    config = DataConfig(path=str(path), columns=columns, split_values=values)
    splits = load_splits(config, 3, ["default"])
    # A tenth of 276 yes, 169 no and 55 maybe, each rounded: 28 + 17 + 6.
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (449, 51, 500)
    pd.read_json(path, lines=True, dtype=False).to_parquet(tmp_path / "rows.parquet")
    parquet = dataclasses.replace(config, path=str(tmp_path / "rows.parquet"))
    prepared = from_tfds(write_tfds(splits, tmp_path, shards=3), splits)
    for other in (parquet, prepared):
        assert content_hash(load_splits(other, 3, ["default"])) == content_hash(splits)


def test_tfds_itself_reads_what_was_written(tmp_path, jsonl):
    _, splits = jsonl
    builder = tfds.builder_from_directory(write_tfds(splits, tmp_path, shards=2))
    assert sorted(builder.info.features) == [
        "context",
        "id",
        "label",
        "question",
        "rationale_llm",
        "rationale_nurse",
        "split",
    ]
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        "train": 18, "validation": 18, "test": 18,
    }  # fmt: skip
    (record,) = [one for one in builder.as_data_source("test") if one["id"] == b"case-44"]
    row = next(one for one in splits.test if one.row_id == "case-44")
    assert record["question"].decode() == row.question
    assert record["rationale_nurse"].decode() == row.rationales["nurse"]
    assert record["split"] == b"test"


def test_b022_an_earlier_data_set_is_never_taken_for_the_new_one(tmp_path, jsonl):
    _, splits = jsonl
    write_tfds(splits, tmp_path)
    refusal(lambda: write_tfds(splits, tmp_path), "is there already", "--out")


def test_nothing_is_left_at_the_place_when_writing_fails(tmp_path, jsonl, monkeypatch):
    _, splits = jsonl

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorflow_datasets.core.writer.Writer.finalize", fail)
    refusal(lambda: write_tfds(splits, tmp_path / "out"), "No space left")
    assert not (tmp_path / "out" / "rows" / "1.0.0").exists()
    monkeypatch.undo()
    write_tfds(splits, tmp_path / "out")


def test_a_split_too_large_for_tfds_alone_is_one_line(tmp_path, jsonl, monkeypatch):
    """Of over 1,000 MiB it keeps parts on disk through TensorFlow; the traceback came after all of the work."""
    _, splits = jsonl
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    refusal(lambda: write_tfds(splits, tmp_path / "out"), "about 1,000 MiB of text", "without TensorFlow")
    assert not (tmp_path / "out" / "rows" / "1.0.0").exists()


def test_more_shards_than_rows_are_refused_before_writing(tmp_path, jsonl):
    _, splits = jsonl
    few = dataclasses.replace(splits, test=splits.test[:2])
    refusal(lambda: write_tfds(few, tmp_path / "out", shards=3), "--shards: 3", "the test split has rows (2)")
    assert not (tmp_path / "out").exists()
    assert len(list(write_tfds(few, tmp_path / "out", shards=2).glob("rows-test*"))) == 2


def test_b108_the_folder_and_those_above_it_are_taken(tmp_path, jsonl):
    _, splits = jsonl
    out = tmp_path / "out"
    write_tfds(splits, out)
    for folder in (out, out / "rows", out / "rows" / "1.0.0"):
        assert [row.place for row in raw_rows(f"tfds:{folder}:test")][:2] == ["test row 1", "test row 2"]
    write_tfds(splits, out / "more")
    refusal(lambda: raw_rows(f"tfds:{out}:test"), "holds 2 prepared data sets", "more/rows/1.0.0")
    refusal(lambda: raw_rows(f"tfds:{tmp_path / 'none'}:test"), "no prepared data set")
    refusal(lambda: raw_rows(f"tfds:{out / 'rows' / '1.0.0' / 'features.json'}"), "no prepared data set")


def test_data_sets_of_a_name_are_looked_for_in_the_data_folder(tmp_path, jsonl, monkeypatch):
    _, splits = jsonl
    write_tfds(splits, tmp_path / "data")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    for address in ("tfds:rows:test", "tfds:rows:1.0.0:test", "tfds:rows/1.0.0:test"):
        assert len(list(raw_rows(address))) == 18
    refusal(lambda: raw_rows("tfds:mnist:train"), "no prepared data set", "nothing is downloaded")
    refusal(lambda: raw_rows("tfds:rows:2.0.0:train"), "no prepared data set")
    refusal(lambda: raw_rows("tfds:rows"), "holds the splits", "'train'", "Name one")
    refusal(lambda: raw_rows("tfds:rows:dev"), "no split 'dev'")
    refusal(lambda: raw_rows("tfds:gs://bucket/rows:train"), "is not on this machine")


def prepared(folder, file_format="array_record", **columns):
    """A data set that TFDS wrote by itself, with features of several types."""

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = {name: feature for name, (feature, _) in columns.items()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(3):
                yield index, {name: values[index] for name, (_, values) in columns.items()}

    Other(data_dir=str(folder), file_format=file_format).download_and_prepare()
    return f"tfds:{folder}:train"


TEXT = tfds.features.Text()
BASE = {"question": (TEXT, ["a", "b", "c"]), "rationale": (TEXT, ["r"] * 3)}


def test_class_labels_become_their_names_and_numbers_are_ids(tmp_path):
    kinds = tfds.features.ClassLabel(names=["no", "None", "01"])
    address = prepared(
        tmp_path,
        **BASE,
        label=(kinds, ["01", "None", "no"]),
        n=(tfds.features.Scalar(np.int64), [7, 8, 2**40]),
    )
    examples = read_examples(address, ColumnsConfig(id="n"), rationale_sources=["default"])
    assert {(one.question, one.label, one.row_id) for one in examples} == {
        ("a", "01", "7"), ("b", "None", "8"), ("c", "no", str(2**40)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("feature", "values", "kind"),
    [
        (tfds.features.Scalar(np.int64), [1, 2, 3], "is int"),
        (tfds.features.Scalar(np.float32), [1.0, 2.0, 3.0], "is float"),
        (tfds.features.Sequence(TEXT), [["a"], ["b"], ["c"]], "is "),
    ],
)
def test_b012_features_that_are_not_text_are_refused(tmp_path, feature, values, kind):
    address = prepared(tmp_path, **BASE, label=(feature, values))
    refusal(
        lambda: read_examples(address, ColumnsConfig(), rationale_sources=["default"]),
        "train row 1, field 'label'", kind, "not text",
    )  # fmt: skip


def test_damaged_data_sets_are_told_in_one_line(tmp_path, jsonl):
    _, splits = jsonl
    folder = write_tfds(splits, tmp_path / "out")
    info = folder / "dataset_info.json"
    whole = info.read_text()
    info.write_text(whole.replace("array_record", "tfrecord"))
    refusal(lambda: raw_rows(f"tfds:{folder}:train"), "not ArrayRecord", "file_format=array_record")
    info.write_text(whole[:-20])
    refusal(lambda: raw_rows(f"tfds:{folder}:train"), "cannot be read by TFDS")
    info.write_text(whole)
    (record,) = folder.glob("rows-train*")
    record.write_bytes(b"\x00" * 1000)
    refusal(lambda: list(raw_rows(f"tfds:{folder}:train")), str(folder), "read")
    record.unlink()
    refusal(lambda: list(raw_rows(f"tfds:{folder}:train")), str(folder), "read")


def test_without_the_package_the_extra_is_named(tmp_path, jsonl, monkeypatch):
    _, splits = jsonl
    folder = write_tfds(splits, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    refusal(lambda: raw_rows(f"tfds:{folder}:train"), "'.[hub]'")
    refusal(lambda: write_tfds(splits, tmp_path / "more"), "'.[hub]'")


WITHOUT_NETWORK = """
import os, socket, sys, json, pathlib
def refuse(*_, **__): os._exit(99)
socket.socket.connect = socket.getaddrinfo = refuse
from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data.splits import content_hash, load_splits
from r2d_jax.data.tfds_write import columns_of, write_tfds
columns = ColumnsConfig(id='id', split='split', context='context')
splits = load_splits(DataConfig(path='rows.jsonl', columns=columns), 0, ['default'])
folder = write_tfds(splits, pathlib.Path('out'))
again = load_splits(DataConfig(path='tfds:out', columns=ColumnsConfig(**columns_of(splits))), 0, ['default'])
print(content_hash(splits) == content_hash(again))
print([name for name in sys.modules if name.split('.')[0] == 'tensorflow'])
import threading, multiprocessing
print(multiprocessing.active_children())
"""


def test_b078_b079_no_tensorflow_no_network_and_no_worker_process(tmp_path):
    (tmp_path / "rows.jsonl").write_text(as_lines(make_rows()))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_NETWORK]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout.split("\n")[:3]) == (0, ["True", "[]", "[]"]), done.stderr


def test_the_command_writes_and_tells_how_to_read(tmp_path, r2d):
    data = tmp_path / "rows.jsonl"
    data.write_text(as_lines(make_rows()))
    settings = ["data.columns.id=id", "data.columns.split=split", "data.columns.context=context"]
    ended = r2d("data", "tfds", "--path", data, "--out", tmp_path / "out", "--shards", 2, *settings)
    ended.done("content hash", r"tfds:.*/out/rows/1\.0\.0")
    assert "Downloading" not in ended.out
    lines = ended.out.splitlines()
    columns = json.loads(lines[-1].partition(": ")[2])
    path = json.loads(lines[-2].partition(": ")[2])
    again = load_splits(DataConfig(path=path, columns=ColumnsConfig(**columns)), 0, ["default"])
    assert lines[0] == f"data: content hash {content_hash(again)}"
    r2d("data", "tfds", "--path", data, "--out", tmp_path / "out", *settings).refused("is there already")
    r2d("data", "tfds", "--out", tmp_path / "new").refused("--config or --path")
    r2d("data", "tfds", "--path", data, "--out", tmp_path / "new").refused("data.columns.split")
    assert not (tmp_path / "new").exists()


def test_rows_that_teach_their_label_alone_are_read_back_as_such(tmp_path, r2d):
    data = tmp_path / "rows.jsonl"
    data.write_text(as_lines(make_rows(rationale="")))
    settings = ["data.columns.id=id", "data.columns.split=split", "data.missing_rationales=keep"]
    ended = r2d("data", "tfds", "--path", data, "--out", tmp_path / "out", *settings)
    ended.done("1 rows without a rationale teach their label alone")
    told, config = ended.out.split("read it with\n")
    (tmp_path / "config.yaml").write_text(config)
    again = splits_of_run(load_config(tmp_path / "config.yaml", ["data.check=off"]))
    assert f"data: content hash {content_hash(again)}\n" in told
    assert again.train[2].rationales == {"default": ""}

"""Many rows from file to batches: bounded memory, and every figure as if they had all been in memory."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROWS, WORDS = 12_000, 120
MB = 2**20

PREPARE = """
import dataclasses, hashlib, itertools, json, pathlib, sys
import numpy as np
from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data import row_store
from r2d_jax.data.buckets import Bucket, choose_buckets
from r2d_jax.data.check import verdict
from r2d_jax.data.features import FeatureEncoder, encoded_rows
from r2d_jax.data.pipeline import evaluation_batches, prefetched, train_batches
from r2d_jax.data.splits import NAMES, content_hash, describe, label_set, load_splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.training.tokens import tokenise

rows, tokens, megabytes = sys.argv[1:]
row_store.MEMORY_BYTES = int(megabytes) * 2**20
verdict.MAX_TEXTS = 300
tokenizer = Tokenizer.train(["patient room urgent standard since " * 3], 200)
columns = ColumnsConfig(id="id", group="pid", context="context")
shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
config = DataConfig(path=rows, columns=columns, split_shares=shares, duplicates="drop", input_limit_tokens=256)
found = {}


def peak():
    # Not ru_maxrss: that begins with the size of the parent at the time of the fork.
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


start = peak()
splits = load_splits(config, 0, ["default"])
found["kind"] = type(splits.train).__name__
check, lines = verdict.check_before_run(config, splits, tokenizer, ["default"])
found["check"] = [repr(dataclasses.asdict(check)), lines]
found["hash"], found["told"] = content_hash(splits), describe(splits)
encoder = FeatureEncoder(config, tokenizer, label_set(splits))
by_name = {name: getattr(splits, name) for name in NAMES}
ids, _ = tokenise(
    pathlib.Path(tokens), encoder, by_name, ["default"], data_hash=found["hash"], report=lambda line: None
)
encoded = {name: encoded_rows(fields, "default") for name, fields in ids.items()}
shapes = encoder.shapes(*encoded.values())
train, test = (encoder.features(encoded[name], shapes) for name in ("train", "test"))
buckets = choose_buckets(
    train.question_length, train.rationale_length, full=Bucket(shapes.question, shapes.rationale), count=4,
    prompt_tokens=encoder.prompts.overhead,
)
digest = hashlib.sha256()
with prefetched(train_batches(train, 32, seed=1, start_step=700, buckets=buckets)) as batches:
    tested = (batch for _, batch in evaluation_batches(test, 32))
    for batch in itertools.chain(itertools.islice(batches, 50), tested):
        for name, array in sorted(batch.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
found["shapes"], found["buckets"], found["batches"] = str(shapes), str(buckets), digest.hexdigest()
print(json.dumps({"grown": peak() - start, "found": found}))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What a process finds that keeps rows on disk, and one that keeps them in memory."""
    folder = tmp_path_factory.mktemp("many")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for index in range(ROWS):
            row = {
                "id": f"c{index}",
                "pid": f"p{index // 3}",
                "question": f"patient {index // 2} " + "room " * (index % 40),
                "context": f"{index} " + "patient " * WORDS,
                "label": ("urgent", "standard")[index * 7 % 5 > 2],
                "rationale": f"≥ since {index} " * (index % 11 + 1),
            }
            file.write(json.dumps(row) + "\n")
    ended = {}
    for name, megabytes in (("disk", 1), ("memory", 4096)):
        command = [sys.executable, "-c", PREPARE, folder / "rows.jsonl", folder / name, str(megabytes)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        ended[name] = json.loads(done.stdout)
    return ended


def test_rows_on_disk_give_every_figure_that_rows_in_memory_give(prepared):
    disk, memory = prepared["disk"]["found"], prepared["memory"]["found"]
    assert (disk.pop("kind"), memory.pop("kind")) == ("StoredRows", "tuple")
    assert disk == memory
    assert disk["check"][1][0].startswith("data check: 0 errors")
    assert "texts of 300 of 12,000 rows" in disk["check"][1][0]


def test_memory_does_not_grow_with_the_texts(prepared):
    """The file has 14 MB of text, which take over 20 MB more; in memory they are seen, on disk they are not.

    All else that grows (batches, mapped ids, the check) takes some 30 MB in both.
    """
    grown = {name: ended["grown"] / MB for name, ended in prepared.items()}
    assert grown["disk"] < 40, grown
    assert grown["memory"] > grown["disk"] + 12, grown

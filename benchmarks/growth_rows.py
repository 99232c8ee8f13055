"""The way of many rows from a file to batches; in: a file and a tokenizer, out: seconds of each part and peak bytes."""

import itertools
import json
import pathlib
import tempfile
import time
from typing import Any

from benchmarks.growth_meter import Meter
from benchmarks.workload import Workload
from r2d_jax.config import ColumnsConfig, DataConfig
from r2d_jax.data.buckets import Bucket, choose_buckets
from r2d_jax.data.features import FeatureEncoder, encoded_rows
from r2d_jax.data.pipeline import train_batches
from r2d_jax.data.splits import NAMES, content_hash, label_set, load_splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.training.tokens import tokenise

BATCH_SIZE = 64
_SOURCE = "default"
_WARM_ROWS = 1000
# A file of up to so many rows is read several times.
_REPEATED_ROWS = 20_000


def write_rows(path: pathlib.Path, workload: Workload, rows: int) -> None:
    """Write JSONL: the first sentences of synthetic notes over and over, each row with an id and number of its own.

    Numbers have seven digits in every file, so that a row of a large file is no longer than one of a small file.
    """
    texts = [(*(text.split(". ")[0] for text in (row[0], row[2])), row[1]) for row in workload.texts()]
    with path.open("w", encoding="utf-8") as file:
        for number, (question, rationale, label) in zip(range(rows), itertools.cycle(texts), strict=False):
            row = {
                "id": f"c{number:07}",
                "question": f"{question}. Case {number:07}.",
                "label": label,
                "rationale": rationale,
            }
            file.write(json.dumps(row) + "\n")


def rows_point(workload: Workload, point: dict[str, Any], meter: Meter) -> list[dict[str, Any]]:
    """Measure each part of the way at one number of rows; nothing is checked and nothing trained.

    Args:
        workload: its tokenizer and notes.
        point: x (rows), batches, least (how often the way of few rows is gone).
        meter: of this process.

    Returns:
        part, secs of each time the way was gone, and, of all before the first batch, bytes. Of `batches` also
        rows, for they are as many at every x.
    """
    tokenizer = Tokenizer.load(workload.tokenizer)
    rows, batches = point["x"], point["batches"]
    with tempfile.TemporaryDirectory() as folder:
        short, whole_file = (pathlib.Path(folder) / f"{name}.jsonl" for name in ("short", "whole"))
        write_rows(short, workload, min(rows, _WARM_ROWS))
        write_rows(whole_file, workload, rows)
        _way(short, tokenizer, batches)
        base = meter.settle()
        taken = [_way(whole_file, tokenizer, batches)]
        grown = meter.above(base)
        if rows <= _REPEATED_ROWS:
            taken += [_way(whole_file, tokenizer, batches) for _ in range(point["least"] - 1)]
    measured: list[dict[str, Any]] = [
        {"part": part, "secs": [one[part] for one in taken], "bytes": None} for part in taken[0]
    ]
    whole = [sum(secs for part, secs in one.items() if part != "batches") for one in taken]
    *parts, last = measured
    last["rows"] = batches * BATCH_SIZE
    return [*parts, {"part": "before_batches", "secs": whole, "bytes": grown}, last]


def _way(path: pathlib.Path, tokenizer: Tokenizer, batches: int) -> dict[str, float]:
    """Seconds of each part of what a run does with its rows; the data check is left out."""
    config = DataConfig(
        path=str(path),
        columns=ColumnsConfig(id="id"),
        split_shares={"train": 0.9, "validation": 0.05, "test": 0.05},
    )
    secs: dict[str, float] = {}
    start = time.perf_counter()

    def done(part: str) -> None:
        nonlocal start
        now = time.perf_counter()
        secs[part], start = now - start, now

    with tempfile.TemporaryDirectory() as folder:
        splits = load_splits(config, 0, [_SOURCE])
        done("reading")
        encoder = FeatureEncoder(config, tokenizer, label_set(splits))
        data_hash = content_hash(splits)
        done("content_hash")
        tokens, _ = tokenise(
            pathlib.Path(folder),
            encoder,
            {name: getattr(splits, name) for name in NAMES},
            [_SOURCE],
            data_hash=data_hash,
            report=lambda line: None,
        )
        done("tokenising")
        encoded = {name: encoded_rows(fields, _SOURCE) for name, fields in tokens.items()}
        shapes = encoder.shapes(*encoded.values())
        train = encoder.features(encoded["train"], shapes)
        done("features")
        buckets = choose_buckets(
            train.question_length,
            train.rationale_length,
            full=Bucket(shapes.question, shapes.rationale),
            count=4,
            prompt_tokens=encoder.prompts.overhead,
        )
        done("buckets")
        stream = train_batches(train, BATCH_SIZE, seed=0, buckets=buckets)
        next(stream)
        done("first_batch")
        for _ in itertools.islice(stream, batches):
            pass
        done("batches")
    return secs

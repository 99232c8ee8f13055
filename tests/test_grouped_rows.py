"""Rows of one patient: from the file to intervals and paired tests, in which they are no independent cases."""

import dataclasses
import json

import numpy as np
import pytest
from source_cases import ALL, row, write

from r2d_jax.config import ColumnsConfig, DataConfig, EvaluationConfig
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.sources import read_examples
from r2d_jax.data.splits import NAMES, content_hash, load_splits
from r2d_jax.data.tfds_write import columns_of, write_tfds
from r2d_jax.evaluation.comparison import compare, read_result
from r2d_jax.evaluation.comparison_table import markdown
from r2d_jax.evaluation.evaluate import row_score_lines
from r2d_jax.evaluation.intervals import bootstrap_interval, share_of
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.report import figure_notes
from r2d_jax.evaluation.scoring import score
from r2d_jax.runtime.files import write_json, write_jsonl
from r2d_jax.runtime.run_files import EVALUATION_METRICS, PREDICTIONS, ROW_SCORES

COLUMNS = ColumnsConfig(group="pid")
SHARES = {"train": 0.5, "validation": 0.25, "test": 0.25}
SETTINGS = EvaluationConfig(resamples=300)


def read(path, **options):
    return read_examples(path, COLUMNS, rationale_sources=["default"], **options)


@pytest.mark.parametrize("suffix", ALL)
def test_the_group_comes_from_every_reader_where_the_file_has_it(tmp_path, suffix):
    rows = [row(f"q {number}", pid=pid) for number, pid in enumerate(["P01", " P01 ", "P  2", ""])]
    found = read(write(tmp_path / f"rows{suffix}", rows))
    assert [one.group for one in found] == ["P01", "P01", "P 2", ""]
    without = read(write(tmp_path / f"without{suffix}", [row("q 1"), row("q 2")]))
    assert [one.group for one in without] == ["", ""]
    # To predict, nobody asks whose row it is.
    alone = read(write(tmp_path / f"predict{suffix}", rows), need_targets=False)
    assert [one.group for one in alone] == [""] * 4


def test_a_run_knows_the_groups_and_its_hash_does_not(tmp_path):
    rows = [row(f"q {number}", pid=f"p{number // 3}") for number in range(24)]
    path = str(write(tmp_path / "rows.jsonl", rows))
    config = DataConfig(path=path, columns=COLUMNS, split_shares=SHARES)
    splits = load_splits(config, 0, ["default"])
    groups = {one.question: one.group for one in (*splits.train, *splits.validation, *splits.test)}
    assert groups == {f"q {number}": f"p{number // 3}" for number in range(24)}
    again = load_splits(
        DataConfig(
            path=f"tfds:{write_tfds(splits, tmp_path / 'out').parents[1]}",
            columns=ColumnsConfig(**columns_of(splits)),
        ),
        0,
        ["default"],
    )
    assert [one.group for one in again.test] == [one.group for one in splits.test]
    bare = Splits(*([dataclasses.replace(one, group="") for one in getattr(splits, name)] for name in NAMES))
    assert content_hash(bare) == content_hash(splits)


def evaluated(groups, right):
    """Scores of N rows of two labels: `right` tells where the answer is the gold label."""
    gold = ["yes" if number % 2 else "no" for number in range(len(groups))]
    examples = [
        Example(str(number), "q", label, {}, group=group)
        for number, (label, group) in enumerate(zip(gold, groups, strict=True))
    ]
    other = {"yes": "no", "no": "yes"}
    predictions = [
        Prediction(label if good else other[label], True, 0.9)
        for label, good in zip(gold, right, strict=True)
    ]
    return examples, predictions, score(examples, predictions, ["yes", "no"], None, SETTINGS)


def stored(folder, groups, right):
    """The files of an evaluation that `r2d compare` reads."""
    examples, predictions, scores = evaluated(groups, right)
    folder.mkdir()
    write_json(folder / EVALUATION_METRICS, scores.metrics)
    write_jsonl(folder / ROW_SCORES, row_score_lines(examples, scores))
    write_jsonl(
        folder / PREDICTIONS,
        [
            {"id": example.row_id, "label": prediction.label, "gold_label": example.label}
            for example, prediction in zip(examples, predictions, strict=True)
        ],
    )
    return read_result(folder)


def test_intervals_are_over_patients():
    rng = np.random.default_rng(0)
    groups = [f"p{number // 10}" for number in range(300)]
    right = np.repeat(rng.random(30) < 0.7, 10)
    _, _, scores = evaluated(groups, right)
    low, high = scores.metrics["intervals"]["accuracy"]
    assert (low, high) == bootstrap_interval(
        share_of(right.astype(float)), 300, resamples=300, clusters=np.arange(300) // 10
    )
    _, _, alone = evaluated([""] * 300, right)
    narrow = np.diff(alone.metrics["intervals"]["accuracy"])[0]
    # Notes of one patient are all right or all wrong: the interval is that of 30 cases, not of 300.
    assert (high - low) / narrow == pytest.approx(10**0.5, rel=0.25)
    assert scores.metrics["groups"] == 30
    assert "groups" not in alone.metrics
    assert any("over 30 groups" in note for note in figure_notes(scores.metrics))


def test_methods_are_compared_over_patients(tmp_path):
    """12 patients of ten notes: the second method has three of them wrong. That is 3 of 12, not 30 of 120."""
    names = [f"secret{number // 10}" for number in range(120)]
    first, second = np.ones(120, bool), np.arange(120) >= 30
    results = {
        name: {0: stored(tmp_path / name, names, right)} for name, right in (("a", first), ("b", second))
    }
    table = compare(results, "a", resamples=500)
    test = table["tests"]["b"]["accuracy"]
    # Exactly: both ways of the 2^3 swaps of the three patients in which they differ.
    assert test["p_value"] == pytest.approx(2 / 2**3, abs=0.06)
    assert table["groups"] == 12
    assert "over 12 groups" in markdown(table)
    alone = {
        name: {0: stored(tmp_path / f"{name} alone", [""] * 120, right)}
        for name, right in (("a", first), ("b", second))
    }
    table = compare(alone, "a", resamples=500)
    assert table["tests"]["b"]["accuracy"]["p_value"] < 0.01
    assert table["groups"] is None
    assert "groups" not in markdown(table)
    # A number stands for the patient, whose name is nowhere.
    lines = (tmp_path / "a" / ROW_SCORES).read_text()
    assert "secret" not in lines
    assert [json.loads(line)["group"] for line in lines.splitlines()] == [
        number // 10 for number in range(120)
    ]

"""Figures do not depend on batch size, row order or devices; collapse and per-row parts are told."""

import dataclasses
import io
import json
import types

import numpy as np
import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import all_in_a_process, as_lines, in_a_process, make_rows, nearly, settings
from rich.console import Console
from ruamel.yaml import YAML

from r2d_jax.config import EvaluationConfig
from r2d_jax.data.schema import Example
from r2d_jax.evaluation import evaluate as evaluating
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.rationale_checks import Flip, RationaleChecks, flip_figures, flip_statistics
from r2d_jax.evaluation.report import print_results
from r2d_jax.evaluation.scoring import Readings, label_scores, score

EVALUATIONS = {
    "whole": ("--batch-size", "6"),
    "five": ("--batch-size", "5"),
    "forward": (),
    "backward": ("--input", "reversed.jsonl"),
    "wards": (
        *("--input", "wards.jsonl", "--no-checks"),
        "evaluation.triage={order: [urgent, not urgent], first: most_urgent, costs: linear_under_x3}",
        "evaluation.subgroup_least_rows=1",
        "data.columns.subgroups={ward: ward}",
    ),
}


def evaluation(name, options):
    return "eval", "--model", "run", "--output", name, *options


@pytest.fixture(scope="module")
def run(tmp_path_factory, compile_cache):
    """A run with a test split of six rows, its EVALUATIONS on one device, each in a folder of its name, and what
    they printed."""
    home = tmp_path_factory.mktemp("run")
    (home / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    (home / "reversed.jsonl").write_text(as_lines(make_rows()[:23:-1]), encoding="utf-8")
    wards = [row | {"ward": f"Ward{number % 2}"} for number, row in enumerate(make_rows()[24:])]
    (home / "wards.jsonl").write_text(as_lines(wards), encoding="utf-8")
    config = settings(home / "rows.jsonl")
    for stage in ("stage1", "stage2"):
        config[stage] = config[stage] | {"max_steps": 60, "eval_every_steps": 60, "save_every_steps": 60}
        config[stage]["optimizer"] = {"learning_rate": 0.003}
    YAML().dump(config, home / "config.yaml")
    commands = [("run", "--config", "config.yaml", "--workdir", "run")]
    commands += [evaluation(name, options) for name, options in EVALUATIONS.items()]
    _, *printed = all_in_a_process(commands, cwd=home, cache=compile_cache)
    return home, dict(zip(EVALUATIONS, printed, strict=True))


def evaluated(run, name):
    """Metrics, predictions and rationale checks."""
    metrics = json.loads((run[0] / name / "metrics.json").read_text())
    predictions = [json.loads(line) for line in (run[0] / name / "predictions.jsonl").open()]
    checks = [json.loads(line) for line in (run[0] / name / "rationale_checks.jsonl").open()]
    return metrics, predictions, checks


def test_batch_size_and_devices_change_no_figure(run, compile_cache):
    """Six rows: whole, with one left over, and two of eight devices without a row."""
    whole = evaluated(run, "whole")
    # So small a model may write one text for all rows: test_evaluation_order.py has texts that differ.
    assert len({row["label_confidence"] for row in whole[1]}) > 1
    options = ("--batch-size", "8")
    in_a_process(*evaluation("eight", options), cwd=run[0], cache=compile_cache, devices=8).done()
    for name in ("five", "eight"):
        assert list(evaluated(run, name)) == nearly(whole, rel=1e-4, abs=1e-5)


def test_order_of_rows_changes_no_figure(run):
    metrics, predictions, _ = evaluated(run, "forward")
    other, backward, _ = evaluated(run, "backward")
    assert backward == nearly(predictions[::-1], rel=1e-4, abs=1e-5)
    for name in ("accuracy", "macro_f1", "rouge_l", "consistency_fraction"):
        assert other[name] == pytest.approx(metrics[name])
    for name in ("confusion", "per_class"):
        assert other[name] == metrics[name]


def test_row_scores_add_up_to_the_figures(run):
    metrics, predictions, _ = evaluated(run, "forward")
    rows = [json.loads(line) for line in (run[0] / "forward" / "row_scores.jsonl").open()]
    assert [row["id"] for row in rows] == [row["id"] for row in predictions]
    for name in ("accuracy", "invalid_fraction", "rouge_l", "consistency_fraction", "sufficiency_fraction"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(metrics[name])
    assert set(metrics["intervals"]) >= {"accuracy", "invalid_fraction", "rouge_l"}
    # Of this model, which has nothing right, these are 0 in every sample.
    for name, value in (("macro_f1", metrics["macro_f1"]), ("bleu.corpus", metrics["bleu"]["corpus"])):
        assert (name in metrics["intervals"]) == (value > 0)
    for name, (low, high) in metrics["intervals"].items():
        assert low <= high, name


def test_triage_and_subgroups_of_a_file_by_settings_of_the_command(run):
    home, printed = run
    assert "under-triage" in printed["wards"]
    assert "expected cost" in printed["wards"]
    assert "Ward1" not in printed["wards"]
    metrics = json.loads((home / "wards" / "metrics.json").read_text())
    predictions = [json.loads(line) for line in (home / "wards" / "predictions.jsonl").open()]
    # Whatever is not the gold label, another label or none, costs the same where there are two.
    cost = {"urgent": 3, "not urgent": 1}
    costs = [0 if one["label"] == one["gold_label"] else cost[one["gold_label"]] for one in predictions]
    assert metrics["triage"]["expected_cost"] == pytest.approx(np.mean(costs))
    chosen = [cost[one["gold_label"]] * (one["least_cost_label"] != one["gold_label"]) for one in predictions]
    assert metrics["triage"]["rules"]["least_cost"]["expected_cost"] == pytest.approx(np.mean(chosen))
    groups = metrics["subgroups"]["by"]["ward"]["groups"]
    assert [(one["group"], one["rows"]) for one in groups] == [("Ward0", 3), ("Ward1", 3)]
    for number, one in enumerate(groups):
        value = one["figures"]["triage.expected_cost"]["value"]
        assert value == pytest.approx(np.mean(costs[number::2]))


def examples(*labels):
    return [
        Example(str(i), "q", label, {"a": f"It is {label}."}, evidence=("fever",) if i == 0 else ())
        for i, label in enumerate(labels)
    ]


def test_no_label_is_read_from_an_empty_rationale():
    predictions = [Prediction("yes", True, 0.9, text) for text in ("", " \n", "Yes.")]
    flips = [Flip(row, "no", text, "no", True) for row, text in enumerate(["", "No."])]
    readings = Readings(["yes"] * 3, ["yes"] * 3, flips)
    gold = examples("yes", "yes", "yes")
    metrics = score(gold, predictions, ("yes", "no"), "a", EvaluationConfig(resamples=0), readings).metrics
    assert metrics["consistency_fraction"] == metrics["sufficiency_fraction"] == pytest.approx(1 / 3)
    assert metrics["gold_robustness_fraction"] == 1.0
    assert metrics["label_flip"]["label_follows_fraction"] == 0.5


def test_a_gold_label_outside_the_set_is_missed_in_every_figure():
    """A free decode may give it; accuracy counts it as wrong, so row scores, intervals and groups must, too."""
    predictions = [Prediction(label, True, 0.9, f"It is {label}.") for label in ("yes", "new", "no")]
    readings = Readings(["yes", "new", "no"], ["yes", "new", "no"], [])
    gold = [dataclasses.replace(one, subgroups={"ward": "A"}) for one in examples("yes", "new", "no")]
    found = score(gold, predictions, ("yes", "no"), "a", EvaluationConfig(resamples=200), readings)
    metrics = found.metrics
    assert metrics["accuracy"] == metrics["macro_f1"] == pytest.approx(2 / 3)
    assert found.rows["accuracy"].tolist() == [1, 0, 1]
    assert found.rows["sufficiency_fraction"].tolist() == [1, 0, 1]
    (group,) = metrics["subgroups"]["by"]["ward"]["groups"]
    for name in ("accuracy", "macro_f1"):
        low, high = metrics["intervals"][name]
        assert low < high
        assert group["figures"][name]["value"] == pytest.approx(2 / 3)


def test_scores_with_readings_by_hand():
    gold = examples("yes", "no", "no", "yes")
    predictions = [
        Prediction("yes", True, 0.9, "It is yes, fever."),
        Prediction("no", True, 0.9, "It is yes."),
        Prediction("maybe", False, 0.9, "It is no."),
        Prediction("no", True, 0.9, "", False),
    ]
    readings = Readings(["yes", "yes", "maybe", "no"], ["yes", "no", "yes", "yes"], [])
    scores = score(gold, predictions, ("yes", "no"), "a", EvaluationConfig(resamples=0), readings)
    metrics = scores.metrics
    assert metrics["accuracy"] == 0.5
    # "maybe" is no label: reading it back is no consistency. What the model says of an empty text is not read from it.
    assert metrics["consistency_fraction"] == 0.25
    assert metrics["sufficiency_fraction"] == 0.25
    assert metrics["gold_robustness_fraction"] == 0.75
    assert metrics["evidence_fraction"] == 1.0
    assert np.isnan(scores.rows["evidence_fraction"]).tolist() == [False, True, True, True]
    assert (metrics["label_limit_fraction"], metrics["rationale_limit_fraction"]) == (0.25, 0.25)
    assert metrics["intervals"] == {}
    assert metrics["label_flip"] is None


def test_texts_that_are_cut_when_read_back_are_counted():
    """Consistency, sufficiency and gold robustness were figures of the beginnings of such texts without a word."""
    gold = [
        Example(str(i), "q", "yes", {"a": text}) for i, text in enumerate(["yes " * 9, "yes", "yes " * 8])
    ]
    predictions = [Prediction("yes", True, 0.9, text) for text in ("yes " * 7, "yes", "")]
    predictor = types.SimpleNamespace(
        features_of=lambda texts, *_: types.SimpleNamespace(
            cut_questions=sum(len(text) > 20 for text in texts)
        ),
        predict=lambda *_, **__: iter([[Prediction("yes", True, 0.9)] * 3]),
    )
    checks = RationaleChecks(types.SimpleNamespace(params=None), predictor, 8, lambda: None)
    settings = EvaluationConfig(resamples=0, flip_rows=0)
    readings = evaluating._read_back(checks, gold, predictions, ("yes", "no"), "a", settings)
    metrics = score(gold, predictions, ("yes", "no"), "a", settings, readings).metrics
    assert metrics["read_back_cut"] == {"rationales": 1, "gold_rationales": 2}
    stream = io.StringIO()
    print_results(metrics, Console(file=stream, width=300))
    assert "1 rationales and 2 gold ones are over the input limit" in stream.getvalue()


def test_flips_by_hand():
    flips = [
        Flip(0, "no", "It is no.", "no", changed=True),
        Flip(0, "maybe", "It is no.", "no", changed=True),
        Flip(3, "yes", "Unclear.", "yes", changed=False),
    ]
    assert flip_figures(flips, ("yes", "no", "maybe")) == {
        "rows": 2,
        "flips": 3,
        "changed_fraction": pytest.approx(2 / 3),
        "names_given_fraction": pytest.approx(1 / 3),
        "names_other_fraction": pytest.approx(1 / 3),
        "label_follows_fraction": pytest.approx(2 / 3),
    }


def test_a_resampled_row_brings_all_its_flips():
    flips = [
        Flip(0, "no", "It is no.", "no", changed=True),
        Flip(0, "maybe", "It is no.", "no", changed=True),
        Flip(3, "yes", "Unclear.", "yes", changed=False),
    ]
    statistics = flip_statistics(flips, ("yes", "no", "maybe"), 4)
    every, first, twice = [0, 1, 2, 3], [0, 1, 1, 2], [0, 3, 3, 3]
    for sample, changed, names in ((every, 2 / 3, 1 / 3), (first, 1.0, 0.5), (twice, 2 / 5, 1 / 5)):
        assert statistics["changed_fraction"](np.array(sample)) == pytest.approx(changed)
        assert statistics["names_given_fraction"](np.array(sample)) == pytest.approx(names)
    # A sample without any of them has no figure.
    assert np.isnan(statistics["changed_fraction"](np.array([1, 2, 2, 1])))


def test_collapse_is_told_during_training():
    gold = ["a"] * 50 + ["b"] * 50
    assert label_scores(gold, ["a"] * 100, ("a", "b"))["eval/collapsed"] == 1.0
    assert label_scores(gold, gold, ("a", "b"))["eval/collapsed"] == 0.0

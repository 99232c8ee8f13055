"""Figures that two runs measured in other units are in no table together."""

import dataclasses

import numpy as np
import pytest

from r2d_jax.evaluation.comparison import RunResult, compare
from r2d_jax.evaluation.comparison_table import as_csv, markdown

ORDER, LINEAR = ["high", "low"], [[0.0, 1.0], [1.0, 0.0]]
SETTINGS = {
    "model": "scorer",
    "num_layers": 17,
    "max_tokens": 512,
    "rescaled": False,
    "baseline": None,
    "hash": "scorer_L17",
    "version": "bert-score 0.3.13",
}


def run(order=ORDER, costs=LINEAR, **score):
    """Four rows, half right, which cost as much as their mistakes do."""
    each = np.array([0.0, costs[0][1], 0.0, costs[1][0]])
    under = np.array([0.0, 1.0, 0.0, 0.0])
    metrics = {
        "accuracy": 0.5,
        "triage": {
            "order": order,
            "cost_matrix": costs,
            "expected_cost": float(each.mean()),
            "under_fraction": 0.25,
            "rules": {"least_cost": {"expected_cost": 0.1}},
        },
        "bertscore": SETTINGS | {"f1": 0.8} | score,
    }
    rows = {
        "accuracy": np.array([1.0, 0.0, 1.0, 0.0]),
        "triage.expected_cost": each,
        "triage.under_fraction": under,
    }
    labels = ("high", "high", "low", "low")
    return RunResult(metrics, ("1", "2", "3", "4"), labels, ("high", "low", "low", "high"), rows)


def both(*runs):
    table = compare({str(number): {0: one} for number, one in enumerate(runs)}, "0", resamples=20)
    return table, set(table["methods"]["1"]["figures"]), set(table["tests"]["1"])


COSTS = {"triage.expected_cost", "triage.rules.least_cost.expected_cost"}


def test_what_was_measured_alike_is_compared():
    """What a matrix is called and counts of what was cut tell nothing of its unit."""
    named = run(truncated_predictions=3)
    named.metrics["triage"]["costs"] = "linear"
    table, figures, tests = both(run(), named)
    assert figures >= COSTS | {"triage.under_fraction", "bertscore.f1"}
    assert tests >= {"triage.expected_cost", "triage.under_fraction"}
    assert table["left_out"] == []
    assert "left out" not in markdown(table)


def test_costs_of_other_matrices_are_neither_shown_nor_tested():
    """Of the same predictions, +0.133 with p=0.005: a mistake cost more in one of the runs."""
    table, figures, tests = both(run(), run(costs=[[0.0, 3.0], [1.0, 0.0]]))
    assert not figures & COSTS
    assert "triage.expected_cost" not in tests
    assert figures >= {"triage.under_fraction", "bertscore.f1", "accuracy"}
    assert tests >= {"triage.under_fraction", "accuracy"}
    text = markdown(table)
    assert "Costs are left out: the runs have different cost matrices (`evaluation.triage.costs`)." in text
    assert "| cost" not in text
    assert "expected_cost" not in as_csv(table)


def test_with_another_order_no_triage_figure_is_comparable():
    table, figures, tests = both(run(), run(order=["low", "high"]))
    assert not {name for name in figures | tests if name.startswith("triage.")}
    assert "accuracy" in tests
    assert "Figures of triage are left out: the runs have different orders of labels" in markdown(table)
    assert "Costs are" not in markdown(table)


@pytest.mark.parametrize(
    "changed",
    [{"model": "other"}, {"rescaled": True}, {"num_layers": 9}, {"hash": "h"}, {"baseline": "b.tsv"}],
)
def test_bertscores_of_other_settings_are_left_out(changed):
    table, figures, _ = both(run(), run(**changed))
    assert "bertscore.f1" not in figures
    assert figures >= COSTS
    text = markdown(table)
    assert f"BERTScore is left out: the runs differ in its {next(iter(changed))}." in text
    assert "| BERTScore |" not in text


def test_a_run_without_a_figure_is_in_no_other_unit():
    """As before: its cell is empty, and the others are shown."""
    plain = run()
    bare = dataclasses.replace(plain, metrics={"accuracy": 0.5}, rows={"accuracy": plain.rows["accuracy"]})
    table, figures, _ = both(bare, plain)
    assert figures >= COSTS | {"bertscore.f1"}
    assert table["left_out"] == []


def test_figures_of_two_label_decodes_are_read_with_care_and_stay():
    """An evaluation that was done anew may differ in it from what its run's config says."""
    free, constrained = run(), run()
    free.metrics["label_decode"], constrained.metrics["label_decode"] = "free", "constrained"
    table, figures, _ = both(free, constrained)
    assert figures >= COSTS | {"accuracy"}
    assert "decoded free, of others constrained" in markdown(table)
    assert "decoded free" not in markdown(both(free, free)[0])
    # Evaluations of earlier versions do not say it.
    assert "decoded free" not in markdown(both(free, run())[0])

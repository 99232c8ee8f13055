"""Rationales that are the same for every row or every row of a label: shares by hand, and how they are told."""

import io
import pathlib

import pytest
from rich.console import Console

from r2d_jax.evaluation.distinct_texts import distinct_figures, repetition_of
from r2d_jax.evaluation.report import print_results
from r2d_jax.evaluation.report_values import warnings_of
from r2d_jax.evaluation.run_record import RunRecord, StageRecord


def of_cases(rows):
    return [f"Case {row} has a fever." for row in range(rows)]


def told(metrics):
    console = Console(file=io.StringIO(), width=300)
    print_results({"rows": 60} | metrics, console)
    return console.file.getvalue()


def test_shares_by_hand():
    assert distinct_figures(["a b", "a  b\n", "", "c"], ["a", "A", "b", "c"]) == {
        "rows": 4,
        "distinct_fraction": 0.75,
        "commonest_fraction": 0.5,
        "gold_distinct_fraction": 1.0,
        "gold_commonest_fraction": 0.25,
        "repeated": False,
    }
    nothing = distinct_figures([], [])
    assert (nothing["rows"], nothing["distinct_fraction"], nothing["repeated"]) == (0, None, False)
    unknown = distinct_figures(["a"] * 99, None)
    assert (unknown["distinct_fraction"], unknown["gold_distinct_fraction"]) == (1 / 99, None)
    assert not unknown["repeated"]


@pytest.mark.parametrize(
    ("rationales", "gold", "wanted"),
    [
        (["Fever."] * 60, of_cases(60), True),
        (["Urgent.", "Standard."] * 30, of_cases(60), True),
        ([""] * 60, of_cases(60), True),
        (of_cases(30) * 2, of_cases(60), False),
        (of_cases(29) * 2 + of_cases(2), of_cases(60), True),
        # Gold rationales of few forms are no fault of the model that writes them.
        (["Urgent.", "Standard."] * 30, ["So urgent.", "So standard.", "So."] * 20, False),
        (["Fever."] * 49, of_cases(49), False),
        (["Fever."] * 50, of_cases(50), True),
    ],
)
def test_less_than_half_as_distinct_as_gold_is_repetition(rationales, gold, wanted):
    found = distinct_figures(rationales, gold)
    assert found["repeated"] is wanted
    assert bool(repetition_of({"faithfulness": {"texts": found}})) is wanted


def test_repetition_is_told_in_table_and_report():
    rationales = ["It is urgent."] * 45 + ["It is standard."] * 15
    metrics = {"faithfulness": {"rows": 0, "texts": distinct_figures(rationales, of_cases(60))}}
    table = told(metrics)
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "distinct rationales 3.3 %" in lines
    assert "distinct rationales, gold 100.0 %" in lines
    wanted = (
        "3.3 % of them are distinct, of the gold ones 100.0 %; the commonest is that of 75.0 % of the rows"
    )
    assert f"warning: rationales repeat: {wanted}" in table
    assert "It is" not in table
    stages = tuple(StageRecord(number, {}, 0, 0, False, None) for number in (1, 2))
    run = RunRecord(pathlib.Path("run"), {}, (), stages, metrics, (), "", ())
    (warning,) = warnings_of(run)
    assert warning.startswith(f"Rationales repeat: {wanted}")


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"faithfulness": None},
        {"faithfulness": {}},
        {"faithfulness": {"texts": [1]}},
        {"faithfulness": {"texts": {"repeated": "yes"}}},
        {"faithfulness": {"texts": {"repeated": True, "distinct_fraction": "a"}}},
    ],
)
def test_an_evaluation_without_these_figures_tells_nothing(metrics):
    assert repetition_of(metrics) == ""

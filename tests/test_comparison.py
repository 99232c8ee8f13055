"""The table of a comparison, hand-worked, and what makes runs incomparable."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from r2d_jax.errors import UserError
from r2d_jax.evaluation import comparison
from r2d_jax.evaluation.comparison import RunResult, compare, read_result
from r2d_jax.evaluation.comparison_print import print_comparison
from r2d_jax.evaluation.comparison_table import as_csv, markdown
from r2d_jax.evaluation.intervals import PairedTest

GOLD = ("yes", "yes", "no", "no")


def result(predicted, collapsed=None, ids=("1", "2", "3", "4")):
    right = np.array([float(g == p) for g, p in zip(GOLD, predicted, strict=True)])
    both = {
        label: 2
        * sum(g == p == label for g, p in zip(GOLD, predicted, strict=True))
        / (GOLD.count(label) + predicted.count(label))
        for label in ("yes", "no")
    }
    metrics = {
        "accuracy": float(right.mean()),
        "macro_f1": sum(both.values()) / 2,
        "invalid_fraction": 0.0,
        "collapsed": collapsed,
    }
    return RunResult(metrics, ids, GOLD, tuple(predicted), {"accuracy": right})


GOOD = {0: result(("yes", "yes", "no", "no")), 1: result(("yes", "yes", "no", "yes"))}
BAD = {0: result(("yes",) * 4, collapsed="yes"), 1: result(("yes", "no", "no", "yes"))}


def test_figures_over_seeds_by_hand():
    table = compare({"good": GOOD, "bad": BAD}, "good", resamples=200)
    figures = table["methods"]["good"]["figures"]
    assert figures["accuracy"]["mean"] == pytest.approx(0.875)
    # Accuracies 1 and 0.75; macro-F1 1 and (4/5 + 2/3) / 2.
    assert figures["accuracy"]["sd"] == pytest.approx(0.25 / 2**0.5)
    assert figures["macro_f1"]["mean"] == pytest.approx((1 + (4 / 5 + 2 / 3) / 2) / 2)
    assert figures["accuracy"]["low"] <= 0.875 <= figures["accuracy"]["high"]
    test = table["tests"]["bad"]["accuracy"]
    assert test["difference"] == pytest.approx(0.5 - 0.875)
    assert "good" not in table["tests"]
    assert table["collapsed"] == {"good": [], "bad": [0]}
    assert table["rows"] == 4


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests():
    table = compare({"good": GOOD, "bad": BAD, "same": GOOD}, "good", resamples=200)
    bad, same = (table["tests"][name]["accuracy"] for name in ("bad", "same"))
    assert same["p_value"] == same["p_holm"] == 1.0
    assert bad["p_holm"] == pytest.approx(min(1.0, 2 * bad["p_value"]))


def test_holm_by_hand(monkeypatch):
    """0.01 counts three times, 0.03 twice and 0.04 once, but no p lies below that of a smaller one."""
    values = iter([0.04, 0.01, 0.03])

    def of_one_figure(statistics, rows, **settings):
        return PairedTest(0.0, 0.0, 0.0, next(values))

    monkeypatch.setattr(comparison, "TESTED", ("accuracy",))
    monkeypatch.setattr(comparison, "paired_test", of_one_figure)
    table = compare({"good": GOOD, "a": BAD, "b": BAD, "c": BAD}, "good", resamples=10)
    found = {name: tests["accuracy"]["p_holm"] for name, tests in table["tests"].items()}
    assert found == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


def test_outputs_that_are_no_label_are_no_class_of_the_interval_either():
    """20 of 40 rows right, 20 without a label: macro-F1 is (1 + 0) / 2 in every sample that has both labels."""
    gold = ("yes",) * 20 + ("no",) * 20
    run = RunResult({"macro_f1": 0.5}, tuple(map(str, range(40))), gold, ("yes",) * 20 + ("maybe",) * 20, {})
    figures = compare({"one": {0: run}}, "one", resamples=200)["methods"]["one"]["figures"]
    assert figures["macro_f1"] == {"mean": 0.5, "sd": None, "low": None, "high": None}


def test_methods_are_tested_over_the_seeds_that_both_have():
    more = GOOD | {2: result(("no",) * 4)}
    table = compare({"more": more, "bad": BAD | {3: GOOD[0]}}, "bad", resamples=20)
    assert table["tests"]["more"]["accuracy"]["difference"] == pytest.approx(0.875 - 0.5)


def test_one_seed_has_no_spread_and_says_so():
    table = compare({"good": {0: GOOD[0]}}, "good", resamples=50)
    assert table["methods"]["good"]["figures"]["accuracy"]["sd"] is None
    assert "±" not in markdown(table).split("\n\n")[0]


def test_markdown_and_csv_tell_the_same():
    table = compare({"good": GOOD, "bad": BAD}, "good", resamples=100)
    text = markdown(table)
    assert "| good | 2 |" in text
    # Collapse is not hidden behind accuracy.
    assert "| bad (!) | 2 |" in text
    assert "nearly one label only" in text
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert {row["method"] for row in rows} == {"good", "bad"}
    (accuracy,) = [row for row in rows if (row["method"], row["figure"]) == ("bad", "accuracy")]
    assert float(accuracy["mean"]) == pytest.approx(0.5)
    assert float(accuracy["difference"]) == pytest.approx(-0.375)
    # Each interval says of what it is: "low" and "high" stood beside the difference, and were those of the mean.
    figure, test = table["methods"]["bad"]["figures"]["accuracy"], table["tests"]["bad"]["accuracy"]
    assert [float(accuracy[f"mean_{end}"]) for end in ("low", "high")] == [figure["low"], figure["high"]]
    assert [float(accuracy[f"difference_{end}"]) for end in ("low", "high")] == [test["low"], test["high"]]
    assert not {"low", "high"} & accuracy.keys()
    assert "BLEU" not in text.split("\n")[0]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_what_is_printed_fits_the_terminal_and_is_what_the_file_says(width):
    """The Markdown table was printed: each row of a dozen columns broke into four or five lines."""
    methods = {"good": GOOD, "bad": BAD} | {f"a_method_with_a_name_{number}": GOOD for number in range(4)}
    table = compare(methods, "good", resamples=50)
    console = Console(file=io.StringIO(), width=width)
    print_comparison(table, console)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    words = re.sub(r"\s+", " ", printed)
    for cell in re.findall(r"[^|]+", markdown(table).replace(" p=", " | ")):
        for part in re.findall(r"[-+]?\d+\.\d+(?: ± \d+\.\d+)?|\[[-+]\d[^]]+\]", cell):
            assert part in words, part
    assert "bad (!)" in words
    assert "nearly one label only" in words


def test_support_and_distinct_rationales_stand_beside_those_of_gold():
    section = {
        "texts": {"distinct_fraction": 0.25, "gold_distinct_fraction": 1.0},
        "statements": {"unsupported_findings_fraction": 0.814},
        "gold_statements": {"unsupported_findings_fraction": 0.781},
    }
    run = result(("yes", "yes", "no", "no"))
    run = dataclasses.replace(run, metrics=run.metrics | {"faithfulness": section})
    table = compare({"one": {0: run}}, "one", resamples=10)
    labels, rationales, told, *_ = markdown(table).split("\n\n")
    assert labels.splitlines()[0].startswith("| method | seeds | macro-F1 | accuracy |")
    assert rationales.splitlines() == [
        "| method | seeds | distinct | unsupported findings |",
        "| --- | ---: | ---: | ---: |",
        "| one | 1 | 25.0 (100.0) | 81.4 (78.1) |",
    ]
    assert told.endswith("In brackets: of the gold rationales.\n")
    gold = [row for row in csv.DictReader(io.StringIO(as_csv(table))) if "gold" in row["figure"]]
    assert [float(row["mean"]) for row in gold] == [1.0, 0.781]
    assert table["statement_rules"] == [1]
    assert "rules" not in told


def test_statements_found_by_other_rules_are_not_compared():
    """Of the same rationales, the second version found 76.2 % unsupported, the first one 81.4 %."""
    runs = {}
    for name, rules in (("old", {}), ("new", {"rules": 2})):
        section = {"statements": {"unsupported_findings_fraction": 0.8}, "texts": {"distinct_fraction": 0.5}}
        run = result(("yes", "yes", "no", "no"))
        runs[name] = {0: dataclasses.replace(run, metrics=run.metrics | {"faithfulness": section | rules})}
    table = compare(runs, "old", resamples=10)
    text = markdown(table)
    assert "| method | seeds | distinct |" in text
    assert "left out: it was found by rules of versions 1, 2. `r2d eval --overwrite`" in text
    assert "unsupported findings" not in text


def test_costs_are_compared_and_tested_unscaled():
    """Costs 0 and 1 against 2 and 1: means 0.5 and 1.5 of the two seeds, each the mean of its rows."""

    def costing(*costs):
        plain = result(("yes",) * 4)
        metrics = plain.metrics | {"triage": {"expected_cost": float(np.mean(costs)), "under_fraction": 0.25}}
        return dataclasses.replace(
            plain, metrics=metrics, rows=plain.rows | {"triage.expected_cost": np.array(costs, float)}
        )

    cheap, dear = (
        {0: costing(0, 0, 0, 0), 1: costing(1, 1, 1, 1)},
        {0: costing(2, 2, 2, 2), 1: costing(1, 1, 1, 1)},
    )
    table = compare({"cheap": cheap, "dear": dear}, "cheap", resamples=50)
    assert table["methods"]["dear"]["figures"]["triage.expected_cost"]["mean"] == 1.5
    assert table["tests"]["dear"]["triage.expected_cost"]["difference"] == pytest.approx(1.0)
    text = markdown(table)
    assert "all figures in % but cost." in text
    assert "| dear (!) | 2 |" not in text
    row = next(line for line in text.splitlines() if line.startswith("| dear"))
    assert "25.0 ± 0.0 | 1.500 ± 0.707 |" in row


@pytest.mark.parametrize("ids", [("1", "2", "3", "5"), ("1", "3", "2", "4")])
def test_runs_of_other_rows_or_another_order_are_not_compared(ids):
    other = {0: result(("yes", "yes", "no", "no"), ids=ids)}
    with pytest.raises(UserError, match="different test rows"):
        compare({"good": GOOD, "other": other}, "good", resamples=10)


def test_runs_with_other_gold_labels_are_not_compared():
    """Where rows have no ids, those of another file have the same line numbers."""
    good = result(("yes", "yes", "no", "no"))
    spaced = dataclasses.replace(good, gold=("yes ", "yes", "no", "no"))
    assert compare({"good": GOOD, "spaced": {0: spaced}}, "good", resamples=10)["rows"] == 4
    other = dataclasses.replace(good, gold=("yes", "no", "no", "no"))
    with pytest.raises(UserError, match="different gold labels"):
        compare({"good": GOOD, "other": {0: other}}, "good", resamples=10)


def test_a_gold_label_outside_the_set_is_missed_in_intervals_and_tests():
    """20 of 40 rows have a gold label that is none of the set, and get it as a prediction all the same."""
    gold = ("yes",) * 20 + ("maybe",) * 20
    out = np.repeat([0.0, 1.0], 20)
    run = RunResult({"macro_f1": 0.5}, tuple(map(str, range(40))), gold, gold, {"invalid_fraction": out})
    table = compare({"one": {0: run}, "two": {0: run}}, "one", resamples=200)
    figures = table["methods"]["one"]["figures"]
    assert figures["macro_f1"] == {"mean": 0.5, "sd": None, "low": None, "high": None}
    assert table["tests"]["two"]["macro_f1"]["difference"] == 0


def test_one_row_has_no_interval():
    def run(label, right):
        figures = {"accuracy": right, "macro_f1": right}
        return {0: RunResult(figures, ("1",), ("yes",), (label,), {"accuracy": np.array([right])})}

    table = compare({"bad": run("no", 0.0), "good": run("yes", 1.0)}, "bad", resamples=20)
    test = table["tests"]["good"]["accuracy"]
    assert (test["difference"], test["low"], test["high"]) == (1.0, None, None)
    assert "| +100.0 p=1.000 |" in markdown(table)


def test_a_damaged_evaluation_is_named(tmp_path):
    with pytest.raises(UserError, match="no readable evaluation"):
        read_result(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({}))
    (tmp_path / "predictions.jsonl").write_text("{")
    with pytest.raises(UserError, match="no readable evaluation"):
        read_result(tmp_path)

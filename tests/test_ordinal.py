"""Harm of wrong levels: rates, costs and weighted kappa against hand-worked values and scikit-learn."""

import io
import re
import types

import numpy as np
import pytest
import sklearn.metrics
from rich.console import Console

pytest_plugins = ["cli_cases"]

from r2d_jax.config import EvaluationConfig, TriageScoringConfig
from r2d_jax.config_file import dump_config, load_config
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError
from r2d_jax.evaluation.case_table import case_table
from r2d_jax.evaluation.ordinal import level_counts, quadratic_kappa_of, scale_of, triage_scores
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.report import print_results
from r2d_jax.evaluation.report_labels import class_rows, matrix
from r2d_jax.evaluation.scoring import score

ORDER = ("red", "orange", "yellow", "green")
LABELS = sorted(ORDER)


def scale(costs="linear", order=ORDER, first="most_urgent", labels=LABELS):
    return scale_of(TriageScoringConfig(tuple(order), first, costs), labels)


def scores(gold, predicted, using=None):
    using = using or scale()
    return triage_scores(using, using.places(gold), using.places(predicted))


def test_rates_levels_and_cost_by_hand():
    gold = ["red", "red", "orange", "yellow", "green", "green", "orange", "yellow"]
    # Under by 1, right, over by 1, right, over by 3, no label, under by 2, right.
    predicted = ["orange", "red", "red", "yellow", "red", "purple", "green", " yellow "]
    figures = scores(gold, predicted).figures
    assert figures["under_fraction"] == pytest.approx(2 / 8)
    assert figures["under_many_fraction"] == pytest.approx(1 / 8)
    assert figures["over_fraction"] == pytest.approx(2 / 8)
    assert figures["exact_fraction"] == pytest.approx(3 / 8)
    assert figures["invalid_fraction"] == pytest.approx(1 / 8)
    assert (figures["under_mean_levels"], figures["over_mean_levels"]) == (1.5, 2.0)
    # 1 + 0 + 1 + 0 + 3 + 3 (no label for green costs as much as red) + 2 + 0.
    assert figures["expected_cost"] == pytest.approx(10 / 8)
    # Squares 1, 1, 9, 9, 4; under-triage three times.
    assert scores(gold, predicted, scale("quadratic")).figures["expected_cost"] == pytest.approx(24 / 8)
    # Green has no level below it, so its worst label costs 3, not 9.
    assert scores(gold, predicted, scale("linear_under_x3")).figures["expected_cost"] == pytest.approx(16 / 8)
    assert scores(gold, predicted, scale("quadratic_under_x3")).figures["expected_cost"] == pytest.approx(
        (3 + 1 + 9 + 9 + 12) / 8
    )
    found = level_counts(scale(), scale().places(gold), scale().places(predicted))
    assert [(one["direction"], one["levels"], one["rows"]) for one in found["by_levels"]] == [
        ("under", 1, 1),
        ("under", 2, 1),
        ("over", 1, 1),
        ("over", 3, 1),
    ]
    # Shares are of the rows whose gold label has a level.
    unknown = level_counts(
        scale(), np.append(scale().places(gold), -1), np.append(scale().places(predicted), 3)
    )
    assert [one["fraction"] for one in unknown["by_levels"]] == [1 / 8] * 4
    assert unknown == found
    assert found["by_gold"][3] == {
        "gold": "green",
        "rows": 2,
        "predicted": [1, 0, 0, 0],
        "invalid": 1,
        "mean_cost": 3.0,
    }


def test_the_direction_is_what_the_config_says():
    """The same labels read the other way round: what was under-triage is over-triage."""
    gold, predicted = ["red", "green", "green"], ["green", "red", "yellow"]
    one = scores(gold, predicted, scale("linear_under_x3"))
    other = scores(gold, predicted, scale("linear_under_x3", ORDER[::-1], "least_urgent"))
    assert one.figures == other.figures
    turned = scores(gold, predicted, scale("linear_under_x3", ORDER, "least_urgent"))
    assert turned.figures["under_fraction"] == one.figures["over_fraction"] == pytest.approx(2 / 3)
    assert turned.figures["over_fraction"] == one.figures["under_fraction"] == pytest.approx(1 / 3)
    # 9 + 3 + 1 and 3 + 9 + 3.
    assert (one.figures["expected_cost"], turned.figures["expected_cost"]) == (
        pytest.approx(13 / 3),
        pytest.approx(15 / 3),
    )
    assert turned.figures["quadratic_kappa"] == pytest.approx(one.figures["quadratic_kappa"])


def test_given_costs_are_gold_by_predicted():
    costs = {"a": {"b": 1, "c": 5}, "b": {"a": 2, "b": 0.5, "c": 0}, "c": {"a": 7, "b": 4}}
    for order, first in ((("a", "b", "c"), "most_urgent"), (("c", "b", "a"), "least_urgent")):
        using = scale(costs, order, first, ["a", "b", "c"])
        assert using.labels == ("a", "b", "c")
        assert using.costs.tolist() == [[0, 1, 5], [2, 0.5, 0], [7, 4, 0]]
        assert using.invalid_costs.tolist() == [5, 2, 7]
        found = scores(["a", "b", "c", "b"], ["c", "b", "a", "?"], using)
        told = level_counts(using, using.places(["b", "b"]), using.places(["b", "?"]))["by_gold"]
        assert [one["mean_cost"] for one in told] == [None, (0.5 + 2) / 2, None]
        assert found.figures["expected_cost"] == pytest.approx((5 + 0.5 + 7 + 2) / 4)


def farthest(label):
    place = ORDER.index(label)
    return ORDER[-1] if len(ORDER) - 1 - place >= place else ORDER[0]


@pytest.mark.parametrize("seed", range(6))
def test_kappa_equals_scikit_learn_also_of_resampled_rows(seed):
    rng = np.random.default_rng(seed)
    gold = rng.choice(ORDER, 60, p=[0.1, 0.2, 0.3, 0.4]).tolist()
    predicted = [one if rng.random() < 0.4 else str(rng.choice([*ORDER, "no label"])) for one in gold]
    known = [one if one in ORDER else farthest(label) for label, one in zip(gold, predicted, strict=True)]
    found = scores(gold, predicted)

    def oracle(rows):
        return sklearn.metrics.cohen_kappa_score(
            [ORDER.index(gold[row]) for row in rows],
            [ORDER.index(known[row]) for row in rows],
            labels=range(4),
            weights="quadratic",
        )

    assert found.figures["quadratic_kappa"] == pytest.approx(oracle(range(60)))
    samples = rng.integers(0, 60, (5, 60))
    statistic = found.statistics["quadratic_kappa"]
    assert statistic(samples) == pytest.approx([oracle(rows) for rows in samples])
    assert statistic(samples[0]) == pytest.approx(oracle(samples[0]))
    # Kappa itself sees no order of the levels but their distance.
    assert -1 <= found.figures["quadratic_kappa"] <= 1


def test_kappa_of_one_level_alone_is_none_and_of_chance_zero():
    assert scores(["red"] * 3, ["red"] * 3).figures["quadratic_kappa"] is None
    assert scores(["red", "green"], ["red", "red"]).figures["quadratic_kappa"] == pytest.approx(0)
    assert scores(["red", "green"], ["red", "green"]).figures["quadratic_kappa"] == 1
    assert scores(["red", "green"], ["green", "red"]).figures["quadratic_kappa"] == pytest.approx(-1)
    # A row whose gold label has no level does not count, whatever was predicted.
    for level in (0, 2):
        statistic = quadratic_kappa_of(np.array([-1, 0, 3]), np.array([level, 0, 3]))
        assert float(statistic(np.arange(3))) == 1


def test_no_label_for_a_middle_level_counts_in_kappa_as_the_least_urgent():
    found = scores(["a", "a", "b", "c"], ["a", "a", "?", "c"], scale(order="abc", labels=["a", "b", "c"]))
    expected = sklearn.metrics.cohen_kappa_score([0, 0, 1, 2], [0, 0, 2, 2], weights="quadratic")
    assert found.figures["quadratic_kappa"] == pytest.approx(expected)


def test_rows_whose_gold_label_has_no_level_do_not_count():
    using = scale(labels=())
    found = scores(["red", "other", "green"], ["red", "red", "yellow"], using)
    assert found.figures["over_fraction"] == 0.5
    assert np.isnan(found.rows["expected_cost"]).tolist() == [False, True, False]
    assert scores(["other"], ["red"], using).figures["expected_cost"] is None


def test_rows_add_up_to_figures_and_sum_to_one():
    rng = np.random.default_rng(1)
    found = scores(rng.choice(ORDER, 40).tolist(), rng.choice([*ORDER, "?"], 40).tolist())
    for name, values in found.rows.items():
        assert np.nanmean(values) == pytest.approx(found.figures[name]), name
    shares = ("under_fraction", "over_fraction", "exact_fraction", "invalid_fraction")
    assert sum(found.figures[name] for name in shares) == pytest.approx(1)


def settings(text):
    return ["data.source=triage", f"evaluation.triage={text}"]


@pytest.mark.parametrize(
    ("triage", "where", "wanted"),
    [
        ("{order: [a, b], first: most_urgnt}", "evaluation.triage.first", "most_urgent"),
        ("{order: [a, b]}", "evaluation.triage.first", "required"),
        ("{order: [a], first: most_urgent}", "evaluation.triage.order", "two labels"),
        ("{order: [a, b, a], first: most_urgent}", "evaluation.triage.order", "each once"),
        ("{order: [a, b], first: most_urgent, costs: quadratik}", "costs", "Did you mean 'quadratic'?"),
        (
            "{order: [urgent, minor], first: most_urgent, costs: {urgent: {minr: 1}}}",
            "costs",
            "'minr' is not a label of evaluation.triage.order. Did you mean 'minor'?",
        ),
        ("{order: [a, b], first: most_urgent, costs: {a: {b: 1}}}", "costs.b", "no cost of predicting 'a'"),
        (
            "{order: [a, b], first: most_urgent, costs: {a: {b: -1}, b: {a: 1}}}",
            "costs.a.b",
            "0 or more",
        ),
        ("{order: [a, b], first: most_urgent, costs: {a: {b: .inf}, b: {a: 1}}}", "costs.a.b", ""),
        ("{order: [a, b], first: most_urgent, cost: linear}", "triage.cost", "Did you mean 'costs'?"),
    ],
)
def test_settings_that_do_not_fit_are_told_before_anything_else(triage, where, wanted):
    with pytest.raises(UserError) as caught:
        load_config(None, settings(triage))
    assert where in str(caught.value)
    assert wanted in str(caught.value)


def test_costs_of_a_file_are_replaced_as_a_whole_and_survive_a_dump(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(
        "data: {source: triage}\n"
        "evaluation: {triage: {order: [a, b], first: most_urgent, costs: {a: {b: 2}, b: {a: 1}}}}\n"
    )
    assert load_config(path).evaluation.triage.costs == {"a": {"b": 2.0}, "b": {"a": 1.0}}
    (tmp_path / "dumped.yaml").write_text(dump_config(load_config(path)))
    assert load_config(tmp_path / "dumped.yaml") == load_config(path)
    (tmp_path / "next.yaml").write_text(
        "extends: base.yaml\nevaluation: {triage: {order: [x, y], costs: {x: {y: 3}, y: {x: 1}}}}\n"
    )
    assert load_config(tmp_path / "next.yaml").evaluation.triage.costs == {"x": {"y": 3.0}, "y": {"x": 1.0}}


def test_an_order_that_does_not_fit_the_labels_names_the_nearest():
    with pytest.raises(UserError, match=r"'ornage' is not a label of the data. Did you mean 'orange'\?"):
        scale(order=("red", "ornage", "yellow", "green"))
    with pytest.raises(UserError, match="lacks 'yellow' of the labels"):
        scale(order=("red", "orange", "green"))
    with pytest.raises(UserError, match="twice, apart from blanks"):
        scale(order=("red", "orange", "yellow", "green", "red "))
    # A wrong label column holds case text, which must not be quoted.
    with pytest.raises(UserError) as caught:
        scale(order=("Zyzzyva", "b"), labels=["Zyzzyva " * 9, "b"])
    assert str(caught.value).count("Zyzzyva") == 1


def test_labels_are_not_listed_where_they_may_be_case_text_or_are_many():
    many = [f"Zyzzyva {place}" for place in range(30)]
    for labels, order, told in (
        (many, ("a", "b"), "'a' is not a label"),
        # So few, or so near a one, would be named.
        (many[:3], ("a", "b"), "'a' is not a label of the data. Check data.columns.label"),
        (many, ("zyzzywa 1", "b"), "'zyzzywa 1' is not a label of the data. Check data.columns.label"),
        (many, many[:-4], "lacks 4 of the labels"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            scale_of(TriageScoringConfig(tuple(order), "most_urgent"), labels, hide_labels=True)
        assert "Zyzzyva" not in str(caught.value)
    with pytest.raises(
        UserError, match=r"'a' is not a label of the data\. Choose one of the 30 that there are"
    ):
        scale(order=("a", "b"), labels=many)


def test_it_is_told_before_the_training(job):
    triage = "{order: [urgent, not urgnt], first: most_urgent}"
    job(None, f"evaluation.triage={triage}").refused(
        "evaluation.triage.order: 'not urgnt' is not a label of the data", "Did you mean 'not urgent'"
    )


def test_the_section_of_an_evaluation():
    examples = [Example(str(row), "q", label, {}) for row, label in enumerate(["red", "green", "green"])]
    predictions = [Prediction(label, True, 0.9) for label in ("green", "green", "?")]
    triage = TriageScoringConfig(ORDER, "most_urgent", "linear_under_x3")
    found = score(examples, predictions, LABELS, None, EvaluationConfig(resamples=50, triage=triage))
    section = found.metrics["triage"]
    assert (section["order"], section["costs"]) == (list(ORDER), "linear_under_x3")
    assert section["cost_matrix"][0] == [0, 3, 6, 9]
    assert section["invalid_costs"] == [9, 6, 3, 3]
    assert section["expected_cost"] == pytest.approx((9 + 0 + 3) / 3)
    assert "rules" not in section
    assert found.rows["triage.expected_cost"].tolist() == [9, 0, 3]
    low, high = found.metrics["intervals"]["triage.expected_cost"]
    assert 0 <= low <= section["expected_cost"] <= high <= 9
    plain = score(examples, predictions, LABELS, None, EvaluationConfig(resamples=0))
    assert "triage" not in plain.metrics
    assert "subgroups" not in plain.metrics


@pytest.mark.parametrize("first", ["most_urgent", "least_urgent"])
def test_tables_show_levels_by_urgency_and_not_by_name(first):
    examples = [Example(str(row), "q", label, {}) for row, label in enumerate(["green", "red", "orange"])]
    predictions = [Prediction(label, True, 0.9) for label in ("green", "orange", "?")]
    order = ORDER if first == "most_urgent" else ORDER[::-1]
    settings = EvaluationConfig(resamples=0, triage=TriageScoringConfig(order, first))
    metrics = score(examples, predictions, LABELS, None, settings).metrics
    assert list(metrics["per_class"]) == metrics["confusion"]["labels"] == list(ORDER)
    console = Console(record=True, width=120, file=io.StringIO())
    print_results(metrics, console)
    table = console.export_text().partition("By label")[2]
    assert re.findall(r"^ *(red|orange|yellow|green)\b", table, re.M) == list(ORDER)
    predicted = [
        {"label": one.label, "gold_label": two.label} for one, two in zip(predictions, examples, strict=True)
    ]
    run = types.SimpleNamespace(labels=tuple(LABELS), metrics=metrics, predictions=predicted)
    assert [row["label"] for row in class_rows(run)["classes"]][:4] == list(ORDER)
    assert [row["label"] for row in matrix(run)["rows"]] == list(ORDER)
    assert case_table({1: run}, {1: "run"}, None)["labels"] == list(ORDER)
    # Figures do not depend on it, and labels without an order stay as they are.
    plain = score(examples, predictions, LABELS, None, EvaluationConfig(resamples=0)).metrics
    assert list(plain["per_class"]) == LABELS
    assert plain["per_class"] == metrics["per_class"]
    assert plain["macro_f1"] == metrics["macro_f1"]

"""The label of least expected cost: hand-worked, against a plain loop, and beside the generated label."""

import numpy as np
import pytest

from r2d_jax.config import EvaluationConfig, TriageScoringConfig
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.decision import decisions, expected_costs, least_cost
from r2d_jax.evaluation.ordinal import scale_of
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.scoring import score
from r2d_jax.evaluation.triage_scoring import evaluate_triage, least_cost_labels

ORDER = ("high", "middle", "low")
SETTINGS = TriageScoringConfig(ORDER, "most_urgent", "linear_under_x3")
# Linear, three times as much below the gold level.
COSTS = np.array([[0, 3, 6], [1, 0, 3], [2, 1, 0]], float)


def test_a_small_chance_of_harm_outweighs_the_most_probable_label():
    probabilities = np.array([[0.3, 0.1, 0.6], [0.0, 0.2, 0.8], [0.05, 0.1, 0.85]])
    # Row 1: high 0.1 + 1.2, middle 0.9 + 0.6, low 1.8 + 0.3.
    expected = [[1.3, 1.5, 2.1], [1.8, 0.8, 0.6], [1.8, 1.0, 0.6]]
    assert expected_costs(probabilities, COSTS) == pytest.approx(np.array(expected))
    assert least_cost(probabilities, COSTS).tolist() == [0, 2, 2]


def test_it_is_the_best_of_all_labels_by_a_plain_loop():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.5), 200)
    costs = rng.random((5, 5)) * 10
    for row, chosen in zip(probabilities.tolist(), least_cost(probabilities, costs).tolist(), strict=True):
        sums = [sum(share * costs[gold, label] for gold, share in enumerate(row)) for label in range(5)]
        assert sums[chosen] == pytest.approx(min(sums))


def test_equal_costs_for_every_mistake_give_the_most_probable_label():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(4), 100)
    assert (least_cost(probabilities, 1 - np.eye(4)) == probabilities.argmax(axis=1)).all()


def test_a_tie_goes_to_the_first_label_whatever_the_rounding():
    assert least_cost(np.array([[0.5, 0.5]]), 1 - np.eye(2)).tolist() == [0]
    # In binary 0.1 + 0.2, the cost of the first, is more than 0.3, that of the second.
    costs = np.array([[1, 0, 9, 9], [1, 0, 9, 9], [0, 1, 9, 9], [0, 0, 9, 9]], float)
    assert least_cost(np.array([[0.1, 0.2, 0.3, 0.4]]), costs).tolist() == [0]
    assert least_cost(np.array([[0.2, 0.8]]), np.zeros((2, 2))).tolist() == [0]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        expected_costs(np.ones((2, 3)) / 3, np.zeros((2, 2)))


def test_columns_are_matched_to_levels_by_name():
    scale = scale_of(SETTINGS, sorted(ORDER))
    by_level = np.array([[0.3, 0.1, 0.6], [0.1, 0.8, 0.1]])
    for labels in (ORDER, sorted(ORDER), ORDER[::-1]):
        columns = by_level[:, [ORDER.index(label) for label in labels]]
        found = decisions(scale, labels, columns)
        assert found["argmax"].tolist() == [2, 1]
        assert found["least_cost"].tolist() == [0, 1]


def test_the_label_of_least_cost_is_told_as_the_model_spells_it():
    labels = [" low ", "high", "middle"]
    probabilities = np.array([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
    assert least_cost_labels(scale_of(SETTINGS, labels), labels, probabilities) == ["high", "middle", " low "]
    # Of two spellings the first.
    twice = ["low", *labels]
    assert least_cost_labels(scale_of(SETTINGS, twice), twice, np.eye(4)[:2]) == ["low", "low"]


def test_rows_whose_gold_label_has_no_level_save_nothing():
    probabilities = np.array([[0.3, 0.1, 0.6], [0.2, 0.2, 0.6]])
    found = evaluate_triage(SETTINGS, ORDER, ["low", "elsewhere"], ["high", "high"], probabilities)
    argmax, least = (found.section["rules"][rule] for rule in ("argmax", "least_cost"))
    cost = scale_of(SETTINGS, ORDER).costs[2, 0]
    assert (argmax["cost_saving"], least["cost_saving"]) == (cost, 0.0)


def test_the_rules_stand_beside_the_generated_label():
    gold, generated = ["high", "low", "middle"], ["low", "low", "none of them"]
    examples = [Example(str(row), "q", label, {}) for row, label in enumerate(gold)]
    predictions = [Prediction(label, True, 0.9) for label in generated]
    labels = ("high", "low", "middle")
    probabilities = np.array([[0.3, 0.6, 0.1], [0.0, 0.8, 0.2], [0.2, 0.2, 0.6]])
    settings = EvaluationConfig(resamples=100, triage=SETTINGS)
    found = score(examples, predictions, labels, None, settings, probabilities=probabilities)
    section = found.metrics["triage"]
    # Generated: 6, 0 and, for no label, the 3 of the worst; argmax: low, low, middle; by cost: high, low, middle.
    assert section["expected_cost"] == pytest.approx(9 / 3)
    argmax, least = section["rules"]["argmax"], section["rules"]["least_cost"]
    assert argmax["expected_cost"] == pytest.approx(6 / 3)
    assert argmax["cost_saving"] == pytest.approx(3 / 3)
    assert argmax["under_fraction"] == pytest.approx(1 / 3)
    assert least["expected_cost"] == pytest.approx(0)
    assert least["cost_saving"] == pytest.approx(9 / 3)
    assert least["invalid_fraction"] == argmax["invalid_fraction"] == 0
    low, high = found.metrics["intervals"]["triage.rules.least_cost.cost_saving"]
    assert 0 <= low <= 3 <= high <= 6
    assert found.rows["triage.rules.argmax.expected_cost"].tolist() == [6, 0, 0]

"""Which label to choose from probabilities when mistakes differ in harm; in: probabilities, costs, out: labels."""

from collections.abc import Sequence

import numpy as np

from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.ordinal import TriageScale

_TIE = 1e-9
"""Expected costs whose distance is less than this share of the largest cost are a tie, not rounding."""


def expected_costs(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """What choosing each label would cost on average, were the probabilities right.

    Args:
        probabilities: float [N, K] of the gold label; each row sums to 1.
        costs: float [K, K], gold x chosen.

    Returns:
        Float64 [N, K]: entry (n, j) is the sum over k of probabilities[n, k] * costs[k, j].

    Raises:
        ValueError: shapes do not fit.
    """
    probabilities, costs = np.asarray(probabilities, float), np.asarray(costs, float)
    if costs.shape != (probabilities.shape[-1],) * 2:
        raise ValueError(f"costs {costs.shape} do not fit probabilities of {probabilities.shape[-1]} labels")
    return probabilities @ costs


def least_cost(probabilities: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The label of least expected cost (Bayes decision, Berger, 1985, section 1.3); of a tie the first label.

    With most urgent first, a tie goes to the more urgent label.

    Args:
        probabilities: float [N, K].
        costs: float [K, K], gold x chosen.

    Returns:
        int64 [N].

    Raises:
        ValueError: shapes do not fit.
    """
    expected = expected_costs(probabilities, costs)
    room = _TIE * max(float(np.max(costs, initial=0.0)), 0.0)
    tied = expected <= expected.min(axis=-1, keepdims=True) + room
    return tied.argmax(axis=-1)


def decisions(scale: TriageScale, labels: Sequence[str], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Levels chosen by each rule.

    Args:
        scale: K levels.
        labels: the label of each column of the probabilities, in any order; all of them have a level.
        probabilities: float [N, K].

    Returns:
        argmax (the most probable label; of a tie the more urgent) and least_cost: int64 [N], levels.
    """
    # A sum, for two labels that differ in blanks alone are one.
    level_of = [[float(normalise_label(label) == level) for level in scale.labels] for label in labels]
    by_level = np.asarray(probabilities, float) @ np.array(level_of)
    return {"argmax": by_level.argmax(axis=-1), "least_cost": least_cost(by_level, scale.costs)}

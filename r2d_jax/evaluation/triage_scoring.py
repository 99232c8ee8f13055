"""The section "triage" of metrics.json; in: gold and generated labels and probabilities, out: figures, row scores."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from r2d_jax.config import TriageScoringConfig
from r2d_jax.evaluation.decision import decisions
from r2d_jax.evaluation.intervals import Statistic, mean_of
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.ordinal import TriageScale, TriageScores, level_counts, scale_of, triage_scores

PREFIX = "triage."
RULES = f"{PREFIX}rules."


@dataclasses.dataclass(frozen=True)
class TriageEvaluation:
    """Harm of an evaluation.

    Attributes:
        section: for metrics.json.
        rows: dotted figure to float64 [N], the part of each row; nan where the row does not count.
        statistics: dotted figure to its `Statistic`.
    """

    section: dict[str, Any]
    rows: dict[str, np.ndarray]
    statistics: dict[str, Statistic]


def evaluate_triage(
    settings: TriageScoringConfig,
    labels: Sequence[str],
    gold: Sequence[str],
    predicted: Sequence[str],
    probabilities: np.ndarray | None = None,
) -> TriageEvaluation:
    """Harm of the generated labels and, where probabilities are known, of two rules that choose by them.

    Args:
        settings: order and costs.
        labels: K labels of the model; empty: not known.
        gold: N gold labels; a row whose label has no level is left out and counted.
        predicted: N generated labels.
        probabilities: float [N, K] of `labels`; None: the rules are left out.

    Returns:
        The section: order (most urgent first), costs, cost_matrix [gold][predicted] and invalid_costs in this order,
        rows, rows_outside_order, the figures of `triage_scores`, what `level_counts` returns, and rules: argmax and
        least_cost, each with the same figures and cost_saving (mean cost of the generated labels less its own, on
        the same rows).

    Raises:
        UserError: from `scale_of`.
    """
    scale = scale_of(settings, labels)
    levels = scale.places(gold)
    generated = scale.places(predicted)
    scores = triage_scores(scale, levels, generated)
    counted = int((levels >= 0).sum())
    section: dict[str, Any] = {
        "order": list(scale.labels),
        "costs": scale.named,
        "cost_matrix": scale.costs.tolist(),
        "invalid_costs": scale.invalid_costs.tolist(),
        "rows": counted,
        "rows_outside_order": len(levels) - counted,
        **scores.figures,
        **level_counts(scale, levels, generated),
    }
    rows, statistics = _named(PREFIX, scores)
    if probabilities is not None:
        section["rules"] = {}
        for rule, chosen in decisions(scale, labels, probabilities).items():
            found = triage_scores(scale, levels, chosen)
            saving = scores.rows["expected_cost"] - found.rows["expected_cost"]
            found.rows["cost_saving"], found.statistics["cost_saving"] = saving, mean_of(saving)
            found.figures["cost_saving"] = float(np.nanmean(saving)) if counted else None
            section["rules"][rule] = found.figures
            more_rows, more_statistics = _named(f"{RULES}{rule}.", found)
            rows |= more_rows
            statistics |= more_statistics
    return TriageEvaluation(section, rows, statistics)


def least_cost_labels(scale: TriageScale, labels: Sequence[str], probabilities: np.ndarray) -> list[str]:
    """For each row the label of least expected cost, as the model spells it, of probabilities [N, K] of K labels."""
    spelled = {normalise_label(label): label for label in reversed(labels)}
    levels = decisions(scale, labels, probabilities)["least_cost"]
    return [spelled[scale.labels[level]] for level in levels]


def _named(prefix: str, scores: TriageScores) -> tuple[dict[str, np.ndarray], dict[str, Statistic]]:
    return (
        {prefix + name: values for name, values in scores.rows.items()},
        {prefix + name: statistic for name, statistic in scores.statistics.items()},
    )

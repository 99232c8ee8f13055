"""Labels ordered by urgency; in: order and costs of a config, gold and predicted labels, out: figures of harm."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from r2d_jax.config import TriageScoringConfig
from r2d_jax.config_check import nearest
from r2d_jax.data.reading.raw_rows import shown
from r2d_jax.errors import UserError
from r2d_jax.evaluation.intervals import Statistic, mean_of
from r2d_jax.evaluation.metrics import normalise_label

_UNDER_FACTOR = 3.0
_MANY_LEVELS = 2
_CHECK_COLUMN = "Check data.columns.label: what it holds looks like free text or names."


@dataclasses.dataclass(frozen=True)
class TriageScale:
    """Levels of urgency and what each mistake costs. K levels, most urgent first, whatever order the config has.

    Attributes:
        labels: as `normalise_label` has them.
        costs: float64 [K, K], gold x predicted.
        named: the built-in costs by name, or "given".
    """

    labels: tuple[str, ...]
    costs: np.ndarray
    named: str

    @property
    def invalid_costs(self) -> np.ndarray:
        """Float64 [K]: what an output that is no label costs, by gold level: as much as the worst label."""
        return self.costs.max(axis=1)

    def places(self, labels: Sequence[str]) -> np.ndarray:
        """Level of each label, int64 [N]; -1 for what is none."""
        index = {label: place for place, label in enumerate(self.labels)}
        return np.array([index.get(normalise_label(label), -1) for label in labels], np.int64)


def scale_of(
    settings: TriageScoringConfig, labels: Sequence[str], *, hide_labels: bool = False
) -> TriageScale:
    """The scale of a config.

    Args:
        settings: checked by `config_check`.
        labels: the label set, whose labels must be those of the order; empty: not known.
        hide_labels: they may be case text, so that an error names none.

    Raises:
        UserError: the order has a label that the data lack (names the nearest), or lacks one of theirs.
    """
    order = [normalise_label(label) for label in settings.order]
    known = [normalise_label(label) for label in labels]
    if len(set(order)) < len(order):
        raise UserError(
            "evaluation.triage.order", "names a label twice, apart from blanks", "Name every label once."
        )
    for label in order if known else ():
        if label not in known:
            fix = _CHECK_COLUMN if hide_labels else _nearest(label, known)
            raise UserError("evaluation.triage.order", f"{label!r} is not a label of the data", fix)
    if lacking := [label for label in known if label not in order]:
        raise UserError(
            "evaluation.triage.order",
            f"lacks {len(lacking) if hide_labels else shown(lacking[:3])} of the labels of the data",
            "Name every label once, or merge labels with data.label_map.",
        )
    if isinstance(settings.costs, str):
        matrix = _built_in(settings.costs, len(order), most_urgent_first=settings.first == "most_urgent")
        named = settings.costs
    else:
        costs = settings.costs
        matrix = np.array(
            [[costs.get(gold, {}).get(given, 0.0) for given in settings.order] for gold in settings.order]
        )
        named = "given"
    if settings.first == "least_urgent":
        order, matrix = order[::-1], matrix[::-1, ::-1]
    return TriageScale(tuple(order), np.ascontiguousarray(matrix), named)


def _nearest(label: str, known: Sequence[str]) -> str:
    # A long label is hardly one, but the text of a wrong column.
    return nearest(label, [one for one in known if shown([one]) == repr(one)])


def _built_in(name: str, levels: int, *, most_urgent_first: bool) -> np.ndarray:
    place = np.arange(levels, dtype=float)
    less_urgent = place - place[:, None] if most_urgent_first else place[:, None] - place
    costs = np.abs(less_urgent) ** (2 if name.startswith("quadratic") else 1)
    return np.where(less_urgent > 0, _UNDER_FACTOR * costs, costs) if name.endswith("_under_x3") else costs


@dataclasses.dataclass(frozen=True)
class TriageScores:
    """What one way to choose labels scores.

    Attributes:
        figures: by name; None where no row has a part in it.
        rows: figure to float64 [N], the part of each row; nan for a gold label that has no level.
        statistics: the same figures of resampled rows.
    """

    figures: dict[str, float | None]
    rows: dict[str, np.ndarray]
    statistics: dict[str, Statistic]


def triage_scores(scale: TriageScale, gold: np.ndarray, predicted: np.ndarray) -> TriageScores:
    """Harm of predictions.

    Under-triage: predicted less urgent than gold; over-triage: more urgent. An output that is no label is neither;
    it has a share of its own, costs as much as the worst label of its row, and counts in kappa as the level
    farthest from gold (of two equally far, the less urgent), so that leaving cases undecided never pays.

    Args:
        scale: K levels.
        gold: int64 [N], levels; rows with -1 do not count.
        predicted: int64 [N], levels, -1 for no label.

    Returns:
        under_fraction, over_fraction, exact_fraction, invalid_fraction (sum 1), under_many_fraction (under-triage by
        two levels or more), under_mean_levels and over_mean_levels (of the rows concerned), expected_cost (mean cost
        of gold x predicted) and quadratic_kappa (Cohen, 1968, weights of squared distance).
    """
    counted, valid = gold >= 0, predicted >= 0
    levels = np.where(valid, predicted - gold, 0)
    cost = np.where(valid, scale.costs[gold, predicted], scale.invalid_costs[gold])

    def share(flags: np.ndarray) -> np.ndarray:
        return np.where(counted, flags.astype(float), np.nan)

    under, over = valid & (levels > 0), valid & (levels < 0)
    rows = {
        "under_fraction": share(under),
        "over_fraction": share(over),
        "exact_fraction": share(valid & (levels == 0)),
        "invalid_fraction": share(~valid),
        "under_many_fraction": share(levels >= _MANY_LEVELS),
        "under_mean_levels": np.where(counted & under, levels, np.nan),
        "over_mean_levels": np.where(counted & over, -levels, np.nan),
        "expected_cost": np.where(counted, cost, np.nan),
    }
    statistics: dict[str, Statistic] = {
        name: mean_of(values, share=name.endswith("_fraction")) for name, values in rows.items()
    }
    last = len(scale.labels) - 1
    farthest = np.where(gold <= last - gold, last, 0)
    statistics["quadratic_kappa"] = quadratic_kappa_of(gold, np.where(valid, predicted, farthest))
    every = np.arange(len(gold))
    values = {name: float(statistic(every)) for name, statistic in statistics.items()}
    return TriageScores(
        {name: value if np.isfinite(value) else None for name, value in values.items()}, rows, statistics
    )


def quadratic_kappa_of(gold: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Quadratic-weighted kappa (Cohen, 1968) of levels int64 [N]; rows with gold -1 do not count.

    1 - n·Σ(g-p)² / (n·Σg² + n·Σp² - 2·Σg·Σp): the sums of weights x counts over the confusion matrix and over
    the one of independent draws, without either matrix. nan where all of gold and predictions are one level.
    """
    counted = (gold >= 0).astype(float)
    g, p = gold * counted, predicted * counted

    def statistic(rows: np.ndarray) -> np.ndarray:
        some_g, some_p = g[rows], p[rows]
        count = counted[rows].sum(axis=-1)
        observed = count * ((some_g - some_p) ** 2).sum(axis=-1)
        chance = count * (some_g**2 + some_p**2).sum(axis=-1) - 2 * some_g.sum(axis=-1) * some_p.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(chance > 0, 1 - observed / chance, np.nan))

    return statistic


def level_counts(scale: TriageScale, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Where mistakes lie, as JSON values.

    Args:
        scale: K levels.
        gold: int64 [N], levels; rows with -1 do not count.
        predicted: int64 [N], levels, -1 for no label.

    Returns:
        by_levels: direction (under, over), levels, rows and fraction of each distance that occurs; by_gold: gold
        label, rows, predicted (rows by predicted level, most urgent first), invalid and mean cost of each level.
    """
    counted = gold >= 0
    total = max(int(counted.sum()), 1)
    distance = (predicted - gold)[counted & (predicted >= 0)]
    by_levels = []
    for direction, sign in (("under", 1), ("over", -1)):
        sizes = np.bincount(np.maximum(sign * distance, 0), minlength=1)
        by_levels += [
            {"direction": direction, "levels": levels, "rows": int(rows), "fraction": int(rows) / total}
            for levels, rows in enumerate(sizes)
            if levels and rows
        ]
    cells = np.zeros((len(scale.labels), len(scale.labels) + 1), np.int64)
    # -1 is the last column: no label.
    np.add.at(cells, (gold[counted], predicted[counted]), 1)
    costs = np.hstack([scale.costs, scale.invalid_costs[:, None]])
    by_gold = [
        {
            "gold": label,
            "rows": int(row.sum()),
            "predicted": row[:-1].tolist(),
            "invalid": int(row[-1]),
            "mean_cost": float(row @ cost / row.sum()) if row.sum() else None,
        }
        for label, row, cost in zip(scale.labels, cells, costs, strict=True)
    ]
    return {"by_levels": by_levels, "by_gold": by_gold}

"""Figures by subgroup; in: statistics of all rows and the groups of each row, out: figures of groups, and the worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.data.schema import Example
from r2d_jax.data.subgroups import MISSING, in_order
from r2d_jax.evaluation.figures import headings
from r2d_jax.evaluation.intervals import Ratio, Statistic, bootstrap_interval
from r2d_jax.evaluation.resampling import clusters_among

HIGHER_IS_BETTER = {figure.name: figure.up for figure in headings("groups")}
"""The figures that are told of each group, where a run has them, by their names in metrics.json."""

# Of sums of the same numbers in another order.
_ROUNDING = 1e-9


def subgroup_figures(
    examples: Sequence[Example],
    statistics: Mapping[str, Statistic],
    *,
    least_rows: int,
    resamples: int,
    clusters: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """Figures of every group of every subgroup.

    A group's figure is that of its rows alone; macro-F1 is over the labels with gold rows in the group, so groups
    without rows of a hard label look better. The worst of several groups is in part the unluckiest: its interval,
    not corrected for having been picked, says how much.

    Args:
        examples: N rows; all have the same subgroups.
        statistics: figure to its `Statistic` over the N rows.
        least_rows: fewest rows of a group that may be named the worst.
        resamples: bootstrap samples for each interval; 0: no intervals.
        clusters: int64 [N], of `clusters_of`.

    Returns:
        least_rows; by: subgroup name to groups (group, rows, and figures: name to value, low and high, None where
        there is none, in the order of `in_order`) and worst (figure to groups, which are all that tie for it; group,
        the first of them; value; and distance, how far from the best group; None where fewer than two groups have
        enough rows and the figure, or all are equal).
        None where the rows have no subgroups.
    """
    names = list(examples[0].subgroups) if len(examples) else []
    if not names:
        return None
    told = {name: statistics[name] for name in HIGHER_IS_BETTER if name in statistics}
    columns: dict[str, list[str]] = {name: [] for name in names}
    for example in examples:
        for name in names:
            columns[name].append(example.subgroups.get(name, MISSING))
    by = {}
    for name, column in columns.items():
        values = np.array(column, object)
        groups = [
            _group(group, np.flatnonzero(values == group), told, resamples, clusters)
            for group in in_order(set(column))
        ]
        by[name] = {
            "groups": groups,
            "worst": {figure: _worst(groups, figure, least_rows) for figure in told},
        }
    return {"least_rows": least_rows, "by": by}


def _among(statistic: Statistic, rows: np.ndarray) -> Statistic:
    return statistic.among(rows) if isinstance(statistic, Ratio) else lambda sample: statistic(rows[sample])


def _group(
    name: str,
    rows: np.ndarray,
    statistics: Mapping[str, Statistic],
    resamples: int,
    clusters: np.ndarray | None,
) -> dict[str, Any]:
    figures, within = {}, clusters_among(clusters, rows)
    for figure, statistic in statistics.items():
        value = float(statistic(rows))
        interval = bootstrap_interval(
            _among(statistic, rows), len(rows), resamples=resamples, clusters=within
        )
        low, high = interval or (None, None)
        figures[figure] = {"value": value if np.isfinite(value) else None, "low": low, "high": high}
    return {"group": name, "rows": len(rows), "figures": figures}


def _worst(groups: Sequence[Mapping[str, Any]], figure: str, least_rows: int) -> dict[str, Any] | None:
    scored = [
        (group["figures"][figure]["value"], group["group"])
        for group in groups
        if group["rows"] >= least_rows and group["figures"][figure]["value"] is not None
    ]
    if len(scored) < 2:
        return None
    low, high = min(value for value, _ in scored), max(value for value, _ in scored)
    if high - low <= _ROUNDING:
        return None
    value = low if HIGHER_IS_BETTER[figure] else high
    tied = [group for one, group in scored if abs(one - value) <= _ROUNDING]
    return {
        "group": tied[0],
        "groups": tied,
        "value": value,
        "distance": high - low,
    }

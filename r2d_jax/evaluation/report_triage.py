"""What a report tells of triage and of subgroups; in: a RunRecord, out: tables and plots, or nothing to tell."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from r2d_jax.evaluation.case_table import short
from r2d_jax.evaluation.figures import headings
from r2d_jax.evaluation.report_values import Scored, cell, scored_figure, section
from r2d_jax.evaluation.run_record import RunRecord

_COLUMNS = (
    ("under-triage", "under_fraction"),
    ("by two levels or more", "under_many_fraction"),
    ("over-triage", "over_fraction"),
    ("no label", "invalid_fraction"),
    ("weighted kappa", "quadratic_kappa"),
    ("expected cost", "expected_cost"),
    ("cost saved", "cost_saving"),
)
_RULES = {"argmax": "most probable label", "least_cost": "label of least expected cost"}
_GROUP_FIGURES = {figure.name: heading for figure, heading in headings("groups").items()}
# The figure that is drawn: the first that the run has.
_DRAWN = ("triage.expected_cost", "macro_f1")


class _Level(BaseModel):
    gold: str
    rows: int
    predicted: list[int]
    invalid: int


class _Triage(BaseModel):
    order: list[str]
    costs: str
    cost_matrix: list[list[float]]
    invalid_costs: list[float]
    rows: int
    rows_outside_order: int
    by_gold: list[_Level]
    rules: dict[str, dict[str, float | None]] = {}


class _Figure(BaseModel):
    value: float | None
    low: float | None
    high: float | None


class _Group(BaseModel):
    group: str
    rows: int
    figures: dict[str, _Figure]

    def scored(self, name: str) -> Scored | None:
        """A figure as a cell or a dot takes it."""
        one = self.figures.get(name)
        if one is None or one.value is None:
            return None
        return one.value, None if one.low is None or one.high is None else (one.low, one.high)


class _Worst(BaseModel):
    group: str
    # An earlier version named one group alone.
    groups: list[str] = []

    @property
    def every(self) -> list[str]:
        return self.groups or [self.group]


class _Subgroup(BaseModel):
    groups: list[_Group]
    worst: dict[str, _Worst | None]


class _Subgroups(BaseModel):
    least_rows: int
    by: dict[str, _Subgroup]


def triage_part(run: RunRecord, safe: Any) -> dict[str, Any] | None:
    """Table of the ways to choose a label, costs, and the plot by gold level; None where the run has no triage.

    Args:
        run: its metrics.
        safe: marks the plot as markup.

    Raises:
        UserError: metrics.json is damaged.
    """
    if "triage" not in run.metrics:
        return None
    triage = section(run, "triage", _Triage)
    from r2d_jax.evaluation.triage_plots import LevelRow, level_bars

    ways = [("generated label", "triage")]
    ways += [(title, f"triage.rules.{rule}") for rule, title in _RULES.items() if rule in triage.rules]
    columns = _COLUMNS if triage.rules else _COLUMNS[:-1]
    levels = [
        LevelRow(
            short(row.gold, 30),
            row.rows,
            row.predicted[:place][::-1],
            row.predicted[place + 1 :],
            row.invalid,
        )
        for place, row in enumerate(triage.by_gold)
    ]
    note = (
        f"{triage.rows} rows. Under-triage: predicted less urgent than gold. An output that is no label costs as much "
        "as the worst label of its gold level, and counts in kappa as the level farthest from it."
    )
    if triage.rows_outside_order:
        note += f" {triage.rows_outside_order} rows have a gold label without a level and are left out."
    names = [short(label) for label in triage.order]
    return {
        "columns": [title for title, _ in columns],
        "rows": [
            {
                "name": name,
                "cells": [cell(scored_figure(run.metrics, f"{path}.{figure}")) for _, figure in columns],
            }
            for name, path in ways
        ],
        "note": note,
        "costs": "given in the config" if triage.costs == "given" else triage.costs.replace("_", " "),
        "labels": names,
        "cost_rows": [
            {"name": name, "cells": [f"{cost:g}" for cost in (*row, invalid)]}
            for name, row, invalid in zip(names, triage.cost_matrix, triage.invalid_costs, strict=False)
        ],
        "plot": safe(level_bars("Mistakes by gold level, most urgent on top", levels)),
    }


def subgroup_parts(run: RunRecord, colour: str, safe: Any) -> list[dict[str, Any]]:
    """A table and a plot for each subgroup; [] where the run has none.

    Args:
        run: its metrics.
        colour: of the run.
        safe: marks plots as markup.

    Raises:
        UserError: metrics.json is damaged.
    """
    if "subgroups" not in run.metrics:
        return []
    found = section(run, "subgroups", _Subgroups)
    return [_subgroup(run, name, part, found.least_rows, colour, safe) for name, part in found.by.items()]


def _subgroup(
    run: RunRecord, name: str, part: _Subgroup, least_rows: int, colour: str, safe: Any
) -> dict[str, Any]:
    from r2d_jax.evaluation.triage_plots import GroupRow, group_dots

    figures = [name for name in _GROUP_FIGURES if any(name in group.figures for group in part.groups)]
    worst = {figure: one.every for figure, one in part.worst.items() if one is not None}
    rows = [
        {
            "name": short(group.group),
            "rows": group.rows,
            "small": group.rows < least_rows,
            "cells": [
                cell(group.scored(figure)) | {"worst": group.group in worst.get(figure, ())}
                for figure in figures
            ],
        }
        for group in part.groups
    ]
    drawn = next((figure for figure in _DRAWN if figure in figures), None)
    plot = ""
    if drawn is not None and (dots := _dots(part.groups, drawn, least_rows, GroupRow)):
        overall = scored_figure(run.metrics, drawn)
        title = f"{_GROUP_FIGURES[drawn]} by {short(name, 30)}"
        salt = f"{run.path.name} {name}"
        plot = group_dots(title, dots, overall[0] if overall else None, colour, salt)
    note = (
        f"Below a figure: its 95 % interval over the rows of the group. Groups of under {least_rows} rows are never "
        "named the worst. The worst of several groups is in part the unluckiest one."
    )
    if plot:
        note += " In the plot, dashed: all rows; hollow: too few rows."
    return {
        "name": short(name),
        "columns": [_GROUP_FIGURES[figure] for figure in figures],
        "groups": rows,
        "plot": safe(plot) if plot else "",
        "note": note,
    }


def _dots(groups: Sequence[_Group], figure: str, least_rows: int, kind: type[Any]) -> list[Any]:
    return [
        kind(short(group.group, 30), group.rows, *scored, group.rows < least_rows)
        for group in groups
        if (scored := group.scored(figure)) is not None
    ]

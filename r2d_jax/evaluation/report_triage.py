"""What a report tells of triage and of subgroups; in: a RunRecord, out: tables and plots, or nothing to tell."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from r2d_jax.errors import UserError
from r2d_jax.evaluation.case_table import short
from r2d_jax.evaluation.report_values import Figure, cell, scored_figure
from r2d_jax.evaluation.run_record import RunRecord

_DASH = "\N{EN DASH}"
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
_GROUP_FIGURES = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "invalid_fraction": "no label",
    "triage.under_fraction": "under-triage",
    "triage.under_many_fraction": "under-triage by two levels or more",
    "triage.over_fraction": "over-triage",
    "triage.expected_cost": "expected cost",
    "triage.quadratic_kappa": "weighted kappa",
    "triage.rules.least_cost.under_fraction": "under-triage, least-cost rule",
    "triage.rules.least_cost.expected_cost": "cost, least-cost rule",
}
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


class _Worst(BaseModel):
    group: str


class _Subgroup(BaseModel):
    groups: list[_Group]
    worst: dict[str, _Worst | None]


class _Subgroups(BaseModel):
    least_rows: int
    by: dict[str, _Subgroup]


Section = TypeVar("Section", bound=BaseModel)


def _section(run: RunRecord, name: str, form: type[Section]) -> Section | None:
    if name not in run.metrics:
        return None
    try:
        return form.model_validate(run.metrics[name])
    except ValidationError as error:
        # The error quotes what it found.
        raise UserError(
            str(run.path / "evaluation" / "metrics.json"), f"is damaged ({name})", "Evaluate the run again."
        ) from error


def triage_part(run: RunRecord, safe: Any) -> dict[str, Any] | None:
    """Table of the ways to choose a label, costs, and the plot by gold level; None where the run has no triage.

    Args:
        run: its metrics.
        safe: marks the plot as markup.

    Raises:
        UserError: metrics.json is damaged.
    """
    triage = _section(run, "triage", _Triage)
    if triage is None:
        return None
    from r2d_jax.evaluation.triage_plots import LevelRow, level_bars

    ways: list[tuple[str, tuple[str, ...]]] = [("generated label", ("triage",))]
    ways += [(title, ("triage", "rules", rule)) for rule, title in _RULES.items() if rule in triage.rules]
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
            {"name": name, "cells": [_cell(run, (*path, figure), title) for title, figure in columns]}
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


def _cell(run: RunRecord, path: tuple[str, ...], title: str) -> dict[str, str]:
    figure = Figure(title, path)
    return cell(figure, scored_figure(run.metrics, figure))


def subgroup_parts(run: RunRecord, colour: str, safe: Any) -> list[dict[str, Any]]:
    """A table and a plot for each subgroup; [] where the run has none.

    Args:
        run: its metrics.
        colour: of the run.
        safe: marks plots as markup.

    Raises:
        UserError: metrics.json is damaged.
    """
    found = _section(run, "subgroups", _Subgroups)
    if found is None:
        return []
    return [_subgroup(run, name, part, found.least_rows, colour, safe) for name, part in found.by.items()]


def _subgroup(
    run: RunRecord, name: str, part: _Subgroup, least_rows: int, colour: str, safe: Any
) -> dict[str, Any]:
    from r2d_jax.evaluation.triage_plots import GroupRow, group_dots

    figures = [figure for figure in _GROUP_FIGURES if any(figure in group.figures for group in part.groups)]
    worst = {figure: one.group for figure, one in part.worst.items() if one is not None}
    rows = [
        {
            "name": short(group.group),
            "rows": group.rows,
            "small": group.rows < least_rows,
            "cells": [
                _group_cell(group.figures.get(figure)) | {"worst": worst.get(figure) == group.group}
                for figure in figures
            ],
        }
        for group in part.groups
    ]
    drawn = next((figure for figure in _DRAWN if figure in figures), None)
    plot = ""
    if drawn is not None and (dots := _dots(part.groups, drawn, least_rows, GroupRow)):
        overall = scored_figure(run.metrics, Figure("", tuple(drawn.split("."))))
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


def _group_cell(figure: _Figure | None) -> dict[str, Any]:
    if figure is None or figure.value is None:
        return {"value": _DASH, "interval": ""}
    known = figure.low is not None and figure.high is not None
    return {
        "value": f"{figure.value:.3f}",
        "interval": f"{figure.low:.3f} to {figure.high:.3f}" if known else "",
    }


def _dots(groups: Sequence[_Group], figure: str, least_rows: int, kind: type[Any]) -> list[Any]:
    dots = []
    for group in groups:
        one = group.figures.get(figure)
        if one is not None and one.value is not None:
            interval = None if one.low is None or one.high is None else (one.low, one.high)
            dots.append(
                kind(short(group.group, 30), group.rows, one.value, interval, group.rows < least_rows)
            )
    return dots

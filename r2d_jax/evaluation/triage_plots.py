"""Drawings of triage and of subgroups; in: counts by level and figures of groups, out: inline SVG for a page."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from r2d_jax.evaluation.figures import percent
from r2d_jax.evaluation.plots import COLOURS, INK, drawing, inline

_OVER, _UNDER = COLOURS[0], COLOURS[1]
_WIDTH = 5.2
# Opacity by levels; the last one is of all distances from there on.
_SHADES = (0.35, 0.65, 1.0)


class LevelRow(NamedTuple):
    """Predictions of the rows of one gold level.

    Attributes:
        name: of the gold level.
        rows: how many.
        over: rows by levels too urgent, from one level on.
        under: rows by levels not urgent enough, from one level on.
        invalid: rows without a label.
    """

    name: str
    rows: int
    over: Sequence[int]
    under: Sequence[int]
    invalid: int


class GroupRow(NamedTuple):
    """One figure of one group; `small`: too few rows to be named the worst."""

    name: str
    rows: int
    value: float
    interval: tuple[float, float] | None
    small: bool


def _shades(counts: Sequence[int]) -> list[int]:
    """Counts of one level, of two, ..., and of as many as the last shade or more."""
    last = len(_SHADES) - 1
    return [*(counts[place] if place < len(counts) else 0 for place in range(last)), sum(counts[last:])]


def level_bars(title: str, levels: Sequence[LevelRow]) -> str:
    """Share of each gold level that is under-triaged (to the right) and over-triaged (to the left), by how far.

    Outputs that are no label are neither: they have no bar, but their share at the right, where there are any.

    Args:
        title: above the plot.
        levels: most urgent first, which is drawn on top; those without rows have no bar.

    Returns:
        An `svg` element.
    """
    with drawing(title, (_WIDTH, 1.5 + 0.34 * len(levels))) as figure:
        axes = figure.add_subplot()
        reach = 0.05
        for place, level in enumerate(levels):
            total = max(level.rows, 1)
            for sign, counts, colour in ((-1, level.over, _OVER), (1, level.under, _UNDER)):
                start = 0.0
                for count, shade in zip(_shades(counts), _SHADES, strict=True):
                    axes.barh(
                        place, sign * count / total, left=sign * start, color=colour, alpha=shade, height=0.7
                    )
                    start += count / total
                reach = max(reach, start)
        axes.axvline(0, color=INK, linewidth=1.0)
        axes.set_yticks(range(len(levels)), [f"{level.name} ({level.rows})" for level in levels])
        axes.set_ylim(len(levels) - 0.4, -0.6)
        axes.set_xlim(-1.08 * reach, 1.08 * reach)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * abs(value):.3g} %"))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(
            "over-triage  \N{LEFTWARDS ARROW}  share of the gold level  \N{RIGHTWARDS ARROW}  under-triage"
        )
        axes.set_ylabel("gold level (rows)")
        axes.set_title(title)
        if any(level.invalid for level in levels):
            _no_label_column(axes, levels)
        handles = [
            Patch(color=colour, alpha=shade, label=f"{kind} by {_distance(place)}")
            for kind, colour in (("over", _OVER), ("under", _UNDER))
            for place, shade in enumerate(_SHADES, 1)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7.5)
        told = "; ".join(
            f"{level.name}: {sum(level.over)} over, {sum(level.under)} under of {level.rows}"
            + (f", {level.invalid} without a label" if level.invalid else "")
            for level in levels
        )
        return inline(figure, f"{title}: {told}.")


def _no_label_column(axes: Axes, levels: Sequence[LevelRow]) -> None:
    # As numbers: a bar would stand on the side of over- or of under-triage, and such an output is neither.
    column = axes.secondary_yaxis("right")
    shares = [percent(level.invalid / level.rows) if level.rows else "\N{EN DASH}" for level in levels]
    column.set_yticks(range(len(levels)), shares)
    column.tick_params(length=0)
    column.set_ylabel("no label")
    column.spines["right"].set_visible(False)


def _distance(levels: int) -> str:
    if levels == len(_SHADES):
        return f"{levels} levels or more"
    return "1 level" if levels == 1 else f"{levels} levels"


def group_dots(title: str, groups: Sequence[GroupRow], overall: float | None, colour: str, salt: str) -> str:
    """One figure by group, as dots with error bars beside the figure of all rows; hollow: too few rows.

    Args:
        title: above the plot.
        groups: top first; at least one.
        overall: the figure of all rows; None: not known.
        colour: of the run.
        salt: what tells this plot from others of the page.

    Returns:
        An `svg` element.
    """
    with drawing(f"{title} {salt}", (_WIDTH, 0.95 + 0.3 * len(groups))) as figure:
        axes = figure.add_subplot()
        for place, group in enumerate(groups):
            if group.interval is not None:
                axes.plot(group.interval, [place] * 2, color=colour, linewidth=2.2, alpha=0.55, marker="|")
            face = "none" if group.small else colour
            axes.plot([group.value], [place], "o", color=colour, markerfacecolor=face, markersize=7)
        if overall is not None:
            axes.axvline(overall, color=INK, linewidth=1.0, linestyle="--")
        axes.set_yticks(range(len(groups)), [f"{group.name} ({group.rows})" for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_title(title)
        told = ", ".join(f"{group.name} {group.value:.3f}" for group in groups)
        return inline(figure, f"{title}: {told}.")

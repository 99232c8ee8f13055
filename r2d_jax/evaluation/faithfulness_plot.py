"""Drawing of what ablations do; in: figures of cited and of random sentences, out: inline SVG for a page."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from r2d_jax.evaluation.plots import INK, drawing, inline

_SIZE = (5.2, 2.3)
# Above and below the line of a measure, so that intervals do not cover each other.
_APART = 0.14


class Pair(NamedTuple):
    """One measure.

    Attributes:
        name: as shown.
        cited: the figure with the cited sentences.
        cited_interval: its interval where the run states it.
        drawn: the figure with random sentences.
        drawn_interval: of that.
    """

    name: str
    cited: float
    cited_interval: tuple[float, float] | None
    drawn: float
    drawn_interval: tuple[float, float] | None


def pairs(title: str, measures: Sequence[Pair], axis: str, colour: str, salt: str) -> str:
    """Figures of cited (filled) and of random sentences (hollow) on one line each, with their intervals.

    Args:
        title: above the plot.
        measures: top first; at least one.
        axis: what the figures are.
        colour: of the run.
        salt: what tells this plot from others of the page.

    Returns:
        An `svg` element.
    """
    with drawing(f"{title} {salt}", _SIZE) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1.0)
        for place, one in enumerate(measures):
            for value, interval, side, face in (
                (one.cited, one.cited_interval, -_APART, colour),
                (one.drawn, one.drawn_interval, _APART, "none"),
            ):
                height = place + side
                if interval is not None:
                    axes.plot(interval, [height] * 2, color=colour, linewidth=2.2, alpha=0.55, marker="|")
                axes.plot([value], [height], "o", color=colour, markerfacecolor=face, markersize=7)
        axes.set_yticks(range(len(measures)), [one.name for one in measures])
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.set_xlabel(axis)
        axes.set_title(title)
        handles = [
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                color=colour,
                markerfacecolor=face,
                markersize=7,
                label=label,
            )
            for face, label in ((colour, "cited sentences"), ("none", "random sentences"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        told = ", ".join(f"{one.name}: cited {one.cited:.3f}, random {one.drawn:.3f}" for one in measures)
        return inline(figure, f"{title}: {told}.")

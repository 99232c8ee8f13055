"""Drawings of a report; in: numbers and names of runs, out: inline SVG for a page without style attributes."""

import contextlib
import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from r2d_jax.evaluation.report_labels import Bin

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5679a", "#c98a00", "#4aa3d9", "#808080")
"""Of runs, in order; told apart with each kind of colour-blindness, on white and on near-black."""
MARKERS = "os^DvPX"
"""Of runs, for those who see no colour."""

INK, _GREY = "#262626", "#808080"
_SIZE = (4.3, 3.0)
# A loss that falls by more than this factor shows its end only on a logarithmic axis.
_LOG_FROM_RATIO = 8.0
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: Any = {
    # Text stays text: small, selectable, and drawn in the page's font, which has all scripts.
    "svg.fonttype": "none",
    # A name in dollar signs is a name, not a formula.
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
)


class Line(NamedTuple):
    """One curve of a run.

    Attributes:
        run: number of the run, which gives colour and marker.
        steps: x.
        values: y, as many; NaN leaves a gap.
        kind: name in the legend.
        style: "thin", "dashed", or "marked" (with the marker of the run).
        chosen: step to mark as the chosen checkpoint, or None.
    """

    run: int
    steps: Sequence[int]
    values: Sequence[float]
    kind: str
    style: str
    chosen: int | None = None


class Dot(NamedTuple):
    """One figure of a run, with its interval where it is known."""

    run: int
    value: float
    interval: tuple[float, float] | None


def colour(run: int) -> str:
    """Colour of a run."""
    return COLOURS[run % len(COLOURS)]


def marker(run: int) -> str:
    """Matplotlib's letter for the marker of a run; after seven runs, each colour comes with its next marker."""
    return MARKERS[(run + run // len(COLOURS)) % len(MARKERS)]


@contextlib.contextmanager
def drawing(salt: str, size: tuple[float, float] = _SIZE) -> Iterator[Figure]:
    """An empty figure in the style of the page; `salt` makes its ids, size is in inches."""
    # Not pyplot and not the user's matplotlibrc: the same runs give the same bytes everywhere.
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Of glyphs that the measuring font lacks; the page's font draws them.
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = f"r2d {salt}"
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def inline(figure: Figure, description: str) -> str:
    """The figure as an `svg` element: no style attributes (the page's policy forbids them), no unused ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ET.fromstring(file.getvalue())
    used = set(re.findall(r"#(\w+)", file.getvalue()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text, element.tail = (
            text if text and text.strip() else None for text in (element.text, element.tail)
        )
        if _HREF in element.attrib:
            element.set("href", element.attrib.pop(_HREF))
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if "d" in element.attrib:
            element.set("d", " ".join(element.attrib["d"].split()))
        for rule in filter(None, element.attrib.pop("style", "").split(";")):
            name, _, value = (part.strip() for part in rule.partition(":"))
            if name != "font-family":
                element.set(name, "currentColor" if value == INK else value)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "class": "plot", "stroke-linejoin": "round"}
    # What is read out is the description, not a heap of numbers of the axes.
    root.set("aria-label", description)
    return ET.tostring(root, encoding="unicode")


def _steps_axis(axes: Axes, title: str, *, fraction: bool = False) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if fraction:
        axes.set_ylim(-0.03, 1.03)


def curves(title: str, lines: Sequence[Line], *, fraction: bool = False) -> str:
    """Lines over steps, coloured by run, with a legend of their kinds where there are several.

    Args:
        title: above the plot; also the start of its description.
        lines: at least one point in total.
        fraction: the y axis is 0 to 1; else it fits the lines, logarithmic where they fall far.

    Returns:
        An `svg` element.
    """
    with drawing(title) as figure:
        axes = figure.add_subplot()
        marks: dict[str, Any] = {}
        for line in lines:
            style = _STYLES[line.style] | ({"marker": marker(line.run)} if line.style == "marked" else {})
            (drawn,) = axes.plot(line.steps, line.values, color=colour(line.run), **style)
            marks.setdefault(line.kind, drawn)
            if line.chosen is not None and line.chosen in line.steps:
                value = line.values[line.steps.index(line.chosen)]
                mark = axes.plot(
                    [line.chosen],
                    [value],
                    "*",
                    color=colour(line.run),
                    markersize=13,
                    markeredgecolor=INK,
                    zorder=5,
                )
                marks.setdefault("chosen checkpoint", mark[0])
        finite = [value for line in lines for value in line.values if math.isfinite(value)]
        if not fraction and finite and 0 < min(finite) * _LOG_FROM_RATIO < max(finite):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _steps_axis(axes, title, fraction=fraction)
        if len(marks) > 1:
            axes.legend(marks.values(), marks.keys())
        return inline(figure, f"{title}: {_told(lines)}")


_STYLES: dict[str, dict[str, Any]] = {
    "thin": {"linewidth": 0.9, "alpha": 0.65},
    "dashed": {"linewidth": 1.4, "linestyle": "--"},
    "marked": {},
}


def _told(lines: Sequence[Line]) -> str:
    ends = [
        f"run {line.run + 1} {line.kind} from {line.values[0]:.3g} to {line.values[-1]:.3g}"
        for line in lines
        if line.values
    ]
    return "; ".join(ends) + "."


def reliability(title: str, bins: Sequence[Bin], run: int) -> str:
    """Accuracy by confidence beside the diagonal of perfect calibration, and below it the count of each bin.

    Args:
        title: above the plot.
        bins: adjoining, from 0 to 1.
        run: number of the run.

    Returns:
        An `svg` element.
    """
    with drawing(f"{title} {run}", (_SIZE[0], 3.6)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        filled = [one for one in bins if one.rows]
        widths = [one.high - one.low for one in bins]
        upper.plot([0, 1], [0, 1], "--", color=INK, linewidth=1.0, label="perfectly calibrated")
        upper.bar(
            [one.low for one in filled],
            [one.accuracy for one in filled],
            [one.high - one.low for one in filled],
            align="edge",
            color=colour(run),
            alpha=0.3,
        )
        upper.plot(
            [one.confidence for one in filled],
            [one.accuracy for one in filled],
            marker=marker(run),
            color=colour(run),
            label="share that is right",
        )
        upper.set_title(title)
        upper.set_ylim(-0.03, 1.03)
        upper.set_ylabel("share right")
        upper.legend(loc="upper left")
        lower.bar(
            [one.low for one in bins],
            [one.rows for one in bins],
            widths,
            align="edge",
            color=colour(run),
            alpha=0.6,
        )
        for one in filled:
            middle = (one.low + one.high) / 2
            lower.annotate(
                str(one.rows),
                (middle, one.rows),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        lower.set_ylim(0, 1.35 * max((one.rows for one in bins), default=1))
        lower.set_xlim(0, 1)
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        lower.set_ylabel("rows")
        lower.set_xlabel("confidence in the label")
        told = ", ".join(
            f"{one.rows} rows at {one.confidence:.2f} are right in {one.accuracy:.2f}" for one in filled
        )
        return inline(figure, f"{title}: {told}.")


def dots(title: str, rows: Sequence[Dot], names: Sequence[str], most: float = 1.0) -> str:
    """One figure of several runs as dots with error bars, the first run on top.

    Args:
        title: above the plot.
        rows: one per run that has the figure.
        names: short names of all runs, by number.
        most: the figure's highest possible value; its lowest is 0, or below (a rescaled BERTScore).

    Returns:
        An `svg` element.
    """
    with drawing(title, (_SIZE[0], 0.95 + 0.3 * len(rows))) as figure:
        axes = figure.add_subplot()
        for place, dot in enumerate(rows):
            if dot.interval is not None:
                axes.plot(
                    dot.interval,
                    [place, place],
                    color=colour(dot.run),
                    linewidth=2.2,
                    alpha=0.55,
                    marker="|",
                    clip_on=False,
                )
            axes.plot(
                [dot.value], [place], marker(dot.run), color=colour(dot.run), markersize=7, clip_on=False
            )
        axes.set_yticks(range(len(rows)), [names[dot.run] for dot in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        # Around values that are all alike, the axis would go on beyond what the figure can be.
        ends = [end for dot in rows for end in (dot.value, *(dot.interval or ()))]
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, 0) if min(ends) >= 0 else low, min(high, most) if max(ends) <= most else high)
        axes.set_title(title)
        return inline(
            figure, f"{title}: " + ", ".join(f"{names[dot.run]} {dot.value:.3f}" for dot in rows) + "."
        )

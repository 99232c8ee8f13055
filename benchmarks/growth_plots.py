"""Growth as drawings; in: the result of one axis, out: one SVG with time and memory per example side by side."""

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.growth_fit import FLOOR_BYTES, LIMITS, per_example
from benchmarks.growth_tables import AXES, PARTS, UNITS
from r2d_jax.evaluation.plots import COLOURS, MARKERS

_INK, _GREY = "#262626", "#808080"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GREY,
    "grid.alpha": 0.25,
    # White on pages of either kind: ink on nothing could not be read on a dark one.
    "figure.facecolor": "white",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
} | dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK
)
# Of parts, in order: two more than the reports have runs in colour.
_COLOURS = (*COLOURS, "#5b3a8c", "#7a4b1e")
_UNITS = {"KiB": 2**10, "MiB": 2**20}


def draw(result: dict[str, Any], path: pathlib.Path) -> None:
    """Write the SVG of an axis; the same result gives the same bytes.

    Args:
        result: as it is written to JSON.
        path: ends in ".svg".

    Raises:
        OSError: it cannot be written.
    """
    with matplotlib.rc_context():
        # Not pyplot and not the user's matplotlibrc.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        matplotlib.rcParams["svg.hashsalt"] = f"growth {result['axis']}"
        made = figure(result)
        FigureCanvasSVG(made)
        made.savefig(path, format="svg", metadata=dict.fromkeys(("Date", "Creator")))


def figure(result: dict[str, Any]) -> Figure:
    """The two panels with one legend below."""
    made = Figure(figsize=(8.6, 4.2), layout="constrained")
    left, right = made.subplots(1, 2)
    axis = result["axis"]
    unit = _memory_unit(result["points"])
    marks: dict[str, Any] = {}
    for number, (part, judged) in enumerate(result["parts"].items()):
        points = sorted((p for p in result["points"] if p["part"] == part), key=lambda p: p["x"])
        style = {"color": _COLOURS[number % len(_COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        sizes = [point["x"] for point in points]
        secs = [1e3 * per_example(point)["secs"] for point in points]
        fit = judged.get("fit")
        (line,) = left.plot(sizes, secs, linestyle="none" if fit else "-", **style)
        if fit:
            dense = np.geomspace(sizes[0], sizes[-1], 100)
            fitted = 1e3 * (fit["a"] + fit["b"] * dense + fit["c"] * dense**2)
            left.plot(dense, fitted, color=style["color"], linewidth=1.0)
        marks[PARTS[part]] = line
        for name, extra in (("bytes", {}), ("planned_bytes", {"linestyle": ":", "markerfacecolor": "white"})):
            if max((point.get(name) or 0 for point in points), default=0) > FLOOR_BYTES:
                values = [
                    max(point[name] or 0, FLOOR_BYTES) / point["rows"] / _UNITS[unit] for point in points
                ]
                right.plot(sizes, values, **style, **extra)
    sizes = sorted({point["x"] for point in result["points"]})
    for axes, title, told in ((left, "Time", "ms"), (right, "Memory", unit)):
        marks["growing linearly" if _slope(axis) else "flat"] = _reference(axes, sizes, _slope(axis))
        _dress(axes, sizes, f"{title} per example", f"{told} per example", UNITS[axis])
    made.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=4)
    notes = []
    if any("fit" in judged for judged in result["parts"].values()):
        notes.append("lines of time: a + b·S + c·S²")
    if any(point.get("planned_bytes") is not None for point in result["points"]):
        notes.append("dotted, hollow: as the compiler plans it")
    made.suptitle(
        "; ".join([f"{AXES[axis]}: what one example costs", *notes]), fontsize=9.0, x=0.01, ha="left"
    )
    return made


def _memory_unit(points: Sequence[dict[str, Any]]) -> str:
    most = max((point.get("bytes") or point.get("planned_bytes") or 0) / point["rows"] for point in points)
    return "MiB" if most >= _UNITS["MiB"] else "KiB"


def _slope(axis: str) -> int:
    # Attention's line would be steeper; it is the linear one that all else is to be read against.
    return min(1, int(LIMITS[axis]))


def _reference(axes: Axes, sizes: Sequence[int], slope: int) -> Any:
    """A dashed line from the highest first point on."""
    starts = [float(line.get_ydata()[0]) for line in axes.lines]
    ends = np.array([sizes[0], sizes[-1]], float)
    heights = max(starts, default=1.0) * (ends / ends[0]) ** slope
    return axes.plot(ends, heights, "--", color=_GREY, linewidth=1.2, zorder=1)[0]


def _dress(axes: Axes, sizes: Sequence[int], title: str, unit: str, across: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    low, high = axes.get_ylim()
    # Else noise would fill the panel where nothing grows.
    widened = max(1.0, (10.0 / (high / low)) ** 0.5)
    axes.set_ylim(low / widened, high * widened)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.15g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())

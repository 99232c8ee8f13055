"""Drawing of what abstention costs; in: points of the risk-coverage curve, out: inline SVG for a page."""

from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from r2d_jax.evaluation.plots import INK, drawing, inline

_SIZE = (4.3, 3.3)


def risk_coverage(
    title: str,
    points: Sequence[tuple[float, float]],
    error: float,
    colour: str,
    salt: str,
    *,
    target: float | None = None,
    chosen: tuple[float, float] | None = None,
) -> str:
    """Error rate among the surest answers by the share that is answered.

    Args:
        title: above the plot.
        points: coverage and risk, at least one.
        error: of all rows, which is what answers in a random order have everywhere.
        colour: of the run.
        salt: what tells this plot from others of the page.
        target: the risk aimed at.
        chosen: coverage and risk at the threshold of the model.

    Returns:
        An `svg` element.
    """
    with drawing(f"{title} {salt}", _SIZE) as figure:
        axes = figure.add_subplot()
        coverage, risk = zip(*points, strict=True)
        axes.plot([0, 1], [error, error], "--", color=INK, linewidth=1.0, label="random order")
        axes.plot(coverage, risk, color=colour, label="the surest first")
        if target is not None:
            axes.plot([0, 1], [target, target], ":", color=INK, linewidth=1.4, label="target")
        if chosen is not None:
            axes.plot(
                *chosen, "*", color=colour, markersize=13, markeredgecolor=INK, label="threshold", zorder=5
            )
        axes.set_title(title)
        axes.set_xlim(0, 1.02)
        # Room for the legend above the curve, but no ticks there that no share can have.
        top = 1.45 * max(*risk, error, target or 0, 0.01)
        axes.set_ylim(0, top)
        for axis, end in ((axes.xaxis, 1.0), (axes.yaxis, min(top, 1.0))):
            ticks = MaxNLocator(5).tick_values(0, end)
            axis.set_ticks([tick for tick in ticks if tick < end + 1e-9])
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        axes.set_xlabel("rows answered")
        axes.set_ylabel("of these wrong")
        axes.legend(loc="upper left", ncols=2)
        told = ", ".join(
            f"{100 * risk[place]:.1f} % wrong of {100 * coverage[place]:.0f} % answered"
            for place in sorted({len(risk) // 4, len(risk) // 2, len(risk) - 1})
        )
        return inline(figure, f"{title}: {told}.")

"""The table of a comparison; in: what `comparison.compare` gives, out: its cells, Markdown and CSV."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2d_jax.evaluation.comparison import COLUMNS, TESTED
from r2d_jax.evaluation.figures import LABEL_FIGURES, RATIONALE_FIGURES, Figure, rounded


def _known_figures(table: Mapping[str, Any]) -> list[Figure]:
    found = {name for method in table["methods"].values() for name in method["figures"]}
    return [figure for figure in COLUMNS if figure.name in found]


def shown_figures(table: Mapping[str, Any]) -> list[Figure]:
    """The figures that stand for themselves; those of the gold rationales stand beside their own."""
    known = _known_figures(table)
    of_gold = {figure.gold for figure in known}
    return [figure for figure in known if figure.name not in of_gold]


def tested_figures(table: Mapping[str, Any]) -> list[Figure]:
    """Those of `shown_figures` that are tested against the reference."""
    return [figure for figure in shown_figures(table) if figure.name in TESTED]


def notes(table: Mapping[str, Any]) -> list[str]:
    """What the figures mean, and what was left out."""
    columns = shown_figures(table)
    told = f"Mean ± sd over seeds, {table['rows']} test rows; all figures in % but {_unscaled(columns)}."
    lines = [f"{told} In brackets: of the gold rationales." if _known_figures(table) != columns else told]
    if table["groups"] is not None:
        lines.append(
            f"Intervals and tests: over {table['groups']} groups, whose rows are drawn and swapped together."
        )
    lines += table["left_out"]
    if any(table["collapsed"].values()):
        lines.append("(!) at least one seed gives nearly one label only.")
    return lines


def title_of_method(table: Mapping[str, Any], name: str) -> str:
    """The name of a method, marked where a seed of it gives nearly one label only."""
    return name + (" (!)" if table["collapsed"][name] else "")


def markdown(table: Mapping[str, Any]) -> str:
    """The comparison as Markdown: figures of labels, those of rationales, then tests against the reference."""
    columns = shown_figures(table)
    lines = []
    for part in (LABEL_FIGURES, RATIONALE_FIGURES):
        if of_part := [figure for figure in columns if figure in part]:
            lines += [*_figures(table, of_part), ""]
    lines += notes(table)
    if table["tests"]:
        lines += ["", f"Difference to {table['reference']} [95 % interval], p after Holm's correction:", ""]
        tested = tested_figures(table)
        lines.append(_row(["method", *(COLUMNS[figure] for figure in tested)]))
        lines.append(_row(["---", *("---:" for _ in tested)]))
        for name, found in table["tests"].items():
            lines.append(_row([name, *(_test_cell(found.get(figure.name), figure) for figure in tested)]))
    return "\n".join(lines) + "\n"


def _figures(table: Mapping[str, Any], columns: Sequence[Figure]) -> Iterator[str]:
    yield _row(["method", "seeds", *(COLUMNS[figure] for figure in columns)])
    yield _row(["---", "---:", *("---:" for _ in columns)])
    for name, method in table["methods"].items():
        cells = [figure_cell(method["figures"], figure) for figure in columns]
        yield _row([title_of_method(table, name), str(len(method["seeds"])), *cells])


def _unscaled(columns: Sequence[Figure]) -> str:
    return ", ".join(COLUMNS[figure] for figure in columns if figure.unit.scale == 1.0) or "BLEU"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def figure_cell(figures: Mapping[str, Mapping[str, float | None]], figure: Figure) -> str:
    """Mean and spread of a figure of one method, and in brackets that of the gold rationales; "" without it."""
    found, gold = figures.get(figure.name), figures.get(figure.gold)
    if found is None:
        return ""
    unit = figure.unit
    mean, of_gold = (
        "" if value is None else rounded(value * unit.scale, unit.scaled_digits, unit.most * unit.scale)
        for value in (found["mean"], None if gold is None else gold["mean"])
    )
    sd = "" if found["sd"] is None else f" ± {found['sd'] * unit.scale:.{unit.scaled_digits}f}"
    return mean + sd + (f" ({of_gold})" if of_gold else "")


def difference_cells(test: Mapping[str, Any], figure: Figure) -> tuple[str, str, str]:
    """Difference, its interval ("" without one) and p after Holm's correction of one test."""

    def told(name: str) -> str:
        return f"{test[name] * figure.unit.scale:+.{figure.unit.scaled_digits}f}"

    interval = "" if test["low"] is None else f"[{told('low')}, {told('high')}]"
    return told("difference"), interval, f"{test['p_holm']:.3f}"


def _test_cell(test: Mapping[str, Any] | None, figure: Figure) -> str:
    if test is None:
        return ""
    difference, interval, p = difference_cells(test, figure)
    return " ".join(filter(None, (difference, interval, f"p={p}")))


_OF_FIGURE = {"mean": "mean", "sd": "sd", "mean_low": "low", "mean_high": "high"}
_OF_TEST = {
    "difference": "difference",
    "difference_low": "low",
    "difference_high": "high",
    "p_value": "p_value",
    "p_holm": "p_holm",
}


def as_csv(table: Mapping[str, Any]) -> str:
    """One line per method and figure, fractions unscaled; mean and difference each with their own 95 % interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "figure", "seeds", *_OF_FIGURE, *_OF_TEST])
    for name, method in table["methods"].items():
        for path, figure in method["figures"].items():
            test = table["tests"].get(name, {}).get(path, {})
            writer.writerow(
                [
                    name,
                    path,
                    len(method["seeds"]),
                    *(figure[key] for key in _OF_FIGURE.values()),
                    *(test.get(key) for key in _OF_TEST.values()),
                ]
            )
    return stream.getvalue()

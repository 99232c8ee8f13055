"""The table of a comparison; in: what `comparison.compare` gives, out: Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from r2d_jax.evaluation.comparison import COLUMNS, TESTED
from r2d_jax.evaluation.figures import Figure


def markdown(table: Mapping[str, Any]) -> str:
    """The comparison as Markdown: figures, then tests against the reference."""
    columns = [
        figure
        for figure in COLUMNS
        if any(figure.name in method["figures"] for method in table["methods"].values())
    ]
    lines = [_row(["method", "seeds", *(COLUMNS[figure] for figure in columns)])]
    lines.append(_row(["---", "---:", *("---:" for _ in columns)]))
    for name, method in table["methods"].items():
        cells = [_cell(method["figures"].get(figure.name), figure) for figure in columns]
        mark = " (!)" if table["collapsed"][name] else ""
        lines.append(_row([name + mark, str(len(method["seeds"])), *cells]))
    told = f"Mean ± sd over seeds, {table['rows']} test rows; all figures in % but {_unscaled(columns)}."
    lines += ["", told]
    if any(table["collapsed"].values()):
        lines.append("(!) at least one seed gives nearly one label only.")
    if table["tests"]:
        lines += ["", f"Difference to {table['reference']} [95 % interval], p after Holm's correction:", ""]
        tested = [figure for figure in columns if figure.name in TESTED]
        lines.append(_row(["method", *(COLUMNS[figure] for figure in tested)]))
        lines.append(_row(["---", *("---:" for _ in tested)]))
        for name, found in table["tests"].items():
            lines.append(_row([name, *(_test_cell(found.get(figure.name), figure) for figure in tested)]))
    return "\n".join(lines) + "\n"


def _unscaled(columns: Sequence[Figure]) -> str:
    return ", ".join(COLUMNS[figure] for figure in columns if figure.unit.scale == 1.0) or "BLEU"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(found: Mapping[str, float | None] | None, figure: Figure) -> str:
    if found is None or found["mean"] is None:
        return ""
    unit = figure.unit
    value = f"{found['mean'] * unit.scale:.{unit.scaled_digits}f}"
    return value if found["sd"] is None else f"{value} ± {found['sd'] * unit.scale:.{unit.scaled_digits}f}"


def _test_cell(test: Mapping[str, float] | None, figure: Figure) -> str:
    if test is None:
        return ""
    digits = figure.unit.scaled_digits
    difference, low, high = (test[name] * figure.unit.scale for name in ("difference", "low", "high"))
    return f"{difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] p={test['p_holm']:.3f}"


def as_csv(table: Mapping[str, Any]) -> str:
    """One line per method and figure, fractions unscaled."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["method", "figure", "seeds", "mean", "sd", "low", "high", "difference", "p_value", "p_holm"]
    )
    for name, method in table["methods"].items():
        for path, figure in method["figures"].items():
            test = table["tests"].get(name, {}).get(path, {})
            writer.writerow(
                [
                    name,
                    path,
                    len(method["seeds"]),
                    *(figure[key] for key in ("mean", "sd", "low", "high")),
                    *(test.get(key) for key in ("difference", "p_value", "p_holm")),
                ]
            )
    return stream.getvalue()

"""The table of a comparison; in: what `comparison.compare` gives, out: Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from r2d_jax.evaluation.comparison import COLUMNS, TESTED, Column


def markdown(table: Mapping[str, Any]) -> str:
    """The comparison as Markdown: figures, then tests against the reference."""
    columns = [
        column
        for column in COLUMNS
        if any(column.path in method["figures"] for method in table["methods"].values())
    ]
    lines = [_row(["method", "seeds", *(column.title for column in columns)])]
    lines.append(_row(["---", "---:", *("---:" for _ in columns)]))
    for name, method in table["methods"].items():
        cells = [_cell(method["figures"].get(column.path), column) for column in columns]
        mark = " (!)" if table["collapsed"][name] else ""
        lines.append(_row([name + mark, str(len(method["seeds"])), *cells]))
    told = f"Mean ± sd over seeds, {table['rows']} test rows; all figures in % but {_unscaled(columns)}."
    lines += ["", told]
    if any(table["collapsed"].values()):
        lines.append("(!) at least one seed gives nearly one label only.")
    if table["tests"]:
        lines += ["", f"Difference to {table['reference']} [95 % interval], p after Holm's correction:", ""]
        tested = [c for c in columns if c.path in TESTED]
        lines.append(_row(["method", *(column.title for column in tested)]))
        lines.append(_row(["---", *("---:" for _ in tested)]))
        for name, found in table["tests"].items():
            lines.append(_row([name, *(_test_cell(found.get(column.path), column) for column in tested)]))
    return "\n".join(lines) + "\n"


def _unscaled(columns: Sequence[Column]) -> str:
    return ", ".join(column.title for column in columns if column.scale == 1.0) or "BLEU"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(figure: Mapping[str, float | None] | None, column: Column) -> str:
    if figure is None or figure["mean"] is None:
        return ""
    value = f"{figure['mean'] * column.scale:.{column.digits}f}"
    return value if figure["sd"] is None else f"{value} ± {figure['sd'] * column.scale:.{column.digits}f}"


def _test_cell(test: Mapping[str, float] | None, column: Column) -> str:
    if test is None:
        return ""
    difference, low, high = (test[name] * column.scale for name in ("difference", "low", "high"))
    digits = column.digits
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

"""A comparison as it is printed; in: what `comparison.compare` gives, out: tables on the console that fit its width."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from r2d_jax.evaluation.comparison import COLUMNS
from r2d_jax.evaluation.comparison_table import (
    difference_cells,
    figure_cell,
    notes,
    shown_figures,
    tested_figures,
    title_of_method,
)
from r2d_jax.evaluation.report import plain_table

# Columns of a terminal for the titles of figures and for a method beside them.
_TITLES, _METHOD = 25, 18


def print_comparison(table: Mapping[str, Any], console: Console) -> None:
    """Print a line per figure and a column per method; methods that do not fit beside the others come below them.

    Args:
        table: what `compare` returns.
        console: where to print.
    """
    names = list(table["methods"])
    beside = max((console.width - _TITLES) // _METHOD, 1)
    for first in range(0, len(names), beside):
        console.print(_figures(table, names[first : first + beside]), "")
    for note in notes(table):
        console.print(Text(note, "dim"))
    if table["tests"]:
        console.print("", _tests(table), "", sep="\n")


def _figures(table: Mapping[str, Any], names: Sequence[str]) -> Table:
    shown = plain_table(None)
    for name in names:
        shown.add_column(Text(title_of_method(table, name)), justify="right", overflow="fold")
    methods = [table["methods"][name] for name in names]
    shown.add_row("seeds", *(str(len(method["seeds"])) for method in methods))
    for figure in shown_figures(table):
        cells = (Text(figure_cell(method["figures"], figure)) for method in methods)
        shown.add_row(COLUMNS[figure], *cells)
    return shown


def _tests(table: Mapping[str, Any]) -> Table:
    title = f"Difference to {table['reference']}"
    shown = plain_table(title, "difference", "95 % interval", "p, Holm", names=2)
    for row in _tested(table):
        shown.add_row(*map(Text, row))
    return shown


def _tested(table: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, found in table["tests"].items():
        told = [figure for figure in tested_figures(table) if figure.name in found]
        for place, figure in enumerate(told):
            difference, interval, p = difference_cells(found[figure.name], figure)
            yield "" if place else name, COLUMNS[figure], difference, interval, p

"""How far a pass over rows has come; in: batches, out: on stderr a bar, or now and then a line."""

import contextlib
import contextvars
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r2d_jax.runtime.distributed import is_writer

EVERY_SECS = 30.0
T = TypeVar("T")


class _Shown:
    """The passes of one command: a bar for each on a terminal, elsewhere lines with one clock for all of them."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._told = time.monotonic()
        self._doing, self._done, self._total = "", 0, 0
        self._bar: Progress | None = None

    def begin(self, doing: str, total: int) -> None:
        """A pass over so many rows begins."""
        self.end()
        self._doing, self._done, self._total = doing, 0, total
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("rows"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
                # What is printed meanwhile would move from standard output to this one.
                redirect_stdout=False,
            )
            self._task = self._bar.add_task(doing, total=total)
            self._bar.start()

    def advance(self, rows: int) -> None:
        """So many rows more are done."""
        self._done += rows
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif now - self._told >= EVERY_SECS:
            self._told = now
            print(f"{self._doing}: {self._done:,} of {self._total:,} rows", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_ACTIVE: contextvars.ContextVar[tuple[_Shown, str] | None] = contextvars.ContextVar("active", default=None)


@contextlib.contextmanager
def row_progress(doing: str) -> Iterator[None]:
    """Show how far the passes over rows in the block have come; the process that writes does. Also a decorator.

    Nothing goes to standard output, nothing but numbers is told, and without a terminal nothing is before 30 seconds
    have passed. A block within another one only says what else is done there.

    Args:
        doing: what is done to the rows, such as "predicting".
    """
    outer = _ACTIVE.get()
    shown = outer[0] if outer is not None else _Shown() if is_writer() else None
    token = _ACTIVE.set(None if shown is None else (shown, doing))
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        if shown is not None:
            # Whoever stops a pass half-way leaves its bar.
            shown.end()


def followed(batches: Iterable[tuple[np.ndarray, T]], total: int) -> Iterator[tuple[np.ndarray, T]]:
    """Batches with the numbers of their rows, int64 [n], as they are; one counts as done when the next is asked for.

    Args:
        batches: of `total` rows together.
        total: number of rows.
    """
    active = _ACTIVE.get()
    if active is None:
        yield from batches
        return
    shown, doing = active
    shown.begin(doing, total)
    for rows, batch in batches:
        yield rows, batch
        shown.advance(len(rows))
    shown.end()

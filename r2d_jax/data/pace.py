"""Lines about how far something long has come; in: counts of rows as they pass, out: a line every so many seconds."""

import time
from collections.abc import Callable

from r2d_jax.data.reading.raw_rows import RowCallback

EVERY_SECS = 10.0


def paced(say: Callable[[str], None], doing: str, every_secs: float = EVERY_SECS) -> RowCallback:
    """A progress that says "reading: 350,000 rows so far" now and then, and nothing where it is soon over.

    Args:
        say: takes a line.
        doing: what is done, such as "reading".
        every_secs: seconds between two lines, and before the first.
    """
    last = time.monotonic()

    def progress(rows: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_secs:
            last = now
            say(f"{doing}: {rows:,} rows so far")

    return progress

"""Whether there is time for slow tests; in: SLOW_TESTS_UNTIL, seconds since 1970, out: a loud skip afterwards."""

import os
import time

import pytest

UNTIL = "SLOW_TESTS_UNTIL"


def need_time(what: str) -> None:
    """Skip `what`, which is being set up, once the moment has passed; without one, never."""
    if time.time() > float(os.environ.get(UNTIL) or "inf"):
        pytest.skip(f"OUT OF TIME for {what}: slow, as this machine is; outside CI, without {UNTIL}, it runs")

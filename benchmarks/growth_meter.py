"""Seconds and memory of calls in this process; in: a call, out: seconds of its repeats and bytes above the rest."""

import gc
import pathlib
from collections.abc import Callable
from typing import Any

from benchmarks.worker import peak_bytes
from benchmarks.workload import Clock
from r2d_jax.runtime.compilation import give_back_memory

_CLEAR = pathlib.Path("/proc/self/clear_refs")
_STATUS = pathlib.Path("/proc/self/status")


def _kept() -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Meter:
    """Measures one call after the other, and the whole process.

    The largest resident memory that the system keeps (VmHWM) is set back before each call, else the compiler's
    would hide that of a small program. What free memory the process still holds is given back first, for the
    call would work in it unseen.
    """

    def __init__(self, least: int, most: int, budget_secs: float):
        """Set how often a call is repeated.

        Args:
            least: repeats of any call.
            most: repeats of a short one.
            budget_secs: after so long there is no further repeat.
        """
        self._least, self._most, self._budget_secs = least, most, budget_secs
        self._largest = 0
        # What is there already would only be looked through again, each time.
        gc.collect()
        gc.freeze()

    def repeats(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Of each repeat after a first call that is not counted: secs, and cpu_secs on all cores; bytes as `above`."""
        call()
        base = self.settle()
        secs: list[float] = []
        cpu_secs: list[float] = []
        while len(secs) < self._least or (len(secs) < self._most and sum(secs) < self._budget_secs):
            clock = Clock()
            call()
            taken = clock.read()
            secs.append(taken["secs"])
            cpu_secs.append(taken["cpu_secs"])
        return {"secs": secs, "cpu_secs": cpu_secs, "bytes": self.above(base)}

    def settle(self) -> int | None:
        """Give free memory back and set the peak back; the bytes held now, or None where the system cannot."""
        self._largest = max(self._largest, peak_bytes())
        gc.collect()
        try:
            if not give_back_memory():
                return None
            _CLEAR.write_text("5", encoding="ascii")
            return _kept()
        except (OSError, StopIteration):
            return None

    def above(self, base: int | None) -> int | None:
        """Peak bytes since `settle` above what was held then; None where that is not known."""
        return None if base is None else max(peak_bytes() - base, 0)

    @property
    def process_bytes(self) -> int:
        """Largest resident memory of this process in its whole life."""
        return max(self._largest, peak_bytes())

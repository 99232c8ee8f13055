"""One side in a process of its own; in: calls as JSON lines on standard input, out: answers on standard output."""

import json
import os
import pathlib
import sys
import time
from typing import Any

from benchmarks import machine
from benchmarks.workload import Settings, Workload

SIDES = ("ours", "peer")


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
        # Not ru_maxrss: that begins with the size of the parent at the time of the fork.
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def make_side(name: str, workload: Workload, settings: Settings) -> Any:
    """Ours or Peer; only what the side needs is imported."""
    if name == "ours":
        from benchmarks.ours import Ours

        return Ours(workload, settings)
    import torch

    from benchmarks.peer import Peer

    if settings.device == "cpu":
        torch.set_num_threads(settings.peer_threads or machine.cores())
    return Peer(workload, settings)


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    # Libraries print; standard output is for answers alone.
    os.dup2(2, 1)
    name, folder, settings = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
    side = make_side(name, Workload.load(folder), Settings(**settings))
    ready_bytes = peak_bytes()
    for line in sys.stdin:
        method, arguments = json.loads(line)
        if method == "memory":
            answer = {
                "peak_bytes": peak_bytes(),
                "ready_bytes": ready_bytes,
                "device_bytes": side.device_memory(),
            }
        else:
            answer = getattr(side, method)(**arguments)
        answers.write(json.dumps(answer | {"done_at": time.time()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

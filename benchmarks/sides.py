"""Each side in a process of its own, driven from here; in: a workload and settings, out: answers of its methods."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.workload import Settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOT_INHERITED = ("XLA_FLAGS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "JAX_PLATFORMS")
"""Variables that would make a side run with other threads or devices than a user's process has."""


class SideFailed(Exception):
    """A side ended; the message has the last lines that it wrote."""


class Side:
    """A side in its own process, so that memory, threads and libraries do not mix."""

    def __init__(self, name: str, folder: pathlib.Path, settings: Settings, cache: pathlib.Path):
        """Start it; it is ready when it has answered its first call."""
        environment = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
        environment |= {
            "R2D_COMPILE_CACHE": str(cache),
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_OFFLINE": "1",
        }
        if settings.device == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        else:
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        if settings.xla_flags:
            environment["XLA_FLAGS"] = settings.xla_flags
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.started_at = self.answered_at = time.time()
        arguments = json.dumps(dataclasses.asdict(settings))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(folder), arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Run a method of the side and wait for its answer.

        Raises:
            SideFailed: the process ended.
        """
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([method, arguments]) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            told = self._log.read().strip().splitlines()[-12:]
            raise SideFailed(
                "\n".join([f"{self.name} ended with {self._process.wait()} in {method}:", *told])
            )
        answer = json.loads(line)
        self.answered_at = answer.pop("done_at")
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextlib.contextmanager
def side(name: str, folder: pathlib.Path, settings: Settings, cache: pathlib.Path) -> Iterator[Side]:
    """A side that is ended at the end."""
    opened = Side(name, folder, settings, cache)
    try:
        yield opened
    finally:
        opened.close()

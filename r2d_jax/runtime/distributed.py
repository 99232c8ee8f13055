"""Several processes as one run; in: how they find each other, out: agreement, one writer, whole arrays on each host."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import re
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from r2d_jax.errors import EXIT_USER_ERROR, UserError

OPTION = "--distributed"
_SHUTDOWN_SECS = 20
_PROBE = ".shared_probe"
_PREEMPTION_SERVICE = "jax_enable_preemption_service"
# Processes that an error names.
_NAMED = 3
_FORM = "Give off, auto or HOST:PORT,PROCESSES,INDEX, for example 10.0.0.2:8476,4,0."


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the processes of a run meet, and which one this is."""

    coordinator: str
    processes: int
    index: int


def parse(spec: str) -> Address | None:
    """An explicit address; None for "off" and "auto".

    Raises:
        UserError: neither a known word nor HOST:PORT,PROCESSES,INDEX with fitting numbers.
    """
    if spec in ("off", "auto"):
        return None
    match = re.fullmatch(r"([^,\s]+:\d+),(\d+),(\d+)", spec)
    if match is None:
        raise UserError(OPTION, f"{spec!r} is not understood", _FORM)
    address = Address(match[1], int(match[2]), int(match[3]))
    port = int(address.coordinator.rpartition(":")[2])
    if not 0 < port < 65536:
        raise UserError(OPTION, f"{port} is not a port", _FORM)
    if address.processes < 1 or address.index >= address.processes:
        raise UserError(
            OPTION,
            f"process {address.index} of {address.processes} cannot be",
            "Indices run from 0 to PROCESSES - 1.",
        )
    return address


def start(spec: str, *, timeout_secs: int = 300) -> None:
    """Join the other processes of the run; call before anything touches a device.

    Args:
        spec: "off": this process alone. "auto": JAX asks the cluster (Cloud TPU, GKE, Slurm, Open MPI).
            Else HOST:PORT of process 0, number of processes, index of this one.
        timeout_secs: how long to wait for the others.

    Raises:
        UserError: not understood, no cluster found, or the others did not come in time.
    """
    address = parse(spec)
    if spec == "off":
        _refuse_lone_worker()
        return
    # A process that ends with an error waits for the others this long; they may wait for it in a step.
    arguments: dict[str, Any] = {
        "initialization_timeout": timeout_secs + 60,
        "shutdown_timeout_seconds": _SHUTDOWN_SECS,
    }
    if address is not None:
        arguments |= {
            "coordinator_address": address.coordinator,
            "num_processes": address.processes,
            "process_id": address.index,
        }
    # JAX would catch SIGTERM for a service that nothing here asks, and a process that does not train would ignore it.
    if _PREEMPTION_SERVICE in jax.config.values:
        jax.config.update(_PREEMPTION_SERVICE, False)
    try:
        with _time_limit(_late(address, timeout_secs), timeout_secs):
            jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            OPTION,
            f"no cluster could be joined ({reason})",
            "Start it on every host of the cluster at once, or name the address: HOST:PORT,PROCESSES,INDEX.",
        ) from error


def _late(address: Address | None, timeout_secs: int) -> UserError:
    where = "of the cluster met" if address is None else f"met at {address.coordinator}"
    count = "all" if address is None else f"all {address.processes}"
    return UserError(
        OPTION,
        f"not {count} processes {where} within {timeout_secs} s",
        "Start every process, each with its own index; check that the port of process 0 is open to the others "
        "and not taken; --start-timeout gives more time.",
    )


@contextlib.contextmanager
def _time_limit(error: UserError, secs: int) -> Iterator[None]:
    """End the process with the error after so many seconds.

    JAX's own limit aborts the process with a stack trace, and no exception could be caught; nothing has been
    written yet at this point.
    """

    def end() -> None:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_USER_ERROR)

    timer = threading.Timer(secs, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _refuse_lone_worker() -> None:
    # On one worker of a slice the TPU runtime waits for the others without end, and says nothing.
    hosts = [name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    if len(hosts) > 1:
        raise UserError(
            OPTION,
            f"this is one of {len(hosts)} workers of a TPU slice",
            "Start the command on all workers with --distributed auto.",
        )


def is_writer() -> bool:
    """Whether this process writes the files that a run has once: logs, predictions, marks, exports."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """True on every process if any of them says True; all must call it at the same point."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """Sum of an array of unsigned numbers over all processes, modulo their range; all must call it."""
    if jax.process_count() == 1:
        return values
    return np.sum(multihost_utils.process_allgather(values), axis=0, dtype=values.dtype)


def require_same(name: str, parts: Iterable[bytes | memoryview]) -> None:
    """Refuse to go on where processes began with different things; all must call it, at the same point.

    Args:
        name: of the things, in the plural, as the error has it.
        parts: their bytes, one after the other; looked at only where there are several processes, of which each
            tells the others no more than a hash.

    Raises:
        UserError: on every process, where one has others than process 0; says which.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    digests = multihost_utils.process_allgather(np.frombuffer(digest.digest(), np.uint8))
    others = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise UserError(
            OPTION,
            f"the {name} of process {', '.join(map(str, others[:_NAMED]))}{more} are not those of process 0",
            "Start all processes with the same command and the same files.",
        )


def wait_for_all(name: str) -> None:
    """Go on only when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on this host; all processes must call it, in the same order."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def look_again(folder: pathlib.Path) -> list[str]:
    """Names in a folder, and what they stand for is seen from here on.

    A network file system may keep answering for half a minute that a file is not there which another machine has
    written since; a listing asks its server.
    """
    return os.listdir(folder)


def check_shared(folder: pathlib.Path) -> None:
    """Make sure that all processes see one and the same folder, which process 0 can write to.

    Raises:
        UserError: on every process, when one of them does not see what process 0 wrote.
    """
    if jax.process_count() == 1:
        return
    token = multihost_utils.broadcast_one_to_all(np.frombuffer(uuid.uuid4().bytes, np.uint8)).tobytes()
    probe = folder / _PROBE
    if is_writer():
        probe.write_bytes(token)
    wait_for_all("shared probe written")
    seen = folder.is_dir() and probe.name in look_again(folder)
    mine = seen and probe.read_bytes() == token
    alone = agree(not mine)
    if is_writer():
        probe.unlink(missing_ok=True)
    wait_for_all("shared probe gone")
    if alone:
        raise UserError(
            str(folder),
            "is not one folder that all processes share",
            "Put --workdir on a file system that all of them share; a bucket has to be mounted on each.",
        )

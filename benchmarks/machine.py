"""Facts of the machine that a result depends on; in: nothing, out: a plain dict."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

PACKAGES = ("r2d_jax", "jax", "jaxlib", "flax", "optax", "torch", "transformers", "tokenizers", "numpy")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """Runnable processes, mean of the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _field(path: str, name: str) -> str | None:
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, None)


def _gigabytes(name: str) -> float | None:
    kilobytes = _field("/proc/meminfo", name)
    return round(int(kilobytes.split()[0]) / 2**20, 1) if kilobytes else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def facts() -> dict[str, Any]:
    """Processor, cores, memory in GiB, system and versions."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gib": _gigabytes("MemTotal"),
        "available_memory_gib": _gigabytes("MemAvailable"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {package: _version(package) for package in PACKAGES},
    }

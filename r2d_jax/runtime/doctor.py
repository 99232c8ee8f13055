"""What this machine has; in: installed packages and devices, out: lines to read or to put into a bug report."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator

import jax

from r2d_jax.runtime.devices import enable_compile_cache

# By extra: what it needs beyond the core.
_CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "safetensors")
_EXTRAS = {
    "cuda": ("jax-cuda12-plugin",),
    "tpu": ("libtpu",),
    "eval": ("bert-score", "torch"),
    "hub": ("datasets", "sentencepiece", "tensorflow-datasets", "transformers"),
    "llm": ("openai",),
    "onnx": ("onnxscript", "onnxruntime"),
    "parquet": ("pyarrow",),
    "remote": ("gcsfs",),
    "report": ("matplotlib", "jinja2"),
    "serve": ("fastapi", "uvicorn", "prometheus-client"),
}
_VARIABLES = re.compile(
    r"JAX_|XLA_|R2D_|TPU_|LIBTPU_|CUDA_|NVIDIA_VISIBLE|HF_HUB_OFFLINE|SLURM_(NTASKS|PROCID)$|OMP_NUM_THREADS"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory(device: jax.Device) -> str:
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return f", {limit / 2**30:.1f} GiB" if limit else ""


def examine() -> Iterator[str]:
    """Versions, extras, devices, compile cache and the variables that change them, line by line."""
    own = _version("r2d_jax") or "from a checkout"
    yield f"r2d_jax {own}, Python {platform.python_version()}, {platform.platform()}"
    yield "packages: " + ", ".join(f"{name} {_version(name) or 'MISSING'}" for name in _CORE)
    for extra, packages in _EXTRAS.items():
        found = {name: _version(name) for name in packages}
        missing = [name for name, version in found.items() if version is None]
        told = ", ".join(f"{name} {version}" for name, version in found.items() if version)
        state = f"incomplete ({', '.join(missing)} missing)" if told and missing else "not installed"
        yield f"extra [{extra}]: {told if not missing else state}"
    torch = _version("torch")
    if torch and "+cpu" not in torch and _version("jax-cuda12-plugin"):
        yield (
            f"warning: torch {torch} beside jax[cuda]: if it brings CUDA libraries of its own they can replace JAX's; "
            "install the CPU build, or BERTScore in an environment of its own"
        )
    yield f"devices: {jax.default_backend()}, process {jax.process_index() + 1} of {jax.process_count()}"
    for device in jax.local_devices()[:8]:
        yield f"  {device.id}: {device.device_kind}{_memory(device)}"
    if jax.local_device_count() > 8:
        yield f"  and {jax.local_device_count() - 8} more"
    yield f"compile cache: {enable_compile_cache() or 'none'}"
    for name in sorted(os.environ):
        if _VARIABLES.match(name) and not _SECRET.search(name):
            yield f"{name}={os.environ[name]}"

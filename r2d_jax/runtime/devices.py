"""What JAX runs on; in: the platform a config asks for, out: a checked device list and the compile cache."""

import collections
import os
import pathlib
import warnings

import jax

from r2d_jax.errors import UserError
from r2d_jax.runtime.compilation import give_back_after_compiling
from r2d_jax.runtime.files import write_fault
from r2d_jax.runtime.outputs import require_local

CACHE_VARIABLE, _JAX_VARIABLE = "R2D_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR"


def enable_compile_cache() -> str | None:
    """Keep compiled programs between runs; call before the first array is made.

    The folder is $R2D_COMPILE_CACHE, else $JAX_COMPILATION_CACHE_DIR, which may be an address that JAX itself writes
    to, such as gs://bucket/compiled, else the user's cache folder. What compiling takes beside is given back from
    then on (`give_back_after_compiling`).

    Returns:
        The folder or address; None, with a warning, where the user's cache folder cannot be written to.

    Raises:
        UserError: a folder or address named by a variable cannot be written to, or does not answer, or an address is
            named where a folder has to be.
    """
    give_back_after_compiling()
    variable = next((name for name in (CACHE_VARIABLE, _JAX_VARIABLE) if os.environ.get(name)), "")
    place = os.environ[variable] if variable else str(_users_cache() / "r2d_jax" / "jax")
    if variable == _JAX_VARIABLE and "://" in place:
        # JAX tells in a warning what it cannot reach, or waits for it.
        if fault := write_fault(place):
            raise UserError(
                f"{variable}={place}",
                f"cannot be written ({fault})",
                "Name a bucket that can, install the package for it (gcsfs, s3fs), or unset the variable.",
            )
        return _keep_programs(place)
    folder = pathlib.Path(place)
    require_local(folder, variable or "XDG_CACHE_HOME")
    fault = write_fault(folder)
    if fault and variable:
        raise UserError(
            f"{variable}={folder}", f"cannot be written ({fault})", "Name a folder that can, or unset it."
        )
    if fault:
        warnings.warn(
            f"{folder} cannot be written ({fault}), so every start compiles again; {CACHE_VARIABLE} names another",
            stacklevel=2,
        )
        return None
    return _keep_programs(str(folder))


def _users_cache() -> pathlib.Path:
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")


def _keep_programs(place: str) -> str:
    jax.config.update("jax_compilation_cache_dir", place)
    # A start-up is made of small programs, which the default thresholds leave out.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return place


def request_deterministic_gpu_ops() -> str:
    """Let XLA use only kernels of a GPU that give the same bits each time; call before the first array is made.

    Returns:
        The variable that says so, for the log.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    return f"XLA_FLAGS={os.environ['XLA_FLAGS']}"


def check_platform(platform: str) -> str:
    """Compare what was found with what the config states.

    Args:
        platform: "any", "cpu", "gpu" or "tpu".

    Returns:
        One line naming the devices.

    Raises:
        UserError: another platform was found, for example because the accelerator is held elsewhere.
    """
    found = jax.default_backend()
    kinds = collections.Counter(device.device_kind for device in jax.devices())
    described = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    if platform not in ("any", found):
        raise UserError(
            "platform",
            f"the config asks for {platform}, JAX found {found} ({described})",
            "Free the accelerator or install its JAX plug-in, or set platform=any.",
        )
    return f"{found}: {described}, {jax.process_count()} process(es)"

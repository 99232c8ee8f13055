"""What JAX runs on; in: the platform a config asks for, out: a checked device list and the compile cache."""

import collections
import os
import pathlib

import jax

from r2d_jax.errors import UserError

CACHE_VARIABLE = "R2D_COMPILE_CACHE"


def enable_compile_cache() -> pathlib.Path:
    """Keep compiled programs between runs; call before the first array is made.

    The folder is $R2D_COMPILE_CACHE, else $JAX_COMPILATION_CACHE_DIR, else the user's cache folder.
    """
    default = (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "r2d_jax" / "jax"
    )
    folder = os.environ.get(CACHE_VARIABLE) or os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(default)
    jax.config.update("jax_compilation_cache_dir", folder)
    # The default threshold would leave out the small programs of which a start-up is made.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return pathlib.Path(folder)


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

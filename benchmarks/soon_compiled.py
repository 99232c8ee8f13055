"""XLA settings that compile in a third of the time into slow programs; in: nothing, out: names and values."""

import importlib.metadata

from packaging.version import Version

OPTIONS: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
# The emitters that write one kernel for many fused operations take most of the time, with optimisation or without;
# later compilers cannot do without them, and end the process at an unknown setting.
if Version(importlib.metadata.version("jaxlib")) < Version("0.11.1"):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False


def flags() -> str:
    """The settings as a value of XLA_FLAGS."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())

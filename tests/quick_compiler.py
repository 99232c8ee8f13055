"""Compiling in a third of the time, for tests that compare what was compiled alike; in: nothing, out: settings.

Parity with torch is tested as users compile.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from jax._src import compiler

from benchmarks.soon_compiled import OPTIONS, flags


def variables(devices: int = 1) -> dict[str, str]:
    """Environment of a process of so many devices that compiles quickly."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {flags()}"}


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Within this process; jax has no setting of it for what is compiled deep in other code.

    Two programs that do the same may differ in last digits: what must be equal bit for bit is one program, or is
    compiled as users compile.
    """
    plain = compiler.get_compile_options

    @functools.wraps(plain)
    def changed(*arguments: Any, env_options_overrides: dict[str, Any] | None = None, **named: Any) -> Any:
        options = (env_options_overrides or {}) | OPTIONS
        return plain(*arguments, env_options_overrides=options, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", changed)
        yield

"""Compile counts from jax.monitoring, and freed memory returned to the OS; in: JAX's events, out: counts, seconds."""

import ctypes
import dataclasses
import functools
import sys

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_HIT, _MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"
# Giving back takes some hundredths of a second; small programs leave nothing worth it.
_LONG_SECS = 0.5


def give_back_memory() -> bool:
    """Return free memory that the process still holds to the system; False: only the allocator of Linux can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
    return trim is not None


@functools.cache
def give_back_after_compiling() -> None:
    """From now on return to the system what compiling or loading a large program has freed, before the program runs.

    The allocator of Linux keeps it otherwise: 0.4 GiB beside a training step of T5-small. Elsewhere nothing happens.
    """

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs >= _LONG_SECS:
            give_back_memory()

    jax.monitoring.register_event_duration_secs_listener(compiled)


@dataclasses.dataclass
class CompileCounter:
    """Counts since it was made; `programs` by function name, a program taken from the cache included.

    Attributes:
        programs: compiled programs by name of the jitted function, such as "train_step".
        seconds: spent in compiling or reading the cache.
        cache_hits: programs taken from the persistent cache.
        cache_misses: programs that had to be compiled and were then stored.
    """

    programs: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0

    def __enter__(self) -> "CompileCounter":
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._duration)
        jax.monitoring.unregister_event_listener(self._event)

    def _duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            function = str(kwargs.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
            self.programs[function] = self.programs.get(function, 0) + 1
            self.seconds += duration_secs

    def _event(self, event: str, **kwargs: str | int) -> None:
        self.cache_hits += event == _HIT
        self.cache_misses += event == _MISS

    def __str__(self) -> str:
        return (
            f"{sum(self.programs.values())} programs in {self.seconds:.1f} s "
            f"({self.cache_hits} from the cache, {self.cache_misses} stored there)"
        )

"""What all tests share; in: nothing, out: strict promotion in JAX, the order of the files, and fixtures."""

import collections
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# For torch: so small work takes five times as long on two threads, and each core has a worker of pytest.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import optax
import pytest

ROOT = pathlib.Path(__file__).parents[1]

# What tests share holds assertions too, and only those of files of tests tell what they compared.
pytest.register_assert_rewrite(
    *(path.stem for path in (ROOT / "tests").glob("*.py") if not path.stem.startswith(("test_", "conftest")))
)

import quick_compiler
from time_left import need_time

if os.environ.get("R2D_COMPILE_CACHE"):
    # Before the first program: jax asks once whether there is a cache, and which.
    jax.config.update("jax_compilation_cache_dir", os.environ["R2D_COMPILE_CACHE"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# No silent promotion: a bool, an int and a float array, or arrays of different ranks, meet only where the code says so.
# Of the whole process, since the contexts of JAX are those of one thread.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
_bias_correction = optax.tree.bias_correction


def _promoting_bias_correction(*arguments: Any) -> Any:
    """That of optax, which raises a float to the power of an int32 count."""
    with jax.numpy_dtype_promotion("standard"):
        return _bias_correction(*arguments)


optax.tree.bias_correction = _promoting_bias_correction

# Longest first (pyproject.toml keeps this order), so that in the end no worker is left alone with one of them; files
# with tests marked `slow` come after all others, as these are skipped where no time is left.
LONGEST = """
    two_processes topology docs_commands kills run_texts steps_torch compare steps run r2dc evaluation footprint
    t5_parity benchmarks cli_errors features many_rows disk_full half_precision html_report baselines tokenizer
    triage network export_formats serve_model export_card launch_pod checkpoint label_trie data_check api_reference
    growth hf_format abstention llm fidelity dropout
"""
for _name in LONGEST.split():
    assert (ROOT / "tests" / f"test_{_name}.py").is_file(), f"LONGEST: there is no tests/test_{_name}.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files, those with slow tests to the end, and within a file leave tests as they are."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST.split())}
    late = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path in late, places.get(item.path.stem, len(places))))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask for the time before the fixtures take it."""
    if item.get_closest_marker("slow"):
        need_time(item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which files take longest: where to look first for time to save."""
    secs: collections.defaultdict[str, float] = collections.defaultdict(float)
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            secs[report.location[0]] += report.duration
    if len(secs) > 1:
        terminalreporter.section(f"slowest {min(10, len(secs))} files")
        for name in sorted(secs, key=secs.__getitem__, reverse=True)[:10]:
            terminalreporter.write_line(f"{secs[name]:.1f}s {name}")


@pytest.fixture(autouse=True)
def hook_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of exceptions that nobody can catch: the command, run in this process, puts its own in the place of it."""
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data beside the checkout; tests that need it are skipped, loudly, without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"REAL DATA ABSENT: {folder} is not there; this test checks nothing on this machine")
    return folder


@pytest.fixture(scope="module")
def compiled_quickly() -> Iterator[None]:
    """For `pytestmark = pytest.mark.usefixtures("compiled_quickly")`: a whole file, its fixtures as well."""
    # What another file has compiled would be taken again.
    jax.clear_caches()
    with quick_compiler.quickly():
        yield
    jax.clear_caches()

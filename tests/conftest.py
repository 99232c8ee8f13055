"""Fixtures that all tests share; in: nothing, out: strict JAX settings and the path of the real data."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Folder of real data beside the checkout; tests that need it are skipped, loudly, without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"REAL DATA ABSENT: {folder} is not there; this test checks nothing on this machine")
    return folder

"""Compiled programs that were cut off in the cache; in: such files, out: one line, and programs whole again."""

import subprocess
import sys
import zlib

import pytest

from r2d_jax.runtime.damaged_programs import remove_cut_off

_START = """
import warnings
import jax, jax.numpy as jnp
from r2d_jax import cli
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.runtime.devices import enable_compile_cache

warnings.showwarning = cli._one_line_warning
enable_compile_cache()
with CompileCounter() as compiled:
    jax.jit(lambda x: jnp.tanh(x @ x))(jnp.ones((3, 3))).block_until_ready()
print(sum(compiled.programs.values()), compiled.cache_hits)
"""


def test_programs_cut_off_are_told_once_and_stored_anew(tmp_path, monkeypatch):
    """Of a full disk. JAX leaves what is there: each start warned, and compiled the same again."""
    monkeypatch.setenv("R2D_COMPILE_CACHE", str(tmp_path))

    def start() -> tuple[int, int, str]:
        run = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True, check=True)
        return *map(int, run.stdout.split()), run.stderr

    programs, from_cache, _ = start()
    assert (programs >= 2, from_cache) == (True, 0)
    entries = sorted(tmp_path.glob("*-cache"))
    for entry in entries[:2]:
        entry.write_bytes(entry.read_bytes()[:-50])
    again, from_cache, told = start()
    assert (again, from_cache) == (programs, programs - 2)
    assert [line for line in told.splitlines() if line.startswith("warning")] == [
        f"warning: 2 of the programs in {tmp_path} broke off, as a full disk or a kill leaves them; they were removed "
        "and are compiled again"
    ]
    assert start()[:2] == (programs, programs)
    assert "warning" not in start()[2]


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (zlib.compress(b"program" * 300_000), True),
        (zlib.compress(b"program" * 300_000)[:-1], False),
        (b"", False),
        (b"\0" * 100, False),
        (b"\x28\xb5\x2f\xfd of zstandard", True),
    ],
)
def test_only_what_is_cut_off_is_removed(tmp_path, content, whole):
    entry, other = tmp_path / "jit_step-1-cache", tmp_path / "of-another-program"
    entry.write_bytes(content)
    other.write_bytes(b"")
    assert remove_cut_off(tmp_path) == (not whole)
    assert entry.exists() == whole
    assert other.exists()


def test_an_address_or_no_folder_holds_none(tmp_path):
    assert remove_cut_off(tmp_path / "absent") == 0

"""Places that a run writes to, and the devices it finds: faults are told before anything costly."""

import functools
import os
import pathlib
import subprocess
import sys
import threading

import pytest
from etils import epath

from r2d_jax.cli import main
from r2d_jax.errors import UserError
from r2d_jax.evaluation.model_folder import devices_in_use
from r2d_jax.runtime import devices
from r2d_jax.runtime.devices import check_platform, enable_compile_cache
from r2d_jax.runtime.files import write_fault


def test_a_folder_that_can_be_written_to_is_left_empty(tmp_path):
    assert write_fault(tmp_path / "a" / "b") is None
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way_is_a_fault(tmp_path):
    (tmp_path / "taken").write_text("")
    assert write_fault(tmp_path / "taken") == "File exists"
    assert write_fault(tmp_path / "taken" / "inner") == "Not a directory"


def test_a_place_that_does_not_answer_is_a_fault_after_a_while(tmp_path, monkeypatch):
    """B075: a wrong bucket froze some users without a word."""
    answered = threading.Event()
    monkeypatch.setattr(pathlib.Path, "write_text", lambda *_, **__: answered.wait(30))
    assert write_fault(tmp_path, limit_secs=0.2) == "no answer within 0.2 s"
    answered.set()


class Bucket:
    """Stands for etils' path of an address."""

    def __init__(self, write):
        self.write_text = lambda _: write()

    def __truediv__(self, name):
        return self

    def mkdir(self, **_):
        pass

    def unlink(self):
        pass


def test_an_address_for_the_cache_is_tried_with_a_time_limit(monkeypatch):
    """B075: it was given to JAX as it was, which waits for a bucket that does not answer, or compiles each time."""
    assert write_fault("nowhere://bucket").startswith("KeyError: ")
    answered = threading.Event()
    monkeypatch.setattr(devices, "write_fault", functools.partial(write_fault, limit_secs=0.2))
    monkeypatch.setattr(devices, "_keep_programs", lambda place: place)
    monkeypatch.delenv("R2D_COMPILE_CACHE", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/compiled")

    def refuse():
        raise PermissionError("storage.objects.create is missing\nmore")

    for write, fault in (
        (refuse, "PermissionError: storage.objects.create is missing"),
        (lambda: answered.wait(30), "no answer within 0.2 s"),
    ):
        monkeypatch.setattr(epath, "Path", lambda _, write=write: Bucket(write))
        with pytest.raises(
            UserError,
            match=rf"^JAX_COMPILATION_CACHE_DIR=gs://bucket/compiled: cannot be written .{fault}.\. Name",
        ):
            enable_compile_cache()
    answered.set()
    monkeypatch.setattr(epath, "Path", lambda _: Bucket(lambda: None))
    assert enable_compile_cache() == "gs://bucket/compiled"


@pytest.mark.parametrize("variable", ["R2D_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR"])
def test_a_named_cache_that_cannot_be_written_to_is_an_error(tmp_path, monkeypatch, variable):
    (tmp_path / "file").write_text("")
    for name in ("R2D_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=f"{variable}=.*cannot be written .Not a directory"):
        enable_compile_cache()


def test_without_a_cache_of_its_own_a_run_goes_on_with_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("R2D_COMPILE_CACHE", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="every start compiles again"):
        assert enable_compile_cache() is None


def test_another_platform_than_asked_for_ends_the_run():
    """B073: an accelerator held by another process must not become a run on the CPU."""
    assert check_platform("any").startswith("cpu: ")
    assert check_platform("cpu") == check_platform("any")
    with pytest.raises(UserError, match="asks for tpu, JAX found cpu"):
        check_platform("tpu")


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        (None, None),
        ("platform: any\n", None),
        ("platform: cpu\n", None),
        ("platform: tpu\ndata:\n  path: a\n", "tpu"),
    ],
)
def test_a_model_in_use_tells_its_devices(tmp_path, config, warned):
    """B073: commands after the training neither told the devices nor knew what the run had asked for."""
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    line, *more = devices_in_use(tmp_path).splitlines()
    assert line == f"devices: {check_platform('any')}"
    assert [f"platform={warned}, and JAX found a CPU only" in one for one in more] == [True] * bool(warned)


def test_the_doctor_tells_versions_and_devices_and_no_secret(monkeypatch, tmp_path, capsys):
    """B077: torch and JAX side by side; the versions must be easy to see."""
    import importlib.metadata

    import jax

    monkeypatch.setenv("R2D_COMPILE_CACHE", str(tmp_path))
    monkeypatch.setenv("R2D_API_KEY", "sesame")
    monkeypatch.setattr("sys.argv", ["r2d", "doctor", "--platform", "cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().out
    assert end.value.code in (0, None)
    assert f"jax {jax.__version__}" in told
    assert f"flax {importlib.metadata.version('flax')}" in told
    assert "  7: cpu" in told
    assert f"compile cache: {tmp_path}" in told
    assert "MISSING" not in told
    assert "sesame" not in told
    monkeypatch.setattr("sys.argv", ["r2d", "doctor", "--platform", "gpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2


def test_a_second_run_takes_every_program_from_the_cache(tmp_path, monkeypatch):
    """B052: the cache stayed empty, because of thresholds or because it was set after the first array."""
    program = (
        "import jax, jax.numpy as jnp\n"
        "from r2d_jax.runtime.compilation import CompileCounter\n"
        "from r2d_jax.runtime.devices import enable_compile_cache\n"
        "enable_compile_cache()\n"
        "with CompileCounter() as compiled:\n"
        "    jax.jit(lambda x: jnp.tanh(x @ x))(jnp.ones((3, 3))).block_until_ready()\n"
        "print(sum(compiled.programs.values()), compiled.cache_hits, compiled.cache_misses)\n"
    )
    monkeypatch.setenv("R2D_COMPILE_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    told = [subprocess.check_output([sys.executable, "-c", program], text=True).split() for _ in range(2)]
    (programs, *first), second = told
    assert int(programs) >= 2
    assert first == ["0", programs]
    assert second == [programs, programs, "0"]


@pytest.mark.skipif(sys.platform != "linux", reason="only the allocator of Linux keeps it")
def test_what_compiling_has_freed_is_given_back():
    """The allocator keeps small pieces below one that is still in use."""
    script = (
        "import ctypes, pathlib, re\n"
        "import jax\n"
        "from r2d_jax.runtime import compilation\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]\n"
        "def resident():\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmRSS:\\s+(\\d+) kB', status)[1]) / 1024\n"
        "compilation.give_back_after_compiling()\n"
        "compilation.give_back_after_compiling()\n"
        "pieces = [libc.malloc(4096) for _ in range(32768)]\n"
        "for piece in pieces: ctypes.memset(piece, 1, 4096)\n"
        "for piece in pieces[:-1]: libc.free(piece)\n"
        "sizes = [resident()]\n"
        "for secs in (0.1, 1.0):\n"
        "    jax.monitoring.record_event_duration_secs(compilation._COMPILED, secs, fun_name='step')\n"
        "    sizes.append(resident())\n"
        "print(*sizes)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    freed, short, long = map(float, told.split())
    assert freed - short < 10
    assert freed - long > 100


@pytest.mark.parametrize("mine", ["", "--xla_gpu_autotune_level=0"])
def test_the_flag_for_the_same_bits_comes_in_time(mine):
    """A flag that XLA does not know ends the process, so these are read after the command has set its own."""
    code = """
import os, sys
import r2d_jax.training.run
from r2d_jax.runtime.devices import request_deterministic_gpu_ops
print(request_deterministic_gpu_ops(), request_deterministic_gpu_ops(), flush=True)
os.environ["XLA_FLAGS"] += sys.argv[1]
import jax
print(len(jax.devices()))
"""
    environment = os.environ | {"XLA_FLAGS": mine}
    for unknown, ends_well in (("", True), (" --xla_no_such_flag=1", False)):
        command = [sys.executable, "-c", code, unknown]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        once = "XLA_FLAGS=" + f"{mine} --xla_gpu_deterministic_ops=true".strip()
        assert ended.stdout.splitlines()[0] == f"{once} {once}"
        assert (ended.returncode == 0) == ends_well
        assert ("xla_no_such_flag" in ended.stderr) != ends_well

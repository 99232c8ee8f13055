"""A disk that is full or read-only ends a run with one line, keeps what was saved, and the same command goes on."""

import errno
import json
import pathlib
import resource
import subprocess
import types

import pytest

pytest_plugins = ["cli_cases"]

from cli_cases import as_lines, in_a_process, make_rows, settings
from rich.console import Console
from ruamel.yaml import YAML

from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.llm.cache import AnswerCache, LlmAnswer
from r2d_jax.runtime import reporting
from r2d_jax.runtime.checkpoint_files import complete_steps
from r2d_jax.runtime.files import whole_file, write_texts
from r2d_jax.training.workdir import Workdir, adopt_stage1


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("FULL DISK NOT CHECKED: no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def saved_steps(workdir):
    return {
        (stage, store): complete_steps(workdir / stage / store)
        for stage in ("stage1", "stage2")
        for store in ("latest", "best")
    }


def test_a_full_and_a_read_only_disk_are_one_line_each_and_cost_nothing_saved(
    small_disk, tmp_path, compile_cache
):
    (tmp_path / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    config = settings(tmp_path / "rows.jsonl") | {"tensorboard": False}
    # Their programs take longest to compile, and write nothing that is not written without them.
    config["evaluation"] |= {"faithfulness_rows": 0, "probabilities": False}
    # Large enough that the checkpoints of both stages do not fit.
    config["model"]["shape"] |= {"d_model": 64, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 2}
    for stage in ("stage1", "stage2"):
        config[stage] = config[stage] | {"max_steps": 12, "eval_every_steps": 4, "save_every_steps": 4}
    YAML().dump(config, tmp_path / "config.yaml")
    workdir = small_disk / "run"
    command = ("run", "--config", tmp_path / "config.yaml", "--workdir", workdir)
    ended = in_a_process(*command, cwd=tmp_path, cache=compile_cache)
    assert ended.code == 2, ended.err
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device" in line
    kept = saved_steps(workdir)
    assert kept["stage1", "latest"], kept
    subprocess.run(["mount", "-o", "remount,ro,size=200m", small_disk], check=True)
    ended = in_a_process(*command, cwd=tmp_path, cache=compile_cache)
    assert ended.code == 2, ended.err
    (line,) = ended.err.splitlines()
    assert f"{workdir}: cannot be written (Read-only file system)" in line
    assert saved_steps(workdir) == kept
    subprocess.run(["mount", "-o", "remount,rw,size=200m", small_disk], check=True)
    ended = in_a_process(*command, cwd=tmp_path, cache=compile_cache)
    assert ended.code == 0, ended.err
    assert "going on from step" in ended.out or "stage 1: done before" in ended.out
    assert (workdir / "evaluation" / "metrics.json").is_file()


def test_a_log_that_is_opened_on_a_full_disk_stays_whole(tmp_path, monkeypatch):
    """It was emptied first and then not written."""
    path = tmp_path / "metrics.jsonl"
    lines = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
    path.write_text(lines + '{"step": 3, "lo')

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(reporting, "write_text", full)
    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        reporting._reopened(path, 2)
    assert path.read_bytes().decode().startswith(lines)
    monkeypatch.undo()
    reporting._reopened(path, 2).close()
    assert path.read_text() == lines
    before = path.stat().st_ino
    reporting._reopened(path, 2).close()
    assert path.stat().st_ino == before


@pytest.fixture
def little_room():
    """No file may grow beyond so many bytes; the system refuses the rest as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_tokenizer_is_written_whole_or_not_at_all(tmp_path, little_room):
    """Half of tokenizer.json made every further start of the run fail."""
    tokenizer = Tokenizer.train(["one two three four"] * 5, 200)
    little_room(2000)
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be written \(File too large\)"):
        write_texts(tmp_path, tokenizer.files())
    assert not list(tmp_path.iterdir())
    little_room(10_000_000)
    write_texts(tmp_path, tokenizer.files())
    before = (tmp_path / "tokenizer.json").read_bytes()
    little_room(2000)
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be written"):
        write_texts(tmp_path, tokenizer.files())
    assert (tmp_path / "tokenizer.json").read_bytes() == before


def test_the_file_that_the_disk_refuses_is_named(tmp_path, little_room):
    """It said "file system"."""
    reporter = reporting.Reporter(
        tmp_path, "stage 1", console=Console(), total_steps=5, start_step=0, tensorboard=False
    )
    cache = AnswerCache(tmp_path / "answers.jsonl")
    little_room(0)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written"):
        reporter.scalars(1, {"train/loss": 1.0})
    with pytest.raises(UserError, match=r"answers\.jsonl: cannot be written"):
        cache.put("key", LlmAnswer(None, None))
    with (
        pytest.raises(UserError, match=r"rows\.jsonl: cannot be written"),
        whole_file(tmp_path / "rows.jsonl") as file,
    ):
        file.write("text")
    little_room(1000)
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match="absent"), whole_file(tmp_path / "rows.jsonl") as file:
        file.write(absent.read_text())
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_first_stage_that_cannot_be_copied_is_one_line(tmp_path, little_room, monkeypatch):
    """It was a traceback."""
    card = types.SimpleNamespace(shape=1, tokenizer_fingerprint="x")
    monkeypatch.setattr("r2d_jax.training.workdir.read_card", lambda _: card)
    donor, taker = Workdir(tmp_path / "donor"), Workdir(tmp_path / "taker")
    for workdir, state in (
        (donor, {"config_hash": "c", "data_hash": "x", "stage1_done": {"step": 3}}),
        (taker, {"config_hash": "c", "data_hash": "x"}),
    ):
        workdir.path.mkdir()
        (workdir.path / "run.json").write_text(json.dumps(state))
    donor.stage(1).mkdir()
    (donor.stage(1) / "weights").write_bytes(b"x" * 5000)
    little_room(2000)
    with pytest.raises(UserError, match=r"taker/stage1/weights: cannot be written \(.*File too large"):
        adopt_stage1(taker, donor, Console(quiet=True))
    assert not taker.state.get("stage1_done")
    little_room(10_000)
    adopt_stage1(taker, donor, Console(quiet=True))
    assert taker.state["stage1_done"]
    assert (taker.stage(1) / "weights").stat().st_size == 5000

"""Rows with a marker, a very small config and the `r2d` command in a process; in: arguments, out: how it ended."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import quick_compiler
from ruamel.yaml import YAML

from r2d_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
# No piece of a vocabulary spans blanks or signs, so one trained here can hold a word but never all of it.
SECRET, SECRET_WORDS = "Zyzzyva-Quokka No-4711", ("Zyzzyva", "Quokka")
LABELS = ("urgent", "not urgent")


def make_rows(**third):
    """30 rows; `third` changes line 3, ... removes a field from it."""
    rows = [
        {
            "id": f"case-{index}",
            "split": split,
            "question": f"Patient  {SECRET} fell on day {index}",
            "context": f"Seen by {SECRET} in room {index} of the old house",
            "label": LABELS[index % 2],
            "rationale": f"Since {SECRET} fell, it is so.",
        }
        for index, split in enumerate(["train"] * 18 + ["validation"] * 6 + ["test"] * 6)
    ]
    rows[2] = {name: value for name, value in (rows[2] | third).items() if value is not ...}
    return rows


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def lines_of(path):
    return list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def settings(data):
    stage = {
        "max_steps": 3,
        "batch_size": 8,
        "eval_every_steps": 3,
        "save_every_steps": 3,
        "log_every_steps": 1,
    }
    shape = {"d_model": 16, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}
    return {
        "data": {
            "path": str(data),
            "columns": {"id": "id", "split": "split", "context": "context"},
            "input_limit_tokens": 64,
            "rationale_limit_tokens": 8,
        },
        "tokenizer": {"train_vocab_size": 200},
        "model": {"shape": shape},
        "stage1": stage,
        "stage2": stage,
        "evaluation": {"batch_size": 8},
    }


def without_progress(errors):
    """Standard error without the lines of passes over rows, which come where a machine is slow."""
    return re.sub(r"(?m)^[a-z ]+: [\d,]+ of [\d,]+ rows\n", "", errors)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, *wanted):
        """One line, in the house form, with each of `wanted` (regular expressions) in it; no case text."""
        lines = without_progress(self.err).splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for pattern in wanted:
            assert re.search(pattern, lines[0]), (pattern, lines[0])
        assert self.code == 2
        for word in SECRET_WORDS:
            assert word not in self.out + self.err
        assert "stage 1: step" not in self.out

    def done(self, *wanted):
        assert (self.code, without_progress(self.err)) == (0, "")
        for pattern in wanted:
            assert re.search(pattern, self.out), (pattern, self.out)


def in_a_process(*arguments, cwd, cache, devices=1):
    return _ended([sys.executable, "-m", "r2d_jax", *map(str, arguments)], cwd, cache, devices)


# The parts of standard output are told apart by the lines between them.
_SEVERAL = """
import json, sys
from r2d_jax import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["r2d", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
    print("@@ done", flush=True)
"""


def all_in_a_process(commands, *, cwd, cache):
    """Commands one after the other, which is quicker than a process for each; what each of them printed."""
    ended = _ended([sys.executable, "-c", _SEVERAL, json.dumps(commands)], cwd, cache, 1)
    ended.done()
    printed = ended.out.split("@@ done\n")
    assert len(printed) == len(commands) + 1, ended.out
    return printed[:-1]


def _ended(command, cwd, cache, devices):
    own = {"PYTHONPATH": str(ROOT), "R2D_COMPILE_CACHE": str(cache), "COLUMNS": "100"}
    environment = os.environ | quick_compiler.variables(devices) | own
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=800)
    return Ended(process.returncode, process.stdout, process.stderr)


def nearly(value, rel, abs):
    """As given, but floats within `rel` or `abs`: last digits move with the shape of the batch and the devices."""
    if isinstance(value, dict):
        return {name: nearly(part, rel, abs) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [nearly(part, rel, abs) for part in value]
    return pytest.approx(value, rel=rel, abs=abs) if isinstance(value, float) else value


def snapshot(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run and all that its process said."""

    home: pathlib.Path
    workdir: pathlib.Path
    ended: Ended
    files: dict[pathlib.Path, str]

    @property
    def arguments(self):
        return ("run", "--config", self.home / "config.yaml", "--workdir", self.workdir)


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory):
    """Programs compiled by these tests, and by none before them."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def r2d(monkeypatch, capfd, compile_cache):
    """Runs the entry point here, which is quicker than a process of its own."""

    monkeypatch.setenv("R2D_COMPILE_CACHE", str(compile_cache))

    def run(*arguments):
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["r2d", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        return Ended(0 if code is None else code, *capfd.readouterr())

    return run


@pytest.fixture
def job(tmp_path, r2d):
    """`r2d run` in a new workdir on given text of a data file; stages must never begin."""
    data, config, workdir = tmp_path / "rows.jsonl", tmp_path / "config.yaml", tmp_path / "new" / "workdir"

    def run(text=None, *overrides):
        data.write_text(as_lines(make_rows()) if text is None else text, encoding="utf-8")
        if not config.exists():
            YAML().dump(settings(data), config)
        ended = r2d("run", "--config", config, "--workdir", workdir, *overrides)
        assert not [path for path in workdir.rglob("*") if path.is_file()]
        return ended

    return run


def holders(folder, text):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    }

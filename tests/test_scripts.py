"""The two commands of the README: help, choice of Python, repeatability; nothing is installed here."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ["launch/quickstart.sh", "tests/run.sh"]


def call(script, *arguments, cwd=ROOT, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VENV")}
    return subprocess.run(
        [script, *arguments], cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=60
    )


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script):
    result = call(ROOT / script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: {script}")
    assert "PYTHON=" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_old_python_is_refused(script, tmp_path):
    old = executable(tmp_path / "python", "echo 3.10")
    result = call(ROOT / script, PYTHON=str(old), VENV=str(tmp_path / "venv"))
    assert result.returncode == 2
    assert "Python 3.11 or newer is needed, found:" in result.stderr
    assert "3.10" in result.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_python_is_said(script, tmp_path):
    result = call(ROOT / script, PYTHON=str(tmp_path / "absent"), VENV=str(tmp_path / "venv"))
    assert result.returncode == 2
    assert "found: none" in result.stderr


def test_install_once_from_any_directory_and_a_path_with_spaces(tmp_path):
    copy = tmp_path / "a copy"
    shutil.copytree(ROOT / "launch", copy / "launch")
    for name in ("requirements.txt", "setup.cfg"):
        shutil.copy(ROOT / name, copy / name)
    log = tmp_path / "log"
    stub = f'echo "$(basename "$0") $*" >> "{log}"'
    executable(copy / "venv" / "bin" / "python", stub)
    executable(copy / "venv" / "bin" / "r2d", stub)
    for _ in range(2):
        result = call(
            copy / "launch" / "quickstart.sh", "seed=1", cwd=tmp_path, PYTHON=sys.executable, VENV="venv"
        )
        assert result.returncode == 0, result.stderr
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["python", "python", "r2d", "r2d"]
    assert "--requirement requirements.txt" in lines[0]
    assert lines[2] == "r2d run --config configs/quickstart.yaml --workdir runs/quickstart seed=1"

"""Ways to test a command that is not simply run; in: its words, out: nothing, or an error where it would not work."""

import argparse
import configparser
import contextlib
import pathlib
import re
import subprocess

import pytest
import typer
from docs_cases import ROOT, words

from r2d_jax import cli
from r2d_jax.config_check import check_config
from r2d_jax.config_file import load_config
from r2d_jax.data.check.source import file_and_settings
from r2d_jax.training.compare_config import load_comparison

# Words of the pages that stand for a file of the reader.
_PLACEHOLDERS = {"CONFIG"}


def parsed(line, folder):
    """The options of `r2d` are known, and its config and settings are right; nothing is done.

    Raises:
        click's UsageError or UserError: what is wrong.
    """
    if "..." in line:
        # "as above", for the options that say what is judged.
        line = [word for word in line if word != "..."]
        line += ["--predictions", "predictions.jsonl", "--output", "judged"]
    command, rest = typer.main.get_command(cli.app), line[1:]
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, f"r2d has no command {name}"
        command = command.commands[name]
    given = command.make_context(name, rest).params
    settings = list(given.get("overrides") or ())
    if line[1:3] == ["data", "check"]:
        _, settings = file_and_settings(given["words"] or ())
    path = given.get("config")
    if path is not None:
        path = None if str(path) in _PLACEHOLDERS else _found(path, folder)
    if line[1] == "compare":
        load_comparison(path, given["only"] or (), settings)
    elif line[1] in ("run", "train", "compile"):
        check_config(load_config(path, settings))
    elif path is not None or settings:
        # As these commands do: their rows are settled elsewhere.
        rows = f"data.path={given['path']}" if given.get("path") else "data.source=triage"
        load_config(path, [*settings, *([rows] if path is None else [])])


def _found(path, folder):
    places = [place / path for place in (folder, ROOT)]
    return next((place for place in places if place.is_file()), places[0])


def dry_run(command, environment, folder):
    """A launcher prints what it would do."""
    rows = folder / "rows.jsonl"
    rows.touch()
    command = command.replace("/path/to/rows.jsonl", str(rows))
    program = next(word for word in words(command) if word.startswith("launch/"))
    # An action comes first, then options.
    with_option = re.sub(rf"({re.escape(program)}(?: [a-z]+(?=\s|$))?)", r"\1 --dry-run", command)
    ended = _ended(["bash", "-c", with_option], environment)
    assert (ended.returncode, ended.stderr) == (0, ""), with_option + ended.stdout + ended.stderr
    assert ended.stdout.strip()


def told(line, environment):
    """A script explains itself and does nothing."""
    ended = _ended([line[0], "--help"], environment)
    assert ended.returncode == 0, ended.stderr
    assert "Usage" in ended.stdout


def _ended(line, environment):
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


class _ParsedError(Exception):
    """Raised in place of the work of a benchmark."""


def benchmark_parsed(line, monkeypatch):
    """A benchmark takes these arguments; it is left as soon as it has read them."""
    script = next(word for word in line if word.startswith("benchmarks/"))
    name = pathlib.Path(script).stem
    module = __import__(f"benchmarks.{name}", fromlist=["main"])
    plain = argparse.ArgumentParser.parse_args

    def and_leave(self, *arguments, **named):
        plain(self, *arguments, **named)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", and_leave)
    with pytest.raises(_ParsedError):
        module.main(line[line.index(script) + 1 :])


def known_packages(line):
    """What pip is to install is an extra of setup.cfg, or a package that the requirements name."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    requirements = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("requirements*.txt"))
    wanted = [word for word in line[line.index("install") + 1 :] if not word.startswith("-")]
    for option in ("--constraint", "--requirement"):
        if option in line:
            file = line[line.index(option) + 1]
            wanted.remove(file)
            # As a constraint, pip refuses extras.
            assert "[" not in (ROOT / file).read_text(encoding="utf-8"), file
    assert wanted
    for word in wanted:
        # Not r2d_jax[...]: no package index has it, and somebody else could take the name there.
        if match := re.fullmatch(r"\.\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= set(extras), word
            assert "--constraint" in line, "without it other versions than the tested ones are installed"
        else:
            assert re.search(rf"(?im)^{re.split('[=<>]', word)[0]}\b", requirements), word


@contextlib.contextmanager
def a_server():
    """A server with a model that needs no time, by its address without http://."""
    serve_cases = pytest.importorskip("serve_cases")
    with serve_cases.running(serve_cases.FakeModel()) as server:
        yield server.address.removeprefix("http://")

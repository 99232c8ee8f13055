"""Local models where no name can be resolved and no address reached; in: commands in one process, out: their codes."""

import json
import os
import subprocess
import sys

import quick_compiler
from cli_cases import ROOT, as_lines, compile_cache, make_rows, settings, without_progress
from ruamel.yaml import YAML

__all__ = ["compile_cache"]

# An exception would be caught by a client that then takes what it has stored.
COMMANDS = """
import json, os, socket, sys
def refuse(*told, **_):
    print("asked the network:", *told, file=sys.stderr, flush=True)
    os._exit(99)
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refuse
from r2d_jax import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["r2d", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{arguments[0]}: {ended.code}")
    print(f"<{arguments[0]} done>", flush=True)
"""


def test_no_command_on_a_local_folder_asks_the_network(tmp_path, compile_cache):
    """Training, also from a local model, prediction, evaluation, export and import."""
    (tmp_path / "rows.jsonl").write_text(as_lines(make_rows()), encoding="utf-8")
    config = settings(tmp_path / "rows.jsonl")
    YAML().dump(config, tmp_path / "config.yaml")
    first, again, export = "first", "again", "first/export"
    predict = ("--input", "rows.jsonl", "--output", "predictions.jsonl", "--overwrite")
    commands = [
        ("run", "--config", "config.yaml", "--workdir", first),
        *(("predict", "--model", model, *predict) for model in (first, export)),
        ("eval", "--model", first, "--output", "test-scores"),
        ("eval", "--model", export, "--input", "rows.jsonl", "--output", "scores"),
        ("export", "--model", first, "--output", "exported", "--dtype", "int8"),
        ("import", export, "--output", "imported"),
        ("run", "--config", "config.yaml", "--workdir", again, f"model.init={export}"),
    ]
    # As users have it: told to be offline, the hub's client would not even try.
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= quick_compiler.variables(1) | {
        "PYTHONPATH": str(ROOT),
        "R2D_COMPILE_CACHE": str(compile_cache),
        "HF_HOME": str(tmp_path / "no_cache"),
    }
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=500)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert done.stdout.count(" done>") == len(commands)

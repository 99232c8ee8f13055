"""Two real processes as one run: the same numbers as one, an agreed stop, and faults that end all of them."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import quick_compiler
from cli_cases import nearly
from safetensors.numpy import load_file, save_file
from test_run import SEVERAL_SHAPES, STAGE, write_config

from r2d_jax.config import Config
from r2d_jax.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from r2d_jax.runtime.distributed import Address, parse
from r2d_jax.runtime.locks import alone_in
from r2d_jax.training import workdir as workdir_module

ROOT = pathlib.Path(__file__).parents[1]
# The published rate: at higher ones Adam moves elements whose gradient is all rounding by more than the limit.
SMOOTH = STAGE | {"optimizer": {"learning_rate": 5e-5}}
LIMIT = 1e-5


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def begin(*arguments, devices, address=None, home=ROOT):
    environment = os.environ | quick_compiler.variables(devices) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SEVERAL_SHAPES, *map(str, arguments)]
    if address:
        command += ["--distributed", address]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=home
    )


def begin_pair(*arguments, workdirs, devices=2, homes=(ROOT, ROOT)):
    return begin_each([(*arguments, "--workdir", workdir) for workdir in workdirs], devices, homes)


def begin_each(commands, devices, homes):
    port = free_port()
    return [
        begin(*command, devices=devices, address=f"127.0.0.1:{port},2,{index}", home=home)
        for index, (command, home) in enumerate(zip(commands, homes, strict=True))
    ]


def ended(*processes, limit=400):
    try:
        return [(*process.communicate(timeout=limit), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """50 test rows in batches of 16: the last one has two; two shapes of training batches."""
    shape = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 1, "num_decoder_layers": 1}
    return write_config(
        tmp_path_factory.mktemp("data"),
        length_buckets=2,
        model={"shape": shape | {"dropout_rate": 0.1}},
        stage1=SMOOTH,
        stage2=SMOOTH,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, config):
    """One process, one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ((_, errors, code),) = ended(begin("run", "--config", config, "--workdir", workdir, devices=1))
    assert code == 0, errors
    return workdir


def assert_same_run(one, other):
    for stage in ("stage1", "stage2"):
        curves = [
            {
                row["step"]: row
                for row in map(json.loads, (run / stage / "metrics.jsonl").open())
                if "train/loss" in row
            }
            for run in (one, other)
        ]
        shared = curves[0].keys() & curves[1].keys()
        assert len(shared) >= 5
        for step in shared:
            first, second = (curve[step] for curve in curves)
            assert second["train/loss"] == pytest.approx(first["train/loss"], rel=LIMIT)
            assert second.get("train/sampled_fraction") == first.get("train/sampled_fraction")
    weights, others = (load_file(run / "export" / "model.safetensors") for run in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(
            others[name], value, rtol=LIMIT, atol=LIMIT * np.abs(value).max(), err_msg=name
        )
    metrics = [json.loads((run / "evaluation" / "metrics.json").read_text()) for run in (one, other)]
    for found in metrics:
        found.pop("model")
    # Figures of texts are the same; those of probabilities may differ in their last digits.
    assert metrics[0] == nearly(metrics[1], rel=LIMIT, abs=LIMIT)


def test_two_processes_of_two_devices_give_the_numbers_of_one_device(alone, config, tmp_path):
    workdir = tmp_path / "run"
    first, second = ended(*begin_pair("run", "--config", config, "mesh.fsdp=2", workdirs=[workdir, workdir]))
    assert (first[2], second[2]) == (0, 0), first[1] + second[1]
    assert_same_run(alone, workdir)
    # One writer and one voice.
    assert "macro-F1" in first[0]
    assert "macro-F1" not in second[0]
    assert not list(workdir.rglob("*.partial"))
    rows = [json.loads(line) for line in (workdir / "evaluation" / "predictions.jsonl").open()]
    assert [row["id"] for row in rows] == [f"test-{index}" for index in range(50)]


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one(alone, config, tmp_path):
    workdir = tmp_path / "run"
    arguments = (
        "run",
        "--config",
        config,
        "--workdir",
        workdir,
        "mesh.data=2",
        "mesh.fsdp=2",
        "mesh.tensor=2",
    )
    ((_, errors, code),) = ended(begin(*arguments, devices=8))
    assert code == 0, errors
    assert_same_run(alone, workdir)


def step_of_the_stop(pair, log):
    """The step at which both stop, when one is told to after the first line of metrics."""
    while not (log.exists() and log.read_text()):
        assert all(process.poll() is None for process in pair), ended(*pair)
        time.sleep(0.02)
    pair[1].send_signal(signal.SIGTERM)
    results = ended(*pair, limit=200)
    assert [code for *_, code in results] == [EXIT_PREEMPTED] * 2, results
    told = [errors.splitlines()[-1] for _, errors, _ in results]
    assert told[0] == told[1]
    assert told[0].startswith("stopped at step ")
    return int(told[0].split("step ")[1].split(";")[0])


@pytest.mark.slow
def test_sigterm_to_one_stops_both_at_one_step_and_one_process_goes_on(alone, config, tmp_path):
    """B065, B067, B072; restored onto another number of processes and devices."""
    workdir = tmp_path / "run"
    pair = begin_pair("run", "--config", config, workdirs=[workdir, workdir])
    step = step_of_the_stop(pair, workdir / "stage2" / "metrics.jsonl")
    assert (workdir / "stage2" / "latest" / str(step) / "_CHECKPOINT_METADATA").is_file()
    ((output, errors, code),) = ended(begin("run", "--config", config, "--workdir", workdir, devices=1))
    assert code == 0, errors
    assert f"going on from step {step}" in output
    assert_same_run(alone, workdir)


def test_processes_that_share_rows_agree_on_a_stop(config, tmp_path):
    """`mesh.tensor` over processes: each took its own answer for the one of all, and waited for the other for ever."""
    workdir = tmp_path / "run"
    arguments = ("run", "--config", config, "mesh.data=1", "mesh.tensor=2")
    pair = begin_pair(*arguments, workdirs=[workdir, workdir], devices=1)
    step = step_of_the_stop(pair, workdir / "stage1" / "metrics.jsonl")
    assert (workdir / "stage1" / "latest" / str(step) / "_CHECKPOINT_METADATA").is_file()


# Joins, and then does something else than to train.
BUSY = """
import sys, time
from r2d_jax.runtime.distributed import start
start(sys.argv[1])
print("joined", flush=True)
time.sleep(30)
"""


def test_sigterm_ends_a_process_that_has_joined_and_does_not_train():
    """JAX caught the signal for its preemption service, and the process went on."""
    command = [sys.executable, "-c", BUSY, f"127.0.0.1:{free_port()},1,0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout.readline() == "joined\n"
    process.send_signal(signal.SIGTERM)
    output, code = process.communicate(timeout=100)[0], process.returncode
    assert code == -signal.SIGTERM, output


def test_folders_that_are_not_shared_are_refused_by_all(config, tmp_path):
    """B074."""
    for _, errors, code in ended(
        *begin_pair("run", "--config", config, workdirs=[tmp_path / "a", tmp_path / "b"])
    ):
        assert code == EXIT_USER_ERROR, errors
        assert "is not one folder that all processes share" in errors
        assert "Traceback" not in errors


@pytest.fixture
def homes(tmp_path, alone, config):
    """Two machines: the same names of files, and so far the same files; no row, weight or setting is shared."""
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        shutil.copytree(alone / "export", folder / "init")
        shutil.copy(config, folder / "config.yaml")
        shutil.copy(config.parent / "rows.jsonl", folder / "rows.jsonl")
    return folders


def alter(home, what):
    if what == "settings":
        with (home / "config.yaml").open("a", encoding="utf-8") as file:
            file.write("seed: 5\n")
    elif what == "rows":
        text = (home / "rows.jsonl").read_text(encoding="utf-8")
        (home / "rows.jsonl").write_text(text.replace("has fever", "has no fever", 1), encoding="utf-8")
    else:
        weights = load_file(home / "init" / "model.safetensors")
        weights["shared.weight"][3, 2] += 1
        save_file(weights, home / "init" / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("what", ["settings", "rows", "weights"])
def test_processes_that_begin_with_different_things_are_refused_by_all(homes, tmp_path, what):
    """Each trained its part of something else, without a word."""
    alter(homes[1], what)
    workdir = tmp_path / "run"
    arguments = ("run", "--config", "config.yaml", "data.path=rows.jsonl", "model.init=init")
    for _, errors, code in ended(*begin_pair(*arguments, workdirs=[workdir] * 2, devices=1, homes=homes)):
        assert code == EXIT_USER_ERROR, errors
        assert f"--distributed: the {what} of process 1 are not those of process 0. " in errors
        assert "Traceback" not in errors
    # Nothing is left in the way of the command that is right.
    assert what == "weights" or not (workdir.exists() and list(workdir.iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("same", [True, False])
def test_an_evaluation_by_two_processes_is_of_the_same_rows(homes, alone, tmp_path, same):
    if not same:
        alter(homes[1], "rows")
    arguments = (
        "eval",
        "--model",
        alone,
        "--input",
        "rows.jsonl",
        "--output",
        tmp_path / "out",
        "--no-checks",
    )
    quick = ("evaluation.faithfulness_rows=0", "evaluation.resamples=0")
    for _, errors, code in ended(*begin_each([(*arguments, *quick)] * 2, 1, homes)):
        assert code == (0 if same else EXIT_USER_ERROR), errors
        assert ("the rows of process 1 are not those of process 0" in errors) == (not same)
    assert (tmp_path / "out" / "metrics.json").exists() == same


def test_what_another_machine_writes_is_seen_at_once(tmp_path, monkeypatch):
    """NFS went on for half a minute that run.json was not there, since it was asked for before; it lists again."""
    absent, is_file, listed = set(), pathlib.Path.is_file, os.listdir

    def remembered(path, **options):
        if not is_file(path, **options):
            absent.add(path)
        return path not in absent

    def list_anew(folder):
        absent.clear()
        return listed(folder)

    def barrier(name):
        if name == "run started":
            (tmp_path / "run.json").write_text('{"config_hash": "c", "data_hash": "d"}')
        elif name == "mark done":
            (tmp_path / "later").touch()

    monkeypatch.setattr(pathlib.Path, "is_file", remembered)
    monkeypatch.setattr(os, "listdir", list_anew)
    monkeypatch.setattr(workdir_module, "is_writer", lambda: False)
    monkeypatch.setattr(workdir_module, "wait_for_all", barrier)
    workdir = workdir_module.Workdir(tmp_path)
    workdir.start(Config(), "d")
    assert workdir.state["data_hash"] == "d"
    assert not (tmp_path / "later").is_file()
    workdir.mark("done", True)
    assert (tmp_path / "later").is_file()


def test_a_folder_in_which_a_command_runs_is_refused_by_all(config, tmp_path):
    with alone_in(tmp_path) as alone:
        assert alone
        pair = begin_pair("run", "--config", config, workdirs=[tmp_path, tmp_path])
        for _, errors, code in ended(*pair):
            assert code == EXIT_USER_ERROR, errors
            assert f"{tmp_path}: another command is running in it" in errors.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_process_whose_partner_does_not_come_says_so(config, tmp_path):
    """B068."""
    process = begin(
        *("run", "--config", config, "--workdir", tmp_path / "run", "--start-timeout", 3),
        devices=1,
        address=f"127.0.0.1:{free_port()},2,0",
    )
    ((_, errors, code),) = ended(process, limit=60)
    assert code == EXIT_USER_ERROR
    assert errors.splitlines()[-1].startswith("error: --distributed: not all 2 processes met at 127.0.0.1:")
    assert not (tmp_path / "run").exists()


def test_one_worker_of_a_slice_is_refused(config, tmp_path, monkeypatch):
    """B068: the TPU runtime would wait for the others without end."""
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-0,host-1")
    process = begin("run", "--config", config, "--workdir", tmp_path / "run", devices=1)
    ((_, errors, code),) = ended(process, limit=60)
    assert code == EXIT_USER_ERROR
    assert "one of 2 workers" in errors


def test_addresses():
    assert parse("off") is None
    assert parse("auto") is None
    assert parse("10.0.0.2:8476,4,3") == Address("10.0.0.2:8476", 4, 3)
    assert parse("[::1]:8476,1,0") == Address("[::1]:8476", 1, 0)


@pytest.mark.parametrize(
    "spec",
    ["", "on", "host,2,0", "host:1,2", "host:1,2,2", "host:1,0,0", "host:99999,2,0", "a b:1,2,0", "h:1,2,-1"],
)
def test_faulty_addresses(spec):
    with pytest.raises(UserError, match="--distributed"):
        parse(spec)

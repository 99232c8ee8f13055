"""The main job through its real entry point, on a shrunken config: what it leaves, resume, determinism, use."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import quick_compiler
from ruamel.yaml import YAML

from r2d_jax import cli
from r2d_jax.errors import EXIT_PREEMPTED, EXIT_USER_ERROR

STAGE = {
    "max_steps": 12,
    "batch_size": 8,
    "eval_every_steps": 4,
    "save_every_steps": 2,
    "log_every_steps": 2,
    "patience_evals": 50,
    "optimizer": {"learning_rate": 0.01},
}
# As `python -m r2d_jax`, but with as many batch shapes as a run of many steps has: runs of a few have one.
SEVERAL_SHAPES = """
from r2d_jax.data import buckets
from r2d_jax.cli import main
buckets._STEPS_OF_A_COMPILATION = 0
main()
"""
# Training, evaluation and export must work where torch and TensorFlow cannot be imported.
WITHOUT_TORCH = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "tensorflow", "transformers"):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        # What importlib.metadata asks finders for.
        return getattr(self.finder, name)

sys.meta_path = [Without(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
"""


def write_rows(path, count, seed, split):
    rng = np.random.default_rng(seed)
    words = ["fever", "cough", "pain", "rash", "fall", "burn", "cut", "bite"]
    with path.open("a", encoding="utf-8") as file:
        for index in range(count):
            chosen = rng.permutation(words)[:4].tolist()
            label = {"fever": "urgent", "fall": "very urgent"}.get(chosen[0], "non-urgent")
            row = {
                "id": f"{split}-{index}",
                "split": split,
                "question": f"Patient has {', '.join(chosen)} since {rng.integers(1, 9)} days, SpO2 < 9{index % 9} %",
                "label": label,
                "rationale": f"The {chosen[0]} decides.\nSo it is {label}.",
            }
            file.write(json.dumps(row) + "\n")


def write_config(folder, length_buckets=4, **changes):
    data = folder / "rows.jsonl"
    for split, count in (("train", 40), ("validation", 12), ("test", 50)):
        write_rows(data, count, len(split), split)
    config = {
        "data": {
            "path": str(data),
            "columns": {"id": "id", "split": "split"},
            "input_limit_tokens": 64,
            "rationale_limit_tokens": 24,
            "length_buckets": length_buckets,
        },
        "tokenizer": {"train_vocab_size": 200},
        "model": {
            "shape": {
                "d_model": 32,
                "d_ff": 48,
                "d_kv": 8,
                "num_heads": 4,
                "num_layers": 1,
                "num_decoder_layers": 1,
            }
        },
        "stage1": STAGE,
        "stage2": STAGE,
        "evaluation": {"batch_size": 16},
        **changes,
    }
    path = folder / "config.yaml"
    YAML().dump(config, path)
    return path


def r2d(*arguments, blocked=False, wait=True, quickly=True):
    """A process of one device; not `quickly`: compiled as users compile."""
    command = [sys.executable, "-c", WITHOUT_TORCH + SEVERAL_SHAPES if blocked else SEVERAL_SHAPES]
    compiler = quick_compiler.variables() if quickly else {"XLA_FLAGS": ""}
    environment = os.environ | compiler | {"COLUMNS": "100"}
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[1],
    )
    if not wait:
        return process
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    return output


def result_of(workdir):
    """Everything that two runs must have in common, bit for bit."""
    from safetensors.numpy import load_file

    weights = load_file(workdir / "export" / "model.safetensors")
    metrics = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    metrics.pop("model")
    return weights, metrics, (workdir / "evaluation" / "predictions.jsonl").read_bytes()


def assert_same_result(one, other):
    weights, metrics, predictions = result_of(one)
    other_weights, other_metrics, other_predictions = result_of(other)
    assert weights.keys() == other_weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, other_weights[name], err_msg=name)
    assert metrics == other_metrics
    assert predictions == other_predictions


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    """A finished run, made in a process that cannot import torch, TensorFlow or transformers."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    output = r2d("run", "--config", config, "--workdir", workdir, blocked=True)
    return workdir, output


def test_the_job_leaves_what_it_says(finished):
    workdir, output = finished
    for name in ("evaluation/predictions.jsonl", "evaluation/metrics.json", "export", "config.yaml"):
        assert (workdir / name).exists()
        assert str(workdir / name) in output
    rows = [json.loads(line) for line in (workdir / "evaluation/predictions.jsonl").open()]
    assert [row["id"] for row in rows] == [f"test-{index}" for index in range(50)]
    assert {"label", "label_valid", "label_confidence", "rationale", "gold_label"} <= rows[0].keys()
    metrics = json.loads((workdir / "evaluation/metrics.json").read_text())
    assert metrics["rows"] == 50
    for word in ("loss", "α", "π", "sampled", "examples/s", "left", "checksum", "macro-F1"):
        assert word in output, word


def test_the_run_is_calibrated_on_validation_rows(finished):
    workdir = finished[0]
    written = json.loads((workdir / "calibration.json").read_text())
    # What is passed on says nothing of single rows.
    digests = written["row_digests"]
    assert 0 < len(digests) <= 12
    exported = json.loads((workdir / "export" / "calibration.json").read_text())
    assert exported == written | {"row_digests": []}
    assert written["source"] == "validation"
    metrics = json.loads((workdir / "evaluation/metrics.json").read_text())
    assert metrics["calibration"]["temperature"] == written["temperature"]
    assert (written["rows"], written["threshold"]) == (12, None)
    assert (metrics["calibration"]["fitted_rows"], metrics["calibration"]["fitted_from"]) == (
        12,
        "validation",
    )
    assert metrics["calibration"]["overlap_rows"] is not None


def test_the_model_card_of_the_export_is_of_this_run(finished):
    """Written by a real run, read as the Hub does; made rows, so words of them may be looked for."""
    import huggingface_hub

    card = huggingface_hub.ModelCard.load(finished[0] / "export" / "README.md")
    metrics = json.loads((finished[0] / "evaluation/metrics.json").read_text())
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told["accuracy"] == pytest.approx(metrics["accuracy"], abs=1e-6)
    assert told["f1"] == pytest.approx(metrics["macro_f1"], abs=1e-6)
    low, high = metrics["intervals"]["accuracy"]
    assert f"| accuracy | {metrics['accuracy']:.3f} | {low:.3f} to {high:.3f} |" in card.text
    assert "| all | 40 | 12 | 50 |" in card.text
    assert "Stage 1: 12 of 12 steps" in card.text
    assert not {word for word in ("fever", "Patient", "decides", str(finished[0])) if word in card.content}


def test_metrics_are_logged_by_step(finished):
    rows = [json.loads(line) for line in (finished[0] / "stage2" / "metrics.jsonl").open()]
    trained = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in trained] == [2, 4, 6, 8, 10, 12]
    assert trained[-1]["train/label_weight"] == pytest.approx(0.7)
    assert trained[-1]["train/sampling_probability"] == pytest.approx(0.9)
    assert trained[-1]["train/sampled_fraction"] > 0
    assert [row["step"] for row in rows if "eval/macro_f1" in row] == [4, 8, 12]
    assert list((finished[0] / "stage2" / "tensorboard").iterdir())


def test_the_best_of_stage_2_is_from_after_the_transition(finished):
    assert json.loads((finished[0] / "run.json").read_text())["stage2_done"]["best_step"] >= 8


def test_the_same_seed_gives_the_same_bits(finished, config, tmp_path):
    """Stage by stage this time, which must come to the same."""
    workdir = tmp_path / "again"
    for number in ("1", "2"):
        r2d("train", "--stage", number, "--config", config, "--workdir", workdir)
    r2d("run", "--config", config, "--workdir", workdir)
    assert_same_result(finished[0], workdir)


def test_sigterm_saves_and_the_same_command_goes_on(finished, config, tmp_path):
    workdir = tmp_path / "stopped"
    arguments = ("run", "--config", config, "--workdir", workdir)
    process = r2d(*arguments, wait=False)
    log = workdir / "stage2" / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == EXIT_PREEMPTED, errors
    assert "Traceback" not in errors
    output = r2d(*arguments)
    assert "stage 1: done before" in output
    assert_same_result(finished[0], workdir)


def test_a_run_is_measured_anew_in_its_own_folder_by_its_test_rows_alone(
    finished, config, tmp_path, monkeypatch, capfd
):
    """As the notes of `r2d calibrate` and `r2d report` advise."""
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    (workdir / "evaluation" / "predictions.jsonl").write_text("{}")
    arguments = ("eval", "--model", workdir, "--output", workdir / "evaluation", "--overwrite")
    for others in (
        (*arguments, "--split", "validation"),
        (*arguments, "--input", config.parent / "rows.jsonl"),
        ("eval", "--model", workdir / "stage1", *arguments[3:]),
        ("eval", "--model", workdir / "export", "--input", config.parent / "rows.jsonl", *arguments[3:]),
    ):
        # Here, since a process of its own would take longer to start than to refuse.
        monkeypatch.setattr("sys.argv", ["r2d", *map(str, others)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == EXIT_USER_ERROR
        assert "belongs to the run" in capfd.readouterr().err
    r2d(*arguments)
    assert_same_result(finished[0], workdir)


@pytest.fixture(scope="module")
def imported(tmp_path_factory, finished):
    """The export of the finished run, imported."""
    folder = tmp_path_factory.mktemp("imports") / "imported"
    r2d("import", finished[0] / "export", "--output", folder)
    return folder


def test_predict_gives_the_same_from_run_export_and_import(finished, imported, tmp_path):
    workdir, _ = finished
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, 50, 4, "test")
    outputs = []
    for index, model in enumerate((workdir, workdir / "export", imported, workdir / "stage2" / "best")):
        output = tmp_path / f"{index}.jsonl"
        batch_size = 14 if index else 7
        r2d("predict", "--model", model, "--input", rows, "--output", output, "--batch-size", batch_size)
        outputs.append(output.read_text())
    rows_of = [[json.loads(line) for line in output.splitlines()] for output in outputs]
    figures = [
        [row.pop(name) for name in ("label_confidence", "label_probability") for row in rows]
        for rows in rows_of
    ]
    # Texts are the same at any batch size; a confidence may differ in its last digits.
    assert rows_of[1:] == rows_of[:1] * 3
    assert len(rows_of[0]) == 50
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], abs=2e-6)


def test_import_of_an_export_is_bitwise_equal(finished, imported, tmp_path):
    from safetensors.numpy import load_file

    r2d("export", "--model", imported, "--output", tmp_path / "again")
    first = load_file(finished[0] / "export" / "model.safetensors")
    second = load_file(tmp_path / "again" / "model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])

"""`r2d serve` with real weights: the answers of `r2d predict`, no compilation after the start, and a real stop."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="r2d_jax[serve] is not installed")

from cli_cases import SECRET
from serve_cases import LABELS, WORDS, make_model, notes, running

from r2d_jax.evaluation.apply import predict_file
from r2d_jax.evaluation.calibration import Calibration, labels_digest
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.serve.limits import Refused
from r2d_jax.serve.served_model import Group, ServedModel

# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    opened = ServedModel.open(folder, batch_size=4, widths=2)
    opened.warm()
    return opened


ROOT = pathlib.Path(__file__).parents[1]
TEXTS = [*notes(14, seed=3, most=20), " ".join(WORDS * 12), "\u0000", "fever < 38.5\n\u202epain\u202c"]


def test_answers_are_those_of_predict_and_nothing_is_compiled_for_them(model, folder, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": str(k), "question": text}) + "\n" for k, text in enumerate(TEXTS))
    )
    # Here all eight devices and one width for all rows; in the server one device, and each note by its width.
    predict_file(folder, rows, tmp_path / "out.jsonl", columns={"id": "id"}, batch_size=24)
    assert "warning: the vocabulary lacks 3 characters in 2 of 17 inputs" in capsys.readouterr().out
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    assert len({row["rationale"] for row in expected}) > 5
    with running(model) as server:
        with CompileCounter() as compiled:
            answers = server.together(*[lambda text=text: server.predict(text) for text in TEXTS])
            alone = [server.predict(text) for text in TEXTS[:3]]
            other = server.ask("POST", "/api/what-if", {"question": TEXTS[0], "label": LABELS[1]})
        assert compiled.programs == {}
        for answer, row in zip([*answers, *alone], [*expected, *expected[:3]], strict=True):
            assert answer.status == 200
            told = answer.json()
            assert told["label"] == row["label"]
            assert told["label_confidence"] == pytest.approx(row["label_confidence"], rel=1e-3)
            assert told["label_valid"] == row["label_valid"]
            assert told["explanation"]["rationale"] == row["rationale"]
            assert told["explanation"]["rationale_finished"] == row["rationale_finished"]
            assert [one["label"] for one in told["probabilities"]] in [list(LABELS), list(LABELS[::-1])]
            assert sum(one["probability"] for one in told["probabilities"]) == pytest.approx(1, abs=1e-5)
        cut = [answer.json()["input_cut"] for answer in answers]
        assert cut == [text == TEXTS[14] for text in TEXTS]
        lost = [answer.json()["lost_characters"] for answer in answers]
        assert lost == [0] * 15 + [1, 2]
        predictor = model.predictor
        features = predictor.features_of([TEXTS[0]], [LABELS[1]])
        (rationale,) = itertools.chain.from_iterable(predictor.explain(model.model.params, features, 1))
        assert other.json()["explanation"]["rationale"] == rationale
        # A file gives the same.
        begun = server.ask("POST", "/api/uploads?format=jsonl", rows.read_bytes())
        server.finished(begun.json()["id"])
        results = server.ask("GET", f"/api/uploads/{begun.json()['id']}/results").text
        for line, row in zip(results.splitlines(), expected, strict=True):
            told = json.loads(line)
            assert (told["id"], told["error"]) == (row["id"], "")
            assert (told["label"], told["rationale"]) == (row["label"], row["rationale"])


def test_notes_are_cut_grouped_and_labels_checked(model):
    limit = model.predictor.encoder.question_limit
    assert model.widths[-1] == limit
    long = model.prepare(" ".join(WORDS * 12))
    assert (len(long.question_ids), long.cut, long.group) == (limit, True, Group("full", limit))
    short = model.prepare("fever", explain=False)
    assert (short.cut, short.group) == (False, Group("label", model.widths[0]))
    given = model.prepare("fever", label=" not  urgent")
    assert given.group.task == "given"
    assert given.label_ids.tolist() == [*model.model.tokenizer.encode("not urgent"), 1]
    with pytest.raises(Refused, match="not in the label set"):
        model.prepare("fever", label="elsewhere")


@pytest.mark.parametrize(("labels", "prompt"), [((), "given_label"), (LABELS, "none")])
def test_models_without_labels_or_rationales(tmp_path, labels, prompt):
    opened = ServedModel.open(
        make_model(tmp_path / "m", labels=labels, rationale_prompt=prompt), batch_size=1, widths=1
    )
    assert (opened.scorer is None, opened.calibration) == (not labels, None)
    with running(opened) as server:
        told = server.predict("fever since two days").json()
        facts = server.ask("GET", "/api/model").json()
        what_if = server.ask("POST", "/api/what-if", {"question": "fever", "label": "rash"})
        assert (told["probabilities"] is None, told["label_valid"] is None) == (not labels, not labels)
        assert (told["explanation"] is None, facts["explains"]) == (prompt == "none", prompt != "none")
        assert what_if.status == (409 if prompt == "none" else 200)
        if not labels:
            long = server.ask("POST", "/api/what-if", {"question": "fever", "label": "rash " * 30})
            assert (long.status, "longer than" in long.text) == (422, True)


def test_the_calibration_of_the_folder_is_used(folder, model, tmp_path):
    """Probabilities at temperature 2, and a threshold for another decode, which is left out with a warning."""
    home = tmp_path / "calibrated"
    shutil.copytree(folder, home)
    digest = labels_digest(LABELS)
    (home / "calibration.json").write_text(Calibration(2.0, 0.5, 0.1, 9, digest).to_json())
    one = ServedModel.open(home, batch_size=1, widths=1)
    assert one.calibration.threshold == 0.5
    # The same weights, so what was compiled for the other can be used.
    one = dataclasses.replace(model, calibration=one.calibration)
    items = [model.prepare(text) for text in TEXTS[:3]]
    for item in items:
        ((_, hot),) = one.work(item.group, [item])
        ((_, plain),) = model.work(item.group, [item])
        # exp(x / 2) is the root of exp(x).
        assert hot == pytest.approx(np.sqrt(plain) / np.sqrt(plain).sum(), rel=1e-5)
    (home / "calibration.json").write_text(
        Calibration(2.0, 0.5, 0.1, 9, digest, None, "constrained").to_json()
    )
    with pytest.warns(UserWarning, match="never abstains"):
        one = ServedModel.open(home, batch_size=1, widths=1)
    assert (one.calibration.temperature, one.calibration.target_risk) == (2.0, None)


def test_a_stop_while_it_compiles_is_taken_at_once(folder, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "R2D_COMPILE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "r2d_jax", "serve", "--model", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--batch-size", "512"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
    )
    try:
        while "compiling its shapes" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(1.5)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    assert time.monotonic() - told < 10


def test_the_command_serves_stops_and_tells_nothing(folder, tmp_path):
    """A process of its own: SIGTERM while a note is in work; the note gets its answer, and the exit code is 0."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "R2D_COMPILE_CACHE": str(tmp_path / "cache"),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "R2D_SERVE_TOKEN": "a-token-of-some-length",
    }
    command = [sys.executable, "-m", "r2d_jax", "serve", "--model", str(folder), "--port", "0"]
    options = ["--widths", "1", "--batch-size", "2", "--wait-ms", "800"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready"):
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))[0]
        answers = []

        def ask():
            request = urllib.request.Request(
                f"{address}/api/predict",
                json.dumps({"question": SECRET}).encode(),
                {"content-type": "application/json", "authorization": "Bearer a-token-of-some-length"},
            )
            with urllib.request.urlopen(request, timeout=30) as got:
                answers.append(json.load(got))

        # It waits 0.8 s for a second note; the stop comes before that.
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        thread.join(30)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert len(answers) == 1
    said = "".join(lines) + out + err
    assert said.startswith("devices: cpu: ")
    assert "This is not a medical device" in said
    assert out.endswith("stopped\n")
    assert re.search(r"POST /api/predict 200 \d+ ms", err)
    for word in (*SECRET.split(), "a-token-of-some-length"):
        assert word not in said

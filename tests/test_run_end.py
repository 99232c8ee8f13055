"""The end of a run: a calibration that stands there, of these weights or of earlier ones."""

import dataclasses
import io
import json

import pytest
from rich.console import Console
from test_run import write_config

from r2d_jax.config import MeshConfig
from r2d_jax.config_file import load_config
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibration import Calibration, labels_digest
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training import run, stages
from r2d_jax.training.loop import Progress
from r2d_jax.training.prepare import prepare
from r2d_jax.training.workdir import Workdir


@pytest.fixture
def trained(tmp_path):
    """A run before its calibration."""
    workdir = Workdir(tmp_path / "run")
    prepared = prepare(load_config(write_config(tmp_path)), workdir, make_mesh(MeshConfig()))
    return prepared, workdir


@pytest.fixture
def fitted(trained, monkeypatch):
    """Calibrates the run with a stand-in for the fit; tells the aims it was asked for and what was printed."""
    prepared, workdir = trained
    stream, aims = io.StringIO(), []
    model = type("Model", (), {"source": "a model", "params": None})

    def calibrate(predictor, params, labels, gold, features, settings, check_stop):
        aims.append((settings.target_risk, settings.risk_confidence))
        return Calibration(2.0, None, settings.target_risk, 12, labels_digest(labels))

    monkeypatch.setattr(run, "calibrate", calibrate)

    def again():
        found = run._calibrated(prepared, workdir, model, Console(file=stream, width=1000), lambda: None)
        return found, aims, stream.getvalue()

    return again


def of_a_user(prepared, **changes):
    return dataclasses.replace(
        Calibration(1.5, 0.3, 0.4, 12, labels_digest(prepared.labels), risk_confidence=None), **changes
    )


def test_a_calibration_that_is_there_is_kept(trained, fitted):
    """Of `r2d train`, `r2d calibrate --target-risk`, `r2d run`; the threshold was gone without a word."""
    prepared, workdir = trained
    text = of_a_user(prepared).to_json()
    (workdir.path / "calibration.json").write_text(text)
    workdir.mark("stage2_done", {"best_step": 8, "best_score": 0.5})
    found, aims, told = fitted()
    assert (found, aims) == (of_a_user(prepared), [])
    assert (workdir.path / "calibration.json").read_text() == text
    assert "calibration: kept, as it is there" in told


def test_a_calibration_of_weights_before_the_end_of_stage_2_is_fitted_again_with_its_aim(
    trained, fitted, monkeypatch
):
    prepared, workdir = trained
    (workdir.path / "calibration.json").write_text(of_a_user(prepared).to_json())
    monkeypatch.setattr(stages, "train", lambda *_, state, **__: (state, Progress(best_step=8)))
    monkeypatch.setattr(stages, "_step_memory", lambda *_: None)
    monkeypatch.setattr(stages, "_require_best", lambda *_: None)
    monkeypatch.setattr(stages, "_starting_point", lambda *_: (type("State", (), {"step": 8}), None, ""))
    stages.run_stage(prepared, workdir, 2, Console(quiet=True), None)
    found, aims, told = fitted()
    assert (found.temperature, aims) == (2.0, [(0.4, None)])
    assert json.loads((workdir.path / "calibration.json").read_text())["target_risk"] == 0.4
    assert "was made before stage 2 ended" in told
    # Once made anew, it is kept.
    assert fitted()[1] == aims


def test_a_damaged_calibration_is_told_and_left_alone(trained, fitted):
    _, workdir = trained
    (workdir.path / "calibration.json").write_text("{}")
    workdir.mark("stage2_done", {"best_step": 8, "best_score": 0.5})
    with pytest.raises(UserError, match=r"calibration\.json: is damaged"):
        fitted()
    assert (workdir.path / "calibration.json").read_text() == "{}"

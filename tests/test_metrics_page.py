"""docs/metrics.md against what an evaluation writes: every field of metrics.json and of its lines is there."""

import pathlib
import re

import numpy as np

from r2d_jax.config import EvaluationConfig, TriageScoringConfig
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.calibration import Calibration, labels_digest
from r2d_jax.evaluation.evaluate import NOT_SCORED, prediction_row
from r2d_jax.evaluation.faithfulness import faithfulness
from r2d_jax.evaluation.figures import FIGURES
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.probability_scores import Probabilities
from r2d_jax.evaluation.rationale_checks import Flip
from r2d_jax.evaluation.scoring import Readings, score
from r2d_jax.runtime.outputs import EVALUATION_FILES

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
NAMED = {part for name in re.findall(r"`([\w.]+)`", PAGE) for part in name.split(".")}
LABELS = ("urgent", "routine")
# Their keys are labels, subgroups or figures.
BY_NAME = {"per_class", "by", "figures", "worst", "intervals"}
# Computed by the report alone.
ELSEWHERE = {"expected_calibration_error"}


def fields(value, parent=""):
    """Every field within a JSON value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if parent not in BY_NAME:
                yield name
            yield from fields(inner, name if parent not in BY_NAME else "")
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)


def everything():
    """metrics.json of four rows, with every section that needs no other package."""
    gold = ["urgent", "routine", "urgent", "routine"]
    predicted = ["urgent", "urgent", "nothing", "routine"]
    texts = [f"Pulse 12{number}, so it is {label}." for number, label in enumerate(gold)]
    examples = [
        Example(f"r{number}", f"Pulse 12{number}", label, {"nurse": text}, "", ("Pulse",), {"sex": "F"})
        for number, (label, text) in enumerate(zip(gold, texts, strict=True))
    ]
    predictions = [
        Prediction(label, True, 0.9, text, True) for label, text in zip(predicted, texts, strict=True)
    ]
    settings = EvaluationConfig(triage=TriageScoringConfig(LABELS, "most_urgent"), resamples=20)
    flips = [Flip(0, "routine", "It is routine.", "routine", True)]
    log_probs = np.log(np.array([[0.7, 0.2], [0.6, 0.3], [0.5, 0.4], [0.1, 0.8]], np.float32))
    calibration = Calibration(1.2, 0.1, 0.5, 4, labels_digest(LABELS), 0.95)
    found = Probabilities.of(LABELS, log_probs, calibration, predicted)
    readings = Readings(gold, gold, flips)
    scores = score(examples, predictions, LABELS, "nurse", settings, readings, probabilities=found.table)
    scores = found.scores(gold).added_to(scores, 20)
    reasons = faithfulness(examples, texts, predicted, "nurse", [], [], flips, LABELS)
    return reasons.added_to(scores, 20).metrics, found, predictions


def test_every_field_has_its_place_in_the_page():
    metrics, found, predictions = everything()
    assert {"triage", "subgroups", "calibration", "abstention", "faithfulness"} <= metrics.keys()
    names = set(fields(metrics)) | {"model", "label_decode"}
    names |= {part for figure in FIGURES for part in figure.name.split(".")}
    lines = prediction_row("r0", predictions[0], LABELS) | NOT_SCORED
    names |= lines.keys() | found.lines(every_label=True)[0].keys()
    assert sorted(names - NAMED - ELSEWHERE) == []


def test_every_file_of_an_evaluation_has_its_place_in_the_page():
    for name in EVALUATION_FILES:
        assert f"| `{name}` |" in PAGE

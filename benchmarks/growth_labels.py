"""What depends on the number of labels; in: a point, out: seconds and bytes of features, scores, files and tables."""

import functools
import io
import pathlib
import random
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from benchmarks.growth_meter import Meter
from r2d_jax.config import DataConfig
from r2d_jax.data.features import FeatureEncoder
from r2d_jax.data.mentions import label_agreement
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.splits import label_set
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.evaluate import prediction_row
from r2d_jax.evaluation.html_report import write_report
from r2d_jax.evaluation.intervals import bootstrap_interval, macro_f1_of, text_ids
from r2d_jax.evaluation.metrics import label_metrics
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.report import print_results
from r2d_jax.evaluation.scoring import score
from r2d_jax.runtime.files import write_json, write_jsonl
from r2d_jax.runtime.run_files import EVALUATION_METRICS, PREDICTIONS

MAX_LABELS = 1024
_SYLLABLES = [first + rest for first in "bdfgklmn" for rest in ("ab", "el", "in", "ot")]
_WORDS = [
    "patient",
    "with",
    "pain",
    "in",
    "the",
    "chest",
    "since",
    "two",
    "days",
    "no",
    "fever",
    "known",
    "asthma",
    "takes",
    "aspirin",
    "feels",
    "better",
]
_SOURCE = "made"
# As a model of middling quality: the rest goes to any label.
_RIGHT_FRACTION = 0.7
_VOCABULARY = 400


def made_labels(count: int) -> list[str]:
    """At most MAX_LABELS labels, all of as many characters and, with `made_tokenizer`, as many tokens."""
    size = len(_SYLLABLES)
    return [f"{_SYLLABLES[number % size]} {_SYLLABLES[number // size]}" for number in range(count)]


def made_tokenizer() -> Tokenizer:
    """A vocabulary that holds each word of the labels as one piece, however many labels there are."""
    texts = [PREDICT, EXPLAIN, GIVEN_LABEL, " ".join(_WORDS), *made_labels(MAX_LABELS)]
    tokenizer = Tokenizer.train(texts, _VOCABULARY)
    if lengths := {len(tokenizer.encode(label)) for label in made_labels(MAX_LABELS)} - {2}:
        raise AssertionError(f"labels of {lengths} tokens")
    return tokenizer


def made_results(labels: list[str], rows: int) -> tuple[list[Example], list[Prediction]]:
    """Rows that have each label as often as the others, and predictions of them."""
    draw = random.Random(0)
    examples, predictions = [], []
    for row in range(rows):
        label = labels[row % len(labels)]
        text = " ".join(draw.choices(_WORDS, k=20))
        predicted = label if draw.random() < _RIGHT_FRACTION else draw.choice(labels)
        examples.append(Example(f"row {row}", text, label, {_SOURCE: f"{text} so {label}"}))
        predictions.append(Prediction(predicted, True, 0.5, f"{text} so {predicted}", True))
    return examples, predictions


def labels_point(point: dict[str, Any], meter: Meter) -> Iterator[dict[str, Any]]:
    """Measure each part at one number of labels.

    Args:
        point: x (labels) and rows.
        meter: of this process.

    Yields:
        part, secs and bytes of its repeats.
    """
    labels = made_labels(point["x"])
    examples, predictions = made_results(labels, point["rows"])
    with tempfile.TemporaryDirectory() as folder:
        for name, call in _parts(labels, examples, predictions, pathlib.Path(folder)).items():
            yield {"part": name, **meter.repeats(call)}


def _parts(
    labels: list[str], examples: list[Example], predictions: list[Prediction], folder: pathlib.Path
) -> dict[str, Callable[[], Any]]:
    gold = [example.label for example in examples]
    predicted = [prediction.label for prediction in predictions]
    rationales = [prediction.rationale for prediction in predictions]
    splits = Splits(tuple(examples), (), ())
    tokenizer = made_tokenizer()
    # The least that makes a folder one of a run.
    evaluation = folder / "evaluation"
    evaluation.mkdir()
    (folder / "run.json").write_text("{}", encoding="utf-8")
    metrics = score(examples, predictions, labels, _SOURCE).metrics

    def features() -> None:
        encoder = FeatureEncoder(DataConfig(), tokenizer, label_set(splits))
        rows = encoder.encode(examples, _SOURCE)
        encoder.features(rows, encoder.shapes(rows))

    def intervals() -> None:
        ids = text_ids(gold, predicted)
        for published in (False, True):
            bootstrap_interval(macro_f1_of(*ids, published=published), len(gold))

    def predictions_file() -> None:
        write_jsonl(
            evaluation / PREDICTIONS,
            (
                prediction_row(example.row_id, prediction, labels) | {"gold_label": example.label}
                for example, prediction in zip(examples, predictions, strict=True)
            ),
        )

    # The report reads the two files before it.
    return {
        "features": features,
        "label_metrics": functools.partial(label_metrics, gold, predicted, labels),
        "intervals": intervals,
        "label_naming": functools.partial(label_agreement, rationales, predicted, labels),
        "all_scores": functools.partial(score, examples, predictions, labels, _SOURCE),
        "predictions_file": predictions_file,
        "metrics_file": functools.partial(write_json, evaluation / EVALUATION_METRICS, metrics),
        "console": lambda: print_results(metrics, Console(file=io.StringIO(), width=100)),
        "report": lambda: write_report([folder], folder / "report.html", overwrite=True),
    }

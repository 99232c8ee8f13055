"""Test-set evaluation; in: a loaded model and labelled rows, out: predictions.jsonl first, then metrics.json."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r2d_jax.data.features import Features, question_text
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.metrics import (
    bleu,
    evidence_fraction,
    label_agreement,
    label_metrics,
    normalise_label,
)
from r2d_jax.evaluation.model_folder import LoadedModel
from r2d_jax.evaluation.predict import Prediction, Predictor
from r2d_jax.evaluation.report import WorkedCase, write_json, write_predictions


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Metrics by name, and the predictions they were computed from."""

    metrics: dict[str, Any]
    predictions: tuple[Prediction, ...]


def label_scores(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """The label metrics that validation follows, named `eval/...`."""
    metrics = label_metrics(gold, predicted, labels)
    return {f"eval/{name}": float(metrics[name]) for name in ("macro_f1", "accuracy", "invalid_fraction")}


def prediction_row(row_id: str, prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """One line of predictions.jsonl; label_valid is null where the model has no label set."""
    valid = (
        normalise_label(prediction.label) in {normalise_label(label) for label in labels} if labels else None
    )
    return {
        "id": row_id,
        "label": prediction.label,
        "label_valid": valid,
        "label_confidence": round(prediction.label_confidence, 6),
        "label_finished": prediction.label_finished,
        "rationale": prediction.rationale,
        "rationale_finished": prediction.rationale_finished,
    }


def evaluate_rows(
    model: LoadedModel,
    predictor: Predictor,
    examples: Sequence[Example],
    features: Features,
    rationale_source: str,
    *,
    batch_size: int,
    folder: pathlib.Path,
    check_stop: Callable[[], None] = lambda: None,
) -> EvaluationResult:
    """Predict labels and rationales of all rows and score them.

    Args:
        model: the weights and their label set.
        predictor: compiled for the shapes of `features`.
        examples: N rows with gold labels and rationales.
        features: the same N rows.
        rationale_source: which gold rationale to compare with.
        batch_size: rows decoded at once; figures do not depend on it.
        folder: where predictions.jsonl and metrics.json go; predictions are written before scoring, so a
            metric that fails loses nothing.
        check_stop: called between batches; may raise to stop.
    """
    predictions: list[Prediction] = []
    for batch in predictor.predict(model.params, features, batch_size):
        check_stop()
        predictions += batch
    labels = model.card.labels
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(
        folder / "predictions.jsonl",
        (
            prediction_row(example.row_id, prediction, labels) | {"gold_label": example.label}
            for example, prediction in zip(examples, predictions, strict=True)
        ),
    )
    metrics = score(examples, predictions, labels, rationale_source) | {"model": model.source}
    write_json(folder / "metrics.json", metrics)
    return EvaluationResult(metrics, tuple(predictions))


def score(
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    rationale_source: str,
) -> dict[str, Any]:
    """All test metrics of predictions against the gold rows."""
    predicted = [prediction.label for prediction in predictions]
    rationales = [prediction.rationale for prediction in predictions]
    metrics: dict[str, Any] = dict(label_metrics([example.label for example in examples], predicted, labels))
    metrics["rows"] = len(examples)
    metrics["bleu"] = bleu(rationales, [example.rationales[rationale_source] for example in examples])
    metrics["evidence_fraction"] = evidence_fraction(rationales, [example.evidence for example in examples])
    metrics["label_agreement"] = label_agreement(rationales, predicted, labels)
    metrics["label_limit_fraction"] = _share(not prediction.label_finished for prediction in predictions)
    metrics["rationale_limit_fraction"] = _share(
        not prediction.rationale_finished for prediction in predictions
    )
    return metrics


def _share(flags: Any) -> float:
    values = list(flags)
    return sum(values) / max(len(values), 1)


def worked_cases(
    examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], rationale_source: str, count: int
) -> list[WorkedCase]:
    """The first `count` test rows with their text, for a user who asked to see them."""
    return [
        WorkedCase(
            text=question_text(example),
            gold_label=example.label,
            predicted_label=row["label"],
            rationale=row["rationale"],
            gold_rationale=example.rationales[rationale_source],
        )
        for example, row in zip(examples[:count], rows, strict=False)
    ]

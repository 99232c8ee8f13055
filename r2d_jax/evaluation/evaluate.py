"""Test-set evaluation; in: a loaded model and labelled rows, out: predictions.jsonl first, then metrics.json."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.config import EvaluationConfig
from r2d_jax.data.features import Features, question_text
from r2d_jax.data.schema import Example, any_rationale
from r2d_jax.evaluation.calibrate import left_out
from r2d_jax.evaluation.calibration import Calibration
from r2d_jax.evaluation.faithfulness import check_faithfulness
from r2d_jax.evaluation.fitted_rows import overlap
from r2d_jax.evaluation.label_scoring import LabelScorer, scores_of
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.model_folder import LoadedModel
from r2d_jax.evaluation.ordinal import scale_of
from r2d_jax.evaluation.predict import Prediction, Predictor, all_of
from r2d_jax.evaluation.probability_scores import Probabilities
from r2d_jax.evaluation.rationale_checks import RationaleChecks
from r2d_jax.evaluation.report import WorkedCase
from r2d_jax.evaluation.resampling import CLUSTER
from r2d_jax.evaluation.scoring import Readings, Scores, score, with_gold_rationale
from r2d_jax.evaluation.triage_scoring import least_cost_labels
from r2d_jax.runtime.distributed import is_writer, wait_for_all
from r2d_jax.runtime.files import write_json, write_jsonl
from r2d_jax.runtime.row_progress import row_progress
from r2d_jax.runtime.run_files import (
    EVALUATION_FILES,
    EVALUATION_METRICS,
    FAITHFULNESS,
    PREDICTIONS,
    RATIONALE_CHECKS,
    ROW_SCORES,
)


def prediction_row(row_id: str, prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """One line of predictions.jsonl; label_valid is null where the model has no label set."""
    valid = normalise_label(prediction.label) in _compared(tuple(labels)) if labels else None
    return {
        "id": row_id,
        "label": prediction.label,
        "label_valid": valid,
        "label_confidence": round(prediction.label_confidence, 6),
        "label_finished": prediction.label_finished,
        "rationale": prediction.rationale,
        "rationale_finished": prediction.rationale_finished,
    }


NOT_SCORED: dict[str, Any] = {"label_probability": None, "abstained": None}
"""What predictions.jsonl has of a row whose labels were not scored."""


@functools.lru_cache(maxsize=8)
def _compared(labels: tuple[str, ...]) -> frozenset[str]:
    """A label set as predictions are compared with it: once, and not for every row."""
    return frozenset(map(normalise_label, labels))


def begin_results(folder: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write predictions.jsonl, and take away whatever an earlier evaluation left beside it.

    Args:
        folder: of the results; made where it is not there.
        lines: of N rows, as of `prediction_row`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First: without it a stopped evaluation is known for one, and no figures stand beside other predictions.
    (folder / EVALUATION_METRICS).unlink(missing_ok=True)
    write_jsonl(folder / PREDICTIONS, lines)
    for name in EVALUATION_FILES:
        if name != PREDICTIONS:
            (folder / name).unlink(missing_ok=True)


@row_progress("predicting")
def evaluate_rows(
    model: LoadedModel,
    predictor: Predictor,
    examples: Sequence[Example],
    features: Features,
    rationale_source: str | None,
    *,
    settings: EvaluationConfig,
    folder: pathlib.Path,
    calibration: Calibration | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Predict labels and rationales of all rows and score them; returns the metrics.

    Predictions are written before anything is scored, so a metric that fails loses none of them. Beside them
    come metrics.json, row_scores.jsonl (what each row adds to each figure, without text) and, of a model that
    explains, faithfulness.jsonl (what each rationale cites and what is unsupported, without text) and, where
    rationales are read back, rationale_checks.jsonl.

    Args:
        model: the weights and their label set.
        predictor: of the same model.
        examples: N rows with gold labels.
        features: the same N rows.
        rationale_source: which gold rationale to compare with, where a row has it; None: no row has one.
        settings: batch size (figures do not depend on it), checks, intervals and BERTScore.
        folder: where the files go.
        calibration: of the model's probabilities; None: it has none.
        check_stop: called between batches, before the scoring and after it; may raise to stop.

    Raises:
        UserError: settings.target_risk is set and the labels cannot be scored.
    """
    labels, batch_size = model.card.labels, settings.batch_size
    unscored = left_out(settings, labels)
    score_labels = LabelScorer(predictor, labels).score_labels if unscored is None else None
    lists = predictor.predict(model.params, features, batch_size, score=score_labels)
    predictions = all_of(lists, check_stop)
    lines = [
        prediction_row(example.row_id, prediction, labels) | NOT_SCORED | {"gold_label": example.label}
        for example, prediction in zip(examples, predictions, strict=True)
    ]
    if is_writer():
        begin_results(folder, lines)
    probabilities, table = None, None
    if unscored is None:
        predicted = [prediction.label for prediction in predictions]
        log_probs = scores_of(predictions, len(labels))
        probabilities = Probabilities.of(labels, log_probs, calibration, predicted)
        table = probabilities.table
        if is_writer():
            lines = _with_probabilities(lines, probabilities, table, labels, settings)
            write_jsonl(folder / PREDICTIONS, lines)
    elif settings.probabilities and labels and is_writer():
        print(f"note: probabilities of labels are left out: {unscored}")
    compares = predictor.explains and rationale_source and any_rationale(examples, rationale_source)
    source = rationale_source if compares else None
    readings = None
    if source is not None and settings.rationale_checks:
        checks = RationaleChecks(model, predictor, batch_size, check_stop)
        readings = _read_back(checks, examples, predictions, labels, source, settings)
    # BERTScore and intervals may take minutes, in which nothing is looked at.
    check_stop()
    scores = score(examples, predictions, labels, source, settings, readings, probabilities=table)
    check_stop()
    if probabilities is not None:
        found = probabilities.scores([example.label for example in examples])
        found.sections["calibration"] |= overlap(calibration, examples)
        scores = found.added_to(scores, settings.resamples)
    reasons = None
    if predictor.explains:
        reasons = check_faithfulness(
            model,
            predictor,
            examples,
            predictions,
            source,
            settings,
            flips=() if readings is None else readings.flips,
            score_labels=score_labels,
            check_stop=check_stop,
        )
        scores = reasons.added_to(scores, settings.resamples)
    metrics = scores.metrics | {
        "model": model.source,
        "label_decode": "free" if predictor.programs.label_trie is None else "constrained",
    }
    if is_writer():
        if source is not None and readings is not None:
            _write_readings(folder / RATIONALE_CHECKS, examples, readings, source)
        if reasons is not None:
            write_jsonl(folder / FAITHFULNESS, reasons.lines)
        write_jsonl(folder / ROW_SCORES, row_score_lines(examples, scores))
        write_json(folder / EVALUATION_METRICS, metrics)
    # The others would end, and wait for this one a short time only.
    wait_for_all("evaluation written")
    return metrics


def _with_probabilities(
    lines: Sequence[Mapping[str, Any]],
    probabilities: Probabilities,
    table: np.ndarray,
    labels: Sequence[str],
    settings: EvaluationConfig,
) -> list[dict[str, Any]]:
    """Lines of predictions.jsonl with what the probabilities say: where mistakes have costs, the cheapest label too."""
    added = probabilities.lines()
    if settings.triage is not None:
        chosen = least_cost_labels(scale_of(settings.triage, labels), labels, table)
        added = [one | {"least_cost_label": label} for one, label in zip(added, chosen, strict=True)]
    return [{**line, **one} for line, one in zip(lines, added, strict=True)]


def row_score_lines(examples: Sequence[Example], scores: Scores) -> Iterator[dict[str, Any]]:
    """Lines of row_scores.jsonl, which tests of one method against another read: N examples, their scores.

    Where rows of one group are among them, each has the number of its group, which tells of no patient.
    """
    for row, example in enumerate(examples):
        line: dict[str, Any] = {"id": example.row_id}
        if scores.clusters is not None:
            line[CLUSTER] = int(scores.clusters[row])
        yield line | {name: _number(values[row]) for name, values in scores.rows.items()}


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def _read_back(
    checks: RationaleChecks,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    source: str,
    settings: EvaluationConfig,
) -> Readings:
    rationales = [prediction.rationale for prediction in predictions]
    own, cut = checks.labels_of(rationales)
    gold, cut_gold = checks.labels_of([example.rationales[source] for example in examples])
    return Readings(
        own,
        gold,
        checks.flips(
            examples,
            [prediction.label for prediction in predictions],
            rationales,
            labels,
            rows=settings.flip_rows,
            labels_per_row=settings.flip_labels,
        ),
        cut,
        cut_gold,
    )


def _write_readings(path: pathlib.Path, examples: Sequence[Example], readings: Readings, source: str) -> None:
    compared = with_gold_rationale(examples, source)
    flips: dict[int, list[dict[str, str]]] = {}
    for flip in readings.flips:
        told = {"given_label": flip.given, "rationale": flip.rationale, "label_from_rationale": flip.label}
        flips.setdefault(flip.row, []).append(told)
    write_jsonl(
        path,
        (
            {
                "id": example.row_id,
                "label_from_rationale": readings.from_rationale[row],
                "label_from_gold_rationale": readings.from_gold[row] if compared[row] else None,
                "other_labels": flips.get(row, []),
            }
            for row, example in enumerate(examples)
        ),
    )


def worked_cases(
    examples: Sequence[Example], rows: Sequence[Mapping[str, Any]], rationale_source: str | None, count: int
) -> list[WorkedCase]:
    """The first `count` test rows with their text, for a user who asked to see them."""
    return [
        WorkedCase(
            text=question_text(example),
            gold_label=example.label,
            predicted_label=row["label"],
            rationale=row["rationale"],
            gold_rationale=example.rationales[rationale_source] if rationale_source else "",
        )
        for example, row in zip(examples[:count], rows, strict=False)
    ]

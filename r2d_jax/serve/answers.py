"""Answers put into words; in: a note and what the model said of it, out: JSON with spans, abstention and faults."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import r2d_jax
from r2d_jax.data.features import question_text
from r2d_jax.data.mentions import is_blank, rationale_names_label
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.evaluate import prediction_row
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.support import cited_spans, unsupported_statements
from r2d_jax.serve.limits import Limits
from r2d_jax.serve.schema import (
    Answer,
    Explanation,
    LabelProbability,
    ModelFacts,
    ModelLimits,
    Span,
    UnsupportedStatement,
    WhatIfAnswer,
)
from r2d_jax.serve.served_model import Outcome, ServedModel, ServedNote


def note_text(question: str, context: str) -> str:
    """The text that the model reads and that spans count in."""
    return question_text(Example("", question, "", {}, context))


def explanation(
    text: str, label: str, labels: Sequence[str], rationale: str, finished: bool | None
) -> Explanation:
    """A rationale with the parts of the note that it cites, and its statements that the note does not hold.

    The words of the label that it explains are no findings.
    """
    return Explanation(
        rationale=rationale,
        rationale_finished=finished,
        names="none" if is_blank(label) else rationale_names_label(rationale, label, labels),
        cited=[Span(start=start, end=end) for start, end in cited_spans(rationale, text, [label])],
        unsupported=[
            UnsupportedStatement(
                start=one.span[0],
                end=one.span[1],
                kind=one.kind,
                text=one.text,
                contradicted=one.contradicted,
            )
            for one in unsupported_statements(rationale, text, [label])
        ],
    )


def _ranked(served: ServedModel, probabilities: np.ndarray) -> list[LabelProbability]:
    order = np.argsort(-probabilities, kind="stable")
    labels = served.card.labels
    return [LabelProbability(label=labels[k], probability=float(probabilities[k])) for k in order]


def answer_of(served: ServedModel, text: str, item: ServedNote, outcome: Outcome) -> Answer:
    """The answer to one note.

    A label outside the label set has no probability, which is below every threshold.
    """
    prediction, probabilities = outcome
    labels = served.card.labels
    row = prediction_row("", prediction, labels)
    ranked = None if probabilities is None else _ranked(served, probabilities)
    wanted = normalise_label(prediction.label)
    probability = next(
        (one.probability for one in ranked or () if normalise_label(one.label) == wanted), None
    )
    calibration = served.calibration
    return Answer(
        label=prediction.label,
        label_valid=row["label_valid"],
        label_finished=prediction.label_finished,
        label_confidence=row["label_confidence"],
        probability=probability,
        probabilities=ranked,
        calibrated=calibration is not None,
        abstained=None if calibration is None else calibration.abstains(probability),
        threshold=None if calibration is None else calibration.threshold,
        explanation=explanation(
            text, prediction.label, labels, prediction.rationale, prediction.rationale_finished
        )
        if item.group.task == "full"
        else None,
        input_tokens=item.tokens,
        input_cut=item.cut,
        lost_characters=item.lost,
    )


def what_if_of(
    served: ServedModel, text: str, label: str, item: ServedNote, outcome: Outcome
) -> WhatIfAnswer:
    """The answer to a note under a given label."""
    known = served.known_label(label)
    return WhatIfAnswer(
        label=known,
        explanation=explanation(text, known, served.card.labels, outcome.prediction.rationale, None),
        input_cut=item.cut,
        lost_characters=item.lost,
    )


def facts_of(served: ServedModel, limits: Limits) -> ModelFacts:
    """What is served, for /api/model."""
    card, calibration = served.card, served.calibration
    return ModelFacts(
        name=pathlib.PurePath(served.name).name,
        version=r2d_jax.__version__,
        labels=list(card.labels),
        explains=served.predictor.explains,
        follows_labels=served.follows_labels,
        calibrated=calibration is not None,
        threshold=None if calibration is None else calibration.threshold,
        target_risk=None if calibration is None else calibration.target_risk,
        columns={"question": card.columns.question, "context": card.columns.context, "id": card.columns.id},
        limits=ModelLimits(
            note_characters=limits.note_characters,
            upload_bytes=limits.upload_bytes,
            upload_rows=limits.upload_rows,
            input_tokens=served.widths[-1],
        ),
    )


def result_row(row_id: str, answer: Answer) -> dict[str, Any]:
    """One line of an upload's results: as `r2d predict` has it, and what is known of the label besides."""
    told = answer.explanation
    return {
        "id": row_id,
        "label": answer.label,
        "label_valid": answer.label_valid,
        "label_confidence": answer.label_confidence,
        "label_finished": answer.label_finished,
        "label_probability": None if answer.probability is None else round(answer.probability, 6),
        "abstained": answer.abstained,
        "rationale": "" if told is None else told.rationale,
        "rationale_finished": True if told is None else told.rationale_finished,
        "rationale_names": "none" if told is None else told.names,
        "unsupported": [] if told is None else [one.text for one in told.unsupported],
        "input_cut": answer.input_cut,
        "lost_characters": answer.lost_characters,
        "error": "",
    }


def failed_row(row_id: str, error: str, *, marked: bool) -> dict[str, Any]:
    """The line of a row without an answer.

    Args:
        row_id: of the row.
        error: why there is none.
        marked: whether rows are marked as abstained at all; one without an answer must not pass for an answered one.
    """
    return {
        "id": row_id,
        "label": "",
        "label_valid": False,
        "label_confidence": None,
        "label_finished": False,
        "label_probability": None,
        "abstained": True if marked else None,
        "rationale": "",
        "rationale_finished": False,
        "rationale_names": "none",
        "unsupported": [],
        "input_cut": False,
        "lost_characters": 0,
        "error": error,
    }

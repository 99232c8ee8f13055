"""What a report tells of labels; in: a RunRecord, out: scores by label, confusion matrix and calibration."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from r2d_jax.evaluation.case_table import is_right, label_names, short
from r2d_jax.evaluation.figures import class_scores, class_texts
from r2d_jax.evaluation.metrics import outside_name
from r2d_jax.evaluation.run_record import RunRecord, is_number

_MAX_IN_MATRIX, _SHARES_UP_TO, _SORTED_FROM = 20, 8, 31
# Shades of the matrix, beside that of 0; the page's styles have as many.
_LEVELS = 7
_NO_LABEL = "(no label)"


class LabelNames:
    """Names of labels to show; a gold label outside the set has a number only, since it may be case text.

    Earlier versions wrote its text into metrics.json.
    """

    def __init__(self, run: RunRecord):
        outside = map(str, run.metrics.get("labels_outside_set", ()))
        self._outside = {label: outside_name(number) for number, label in enumerate(outside, 1)}

    def __call__(self, label: str) -> str:
        """The name to show."""
        return self._outside.get(label) or short(label)


class Bin(NamedTuple):
    """Predictions whose confidence lies in one range.

    Attributes:
        low: end of the range; only the lowest bin holds it.
        high: other end, in the bin.
        rows: predictions in it; 0 leaves the other two NaN.
        confidence: their mean confidence.
        accuracy: share of them that is right.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


def calibration(
    confidence: Sequence[float], right: Sequence[bool], bins: int = 10
) -> tuple[list[Bin], float]:
    """Bins of equal width and the expected calibration error.

    Args:
        confidence: float [N], 0 to 1.
        right: bool [N].
        bins: how many.

    Returns:
        The bins, and the mean over all N rows of |accuracy - mean confidence| of their bins (NaN without rows).
    """
    scores, hits = np.asarray(confidence, float), np.asarray(right, bool)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)
    made, error = [], 0.0
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        mean, share = (
            (float(scores[inside].mean()), float(hits[inside].mean())) if count else (math.nan, math.nan)
        )
        made.append(Bin(float(edges[number]), float(edges[number + 1]), count, mean, share))
        error += count * abs(mean - share) if count else 0.0
    return made, error / len(scores) if len(scores) else math.nan


def confidences(run: RunRecord) -> tuple[list[float], list[bool]]:
    """Confidence of each prediction that states one, and whether its label is right."""
    labels = frozenset(label_names(run))
    scored = [
        (row["label_confidence"], is_right(row, labels))
        for row in run.predictions
        if is_number(row.get("label_confidence")) and "gold_label" in row
    ]
    return [confidence for confidence, _ in scored], [right for _, right in scored]


def class_rows(run: RunRecord) -> dict[str, Any]:
    """Rows of the table by label: gold and predicted rows, their shares of the most common one, and scores."""
    per_class, named = run.metrics["per_class"], LabelNames(run)
    total = sum(row["support"] for row in per_class.values())
    invalid = total - sum(row["predicted"] for row in per_class.values())
    most = max(1, invalid, *(max(row["support"], row["predicted"]) for row in per_class.values()))
    labels = list(per_class)
    note = "Grey and blue bars: rows with this gold label, and rows with this prediction, on one scale."
    if len(labels) >= _SORTED_FROM:
        labels.sort(key=lambda label: -per_class[label]["support"])
        note += f" All {len(labels)} labels, the most common first."
    rows = [
        {
            "label": named(label),
            "support": per_class[label]["support"],
            "predicted": per_class[label]["predicted"],
            "gold_share": per_class[label]["support"] / most,
            "predicted_share": per_class[label]["predicted"] / most,
            "scores": list(
                zip(class_scores(per_class[label]).values(), class_texts(per_class[label]), strict=True)
            ),
        }
        for label in labels
    ]
    if invalid:
        rows.append(
            {
                "label": _NO_LABEL,
                "support": None,
                "predicted": invalid,
                "predicted_share": invalid / most,
                "scores": [],
            }
        )
    return {"classes": rows, "classes_note": note}


def matrix(run: RunRecord) -> dict[str, Any]:
    """The confusion matrix: rows gold, columns predicted, the last one for outputs that are no label.

    With many labels, those with the most gold rows stand alone and the others together.
    """
    labels, cells = run.metrics["confusion"]["labels"], run.metrics["confusion"]["cells"]
    place = {label: number for number, label in enumerate([*labels, None])}
    gold, predicted = (np.array([place[cell[name]] for cell in cells], int) for name in ("gold", "predicted"))
    sizes = np.array([cell["count"] for cell in cells], int)
    names = list(map(LabelNames(run), labels))
    note = "Colour: share of the gold row, so each row adds up to 1; outlined: right."
    if len(labels) > _MAX_IN_MATRIX:
        support = np.zeros(len(labels), int)
        np.add.at(support, gold, sizes)
        order = np.argsort(-support, kind="stable")
        # Right answers among the rest stand apart from mix-ups between them only in the table by label.
        column = np.full(len(labels) + 1, _MAX_IN_MATRIX)
        column[order[:_MAX_IN_MATRIX]] = np.arange(_MAX_IN_MATRIX)
        column[-1] = _MAX_IN_MATRIX + 1
        gold, predicted = column[gold], column[predicted]
        names = [names[number] for number in order[:_MAX_IN_MATRIX]]
        names.append(f"({len(labels) - _MAX_IN_MATRIX} other labels)")
        note += f" The {_MAX_IN_MATRIX} of {len(labels)} labels with the most gold rows; the others together."
    counts = np.zeros((len(names), len(names) + 1), int)
    np.add.at(counts, (gold, predicted), sizes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    single = len(labels) if len(labels) <= _MAX_IN_MATRIX else _MAX_IN_MATRIX
    rows = [
        {
            "label": names[row],
            "cells": [
                {
                    "count": int(counts[row, column]),
                    "share": f"{100 * shares[row, column]:.0f} %" if len(names) <= _SHARES_UP_TO else "",
                    "level": int(np.ceil(_LEVELS * shares[row, column])),
                    "diagonal": row == column < single,
                }
                for column in range(counts.shape[1])
            ],
        }
        for row in range(counts.shape[0])
    ]
    return {"columns": [*names, _NO_LABEL], "rows": rows, "note": note}

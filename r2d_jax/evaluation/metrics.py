"""Scores of labels and rationales; in: gold and predicted text, out: dicts of figures for metrics.json."""

import collections
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from r2d_jax.data.mentions import check_same_rows, fold_white_space
from r2d_jax.errors import UserError

COLLAPSED_FRACTION = 0.95
"""A label with this share of the predictions is reported as covering nearly all of them..."""
BALANCED_GOLD_FRACTION = 0.9
"""...unless the most common gold label itself has at least this share."""


def normalise_label(text: str) -> str:
    """The form in which labels are compared: ends stripped, inner white space folded; case is kept."""
    return fold_white_space(text)


def counted_labels(predicted: Sequence[str], invalid: np.ndarray) -> list[str]:
    """Predictions as they are compared with gold labels: "", which no gold label is, for those outside the label set.

    Args:
        predicted: N predicted labels.
        invalid: [N], not 0 where a prediction is none of the set. A gold label outside the set can only be missed.
    """
    return ["" if out else normalise_label(label) for label, out in zip(predicted, invalid, strict=True)]


def outside_name(number: int) -> str:
    """What stands for a gold label outside the label set: of a wrong label column its text would be case text."""
    return f"(outside the set, {number})"


def label_metrics(gold: Sequence[str], predicted: Sequence[str], label_set: Sequence[str]) -> dict[str, Any]:
    """Scores of predicted labels.

    A prediction that is not in the label set after `normalise_label` is invalid: wrong for its row's gold
    label, and never a class of its own. A gold label outside the set keeps its support, can only be
    missed, and is told by an `outside_name`, numbered in the order of the texts.

    Args:
        gold: N gold labels.
        predicted: N generated labels as written.
        label_set: all labels the model may give; empty: the labels that occur in gold.

    Returns:
        accuracy: share of rows whose valid prediction equals gold.
        macro_f1: mean F1 over the labels that occur in gold (a label without gold rows has no recall, so
            rows of other labels would decide its 0); macro_f1_labels names them.
        macro_f1_published: every distinct string in gold or predictions is a class (scikit-learn's default
            and the definition of published figures).
        invalid_fraction, empty_fraction: shares of predictions; empty ones are invalid too.
        per_class: label to precision, recall, f1, support (gold rows) and predicted (predictions of it).
        confusion: labels; cells: gold, predicted (None: invalid) and count of each pair that occurs, in the
            order of labels, invalid last.
        majority_class: label, accuracy and macro_f1 of always giving these rows' most common gold label.
        collapsed: the label with at least 95 % of predictions while no gold label has 90 %, or None.
        labels_outside_set: names of the gold labels that are not in the set.

    Raises:
        UserError: row counts differ, no rows, or an empty gold label.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    rows = check_same_rows(gold_labels=gold, predicted_labels=predicted)
    gold = [normalise_label(label) for label in gold]
    predicted = [normalise_label(label) for label in predicted]
    if "" in gold:
        raise UserError(
            f"row {gold.index('') + 1}", "has an empty gold label", "Give every row to score a label."
        )
    allowed = list(dict.fromkeys(label for label in map(normalise_label, label_set) if label)) or sorted(
        set(gold)
    )
    valid = set(allowed)
    outside = sorted(set(gold) - valid)
    index = {label: number for number, label in enumerate(allowed + outside)}
    # From here on by name; a label of the set may be spelled like one.
    free = (name for number in itertools.count(1) if (name := outside_name(number)) not in valid)
    outside = list(itertools.islice(free, len(outside)))
    labels = allowed + outside
    invalid = len(labels)
    gold_ids = np.array([index[label] for label in gold])
    predicted_ids = np.array([index[label] if label in valid else invalid for label in predicted])

    precision, recall, f1, support = precision_recall_fscore_support(
        gold_ids, predicted_ids, labels=range(invalid), zero_division=0
    )
    predicted_counts = np.bincount(predicted_ids, minlength=invalid + 1)
    majority = int(np.argmax(support))
    return {
        "accuracy": float(np.mean(gold_ids == predicted_ids)),
        "macro_f1": float(f1[support > 0].mean()),
        "macro_f1_labels": [label for label, count in zip(labels, support, strict=True) if count],
        "macro_f1_published": float(f1_score(gold, predicted, average="macro", zero_division=0)),
        "invalid_fraction": float(predicted_counts[invalid]) / rows,
        "empty_fraction": predicted.count("") / rows,
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
                "predicted": int(predicted_counts[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": {"labels": labels, "cells": _cells(labels, gold_ids, predicted_ids)},
        "majority_class": {"label": labels[majority], **_majority_scores(gold)},
        "collapsed": _collapsed_label(labels, predicted_counts[:invalid] / rows, support / rows),
        "labels_outside_set": outside,
    }


def _cells(labels: Sequence[str], gold_ids: np.ndarray, predicted_ids: np.ndarray) -> list[dict[str, Any]]:
    # Not a matrix: with many labels nearly all of its cells would be 0.
    pairs = collections.Counter(zip(gold_ids.tolist(), predicted_ids.tolist(), strict=True))
    names = [*labels, None]
    return [
        {"gold": names[gold], "predicted": names[predicted], "count": count}
        for (gold, predicted), count in sorted(pairs.items())
    ]


def _majority_scores(gold: Sequence[str]) -> dict[str, float]:
    counts = collections.Counter(gold)
    share = max(counts.values()) / len(gold)
    return {"accuracy": share, "macro_f1": 2 * share / (1 + share) / len(counts)}


def _collapsed_label(
    labels: Sequence[str], predicted_shares: np.ndarray, gold_shares: np.ndarray
) -> str | None:
    top = int(np.argmax(predicted_shares))
    collapsed = predicted_shares[top] >= COLLAPSED_FRACTION and gold_shares.max() < BALANCED_GOLD_FRACTION
    return labels[top] if collapsed else None

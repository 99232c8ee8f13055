"""Rows that are in two splits; in: digests of inputs and labels by split, out: which rows, and it in words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# The split whose rows may be dropped stands first.
PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))


class Overlap(NamedTuple):
    """Rows of `split` whose question and context also appear in `kept`, compared character by character.

    Attributes:
        split: its name.
        kept: the other split.
        rows: bool [N], which rows of `split`.
        other_label: how many of them have a label that no such row of `kept` has.
    """

    split: str
    kept: str
    rows: np.ndarray
    other_label: int


def drop_duplicates(
    rows: Mapping[str, np.ndarray], inputs: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows by split without those of train that are in validation or test, and those of validation in test.

    Test rows always stay, and so do rows that appear twice within one split.

    Args:
        rows: int64 [n], row numbers by split.
        inputs: int64 [N], of all rows: one number for each question and context.
        labels: int64 [N], one number for each label.

    Returns:
        (rows by split, one line of report for each pair of splits that shares rows).
    """
    overlaps = [_overlap(rows, inputs, labels, split, kept) for split, kept in PAIRS]
    left = dict(rows)
    for name in rows:
        dropped = [one.rows for one in overlaps if one.split == name]
        if dropped:
            left[name] = rows[name][~np.logical_or.reduce(dropped)]
    return left, [f"dropped {_told(one)}" for one in overlaps if one.rows.any()]


def _overlap(
    rows: Mapping[str, np.ndarray], inputs: np.ndarray, labels: np.ndarray, split: str, kept: str
) -> Overlap:
    mine, theirs = rows[split], rows[kept]
    found = np.isin(inputs[mine], inputs[theirs])
    pairs = inputs * (labels.max(initial=0) + 1) + labels
    other = found & ~np.isin(pairs[mine], pairs[theirs])
    return Overlap(split, kept, found, int(other.sum()))


def _told(one: Overlap) -> str:
    rows = int(one.rows.sum())
    labels = f"{rows - one.other_label} with the same label, {one.other_label} with another"
    return f"{rows} rows of {one.split} have the same question and context as a row of {one.kept} ({labels})"

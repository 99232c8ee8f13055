"""Rows that stand in two splits; in: rows by split, out: what is told about them, and rows without them."""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from r2d_jax.data.schema import Example

# The split whose rows may be dropped stands first.
PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))


class Overlap(NamedTuple):
    """Rows of `split` whose question and context also stand in `kept`, compared character by character.

    Attributes:
        split: its name.
        kept: the other split.
        rows: indices of the rows in `split`.
        other_label: how many of them have a label that no such row of `kept` has.
    """

    split: str
    kept: str
    rows: tuple[int, ...]
    other_label: int


def overlap(rows: Mapping[str, Sequence[Example]], split: str, kept: str) -> Overlap:
    """The rows of one split that stand in another one too."""
    labels: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for example in rows[kept]:
        labels[example.question, example.context].add(example.label)
    found, other = [], 0
    for index, example in enumerate(rows[split]):
        there = labels.get((example.question, example.context))
        if there is not None:
            found.append(index)
            other += example.label not in there
    return Overlap(split, kept, tuple(found), other)


def drop_duplicates(rows: Mapping[str, Sequence[Example]]) -> tuple[dict[str, list[Example]], list[str]]:
    """Rows by split without those of train that stand in validation or test, and those of validation in test.

    Test rows always stay, and so do rows that stand twice within one split.

    Returns:
        (rows by split, one line of report for each pair of splits that shares rows).
    """
    overlaps = [overlap(rows, split, kept) for split, kept in PAIRS]
    dropped: dict[str, set[int]] = collections.defaultdict(set)
    for one in overlaps:
        dropped[one.split].update(one.rows)
    left = {
        name: [example for index, example in enumerate(examples) if index not in dropped[name]]
        for name, examples in rows.items()
    }
    return left, [f"dropped {told(one)}" for one in overlaps if one.rows]


def told(one: Overlap) -> str:
    """One overlap in words, with how many labels agree."""
    rows = len(one.rows)
    labels = f"{rows - one.other_label} with the same label, {one.other_label} with another"
    return f"{rows} rows of {one.split} have the same question and context as a row of {one.kept} ({labels})"


def leaks(rows: Mapping[str, Sequence[Example]]) -> list[str]:
    """In words, the rows to be scored or selected by that stand in another split too."""
    overlaps = (overlap(rows, split, kept) for kept, split in PAIRS)
    return [told(one) for one in overlaps if one.rows]

"""Splits drawn by seed; in: label and key of each row, and the shares, out: the split of each row."""

import hashlib
from collections.abc import Sequence

import numpy as np

from r2d_jax.data.packed_columns import BYTES, numbered

# Needs that are equal up to floating-point error are ties.
_DIGITS = 9


def key_digest(seed: int, key: str) -> bytes:
    """The start of a hash of seed and key, by which keys are put in order: 16 bytes."""
    return hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:BYTES]


def draw_by_digest(labels: np.ndarray, keys: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The split of each row, stratified by label, in some 60 bytes a row; rows of one key are never parted.

    Keys go in the order of their digests, those of more rows first. Each goes to the split that is then furthest
    below its share of the key's labels, in squares and relative to each label's rows; ties go to the split
    furthest below its share of all rows. Where every key has one row, each label's count in a split is less than
    1 away from its share. The order of the rows does not matter.

    Scikit-learn's StratifiedGroupKFold gives equal folds, not shares, and depends on the order of the rows.

    Args:
        labels: int32 [N], each label as a number.
        keys: uint64 [N, 2], from `key_digest` of group or row id.
        shares: share of each split, sum 1; a split of share 0 gets nothing.

    Returns:
        int8 [N], the index of each row's split among the shares.
    """
    totals = np.bincount(labels).tolist()
    splits = [number for number, share in enumerate(shares) if share > 0]
    need = [[share * total for total in totals] for share in shares]
    need_of_all = [share * len(labels) for share in shares]
    chosen = np.empty(len(labels), np.int8)
    by_key, starts = _groups(keys)
    sorted_labels = labels[by_key].tolist()
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        counts: dict[int, int] = {}
        for label in sorted_labels[start:end]:
            counts[label] = counts.get(label, 0) + 1
        costs = {
            split: (
                # How much the squared distance from the shares grows with these rows.
                sum(
                    c * (c - 2 * round(need[split][label], _DIGITS)) / totals[label] ** 2
                    for label, c in counts.items()
                ),
                -round(need_of_all[split], _DIGITS),
            )
            for split in splits
        }
        best = min(splits, key=costs.__getitem__)
        chosen[by_key[start:end]] = best
        need_of_all[best] -= end - start
        for label, count in counts.items():
            need[best][label] -= count
    return chosen


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 [N] key by key, keys of more rows first, then by digest; and where each key begins, [K + 1]."""
    numbers = numbered(keys)
    sizes = np.bincount(numbers)
    # Numbers go up with the digests. Stable, so that rows of a key stay in order.
    by_key = np.lexsort((numbers, -sizes[numbers]))
    new = np.flatnonzero(np.diff(numbers[by_key], prepend=-1))
    return by_key, np.append(new, len(by_key))

"""Splits drawn by seed; in: label and key of each row and the shares, out: the split of each row."""

import collections
import hashlib
from collections.abc import Mapping, Sequence

# Needs that are equal but for the error of floating point are ties.
_DIGITS = 9


def draw_splits(
    labels: Sequence[str], keys: Sequence[str], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each row, stratified by label; rows of one key are never parted.

    Keys go in an order that is a hash of seed and key, those of more rows first. Each goes to the split that
    is then furthest below its share of the key's labels, in squares and relative to each label's rows; ties
    go to the split furthest below its share of all rows. Where every key has one row, each label's count in
    a split is less than 1 away from its share. The order of the rows does not matter.

    Scikit-learn's StratifiedGroupKFold gives equal folds, not shares, and depends on the order of the rows.

    Args:
        labels: of N rows.
        keys: of N rows: group or row id.
        shares: share of each split, sum 1; a split of share 0 gets nothing.
        seed: of the order.
    """
    rows_of_key: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for label, key in zip(labels, keys, strict=True):
        rows_of_key[key][label] += 1
    totals = collections.Counter(labels)
    splits = {name: share for name, share in shares.items() if share > 0}
    need = {name: {label: share * total for label, total in totals.items()} for name, share in splits.items()}
    need_of_all = {name: share * len(labels) for name, share in splits.items()}

    def rank(key: str) -> tuple[int, bytes]:
        return -rows_of_key[key].total(), hashlib.sha256(f"{seed}\n{key}".encode()).digest()

    chosen: dict[str, str] = {}
    for key in sorted(rows_of_key, key=rank):
        counts = rows_of_key[key]
        size = counts.total()
        costs = {}
        for name in splits:
            # How much the squared distance from the shares grows with these rows.
            growth = sum(
                c * (c - 2 * round(need[name][label], _DIGITS)) / totals[label] ** 2
                for label, c in counts.items()
            )
            costs[name] = growth, -round(need_of_all[name], _DIGITS)
        best = min(splits, key=costs.__getitem__)
        chosen[key] = best
        need_of_all[best] -= size
        for label, count in counts.items():
            need[best][label] -= count
    return [chosen[key] for key in keys]

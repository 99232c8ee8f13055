"""Which rows a sample holds; in: the group of each row, out: clusters of rows, and samples drawn cluster by cluster.

Rows of one group, such as the notes of one patient, are alike: drawn one by one they would pass for more cases than
they are, and intervals would be too narrow.
"""

from collections.abc import Iterator, Sequence

import numpy as np

CLUSTER = "group"
"""Of a line of row_scores.jsonl: the cluster of its row."""


def clusters_of(groups: Sequence[str]) -> np.ndarray | None:
    """The cluster of each row, int64 [N], counted from 0 in the order of the rows; None where each has its own.

    Args:
        groups: N names; "" is none, so that the row is a cluster of its own.
    """
    numbers: dict[object, int] = {}
    keys = (group or row for row, group in enumerate(groups))
    found = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    return found if len(numbers) < len(found) else None


def clusters_among(clusters: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """As `clusters_of`, of some rows alone: clusters int64 [N] of all, numbers of the rows [M]."""
    if clusters is None:
        return None
    names, found = np.unique(clusters[rows], return_inverse=True)
    return found.astype(np.int64) if len(names) < len(rows) else None


def cluster_samples(clusters: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Samples of whole clusters, drawn with replacement (Davison & Hinkley, 1997, 3.8).

    Args:
        clusters: of `clusters_of`, int64 [N].
        resamples: how many samples.
        seed: of the draws.

    Yields:
        Numbers of rows, int64, about N of them: all rows of as many clusters as there are.
    """
    rng = np.random.default_rng(seed)
    order, sizes = np.argsort(clusters, kind="stable"), np.bincount(clusters)
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        drawn = rng.integers(0, len(sizes), len(sizes))
        taken = sizes[drawn]
        ends = np.cumsum(taken)
        yield order[np.repeat(starts[drawn] - (ends - taken), taken) + np.arange(ends[-1])]

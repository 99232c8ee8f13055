"""Batches in order; in: Features and a seed, out: endless shuffled train batches or padded evaluation batches."""

import math
from collections.abc import Iterator

import grain
import numpy as np

from r2d_jax.data.features import Features

Batch = dict[str, np.ndarray]


class _Rows:
    """Random access to one row of Features, for grain."""

    def __init__(self, features: Features):
        self._arrays = features.arrays()
        self._length = len(features)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        return {name: array[index] for name, array in self._arrays.items()}


def train_batches(features: Features, batch_size: int, *, seed: int, start_step: int = 0) -> Iterator[Batch]:
    """Endless batches; batch k is a function of (features, batch_size, seed, k) alone.

    Each pass over the rows has its own order, and a batch may span two passes, so no row is left
    out. The position is a count of batches, so a run goes on exactly where it stopped, on any
    number of hosts.

    Args:
        features: the train split, N rows.
        batch_size: B, rows of the global batch.
        seed: of the order.
        start_step: batches already consumed.

    Yields:
        Arrays of `Features` with first axis B, and row_weight float32 [B], all ones.
    """
    data = grain.MapDataset.source(_Rows(features)).seed(seed).shuffle().repeat(None).batch(batch_size)
    # Rows are already in memory: a thread pool would cost more than it saves.
    iterator = iter(data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
    iterator.set_state({"next_index": start_step})
    for batch in iterator:
        yield batch | {"row_weight": np.ones((batch_size,), np.float32)}


def evaluation_batches(features: Features, batch_size: int) -> Iterator[Batch]:
    """All rows once, in order; the last batch is filled up with copies of row 0 of row_weight 0.

    Yields:
        Arrays of `Features` with first axis B, and row_weight float32 [B], 1 = real.
    """
    arrays = features.arrays()
    for index in range(math.ceil(len(features) / batch_size)):
        rows = np.arange(index * batch_size, (index + 1) * batch_size)
        real = rows < len(features)
        picked = np.where(real, rows, 0)
        yield {name: array[picked] for name, array in arrays.items()} | {
            "row_weight": real.astype(np.float32)
        }

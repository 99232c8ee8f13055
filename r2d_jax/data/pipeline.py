"""Batches in order; in: Features and a seed, out: endless shuffled train batches, or every row once to evaluate."""

import bisect
import contextlib
import math
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from r2d_jax.data.buckets import Bucket, bucket_of_rows, choose_buckets
from r2d_jax.data.features import Features

Batch = dict[str, np.ndarray]

# Batches whose rows are sorted by bucket together: long enough that few mix buckets, short enough that
# the order stays random over the run.
_WINDOW = 32


class _Order:
    """Rows of each batch: a function of (N, batch size, seed, bucket of each row, batch number) alone."""

    def __init__(self, bucket_of_row: np.ndarray, batch_size: int, seed: int):
        self._bucket_of_row = bucket_of_row
        self._batch_size = batch_size
        self._seed = seed
        # Each pass over the rows has its own order.
        self._stream = grain.MapDataset.range(len(bucket_of_row)).seed(seed).shuffle().repeat(None)

    def window(self, number: int) -> np.ndarray:
        """Rows int64 [_WINDOW, batch_size] of a window of batches."""
        size = _WINDOW * self._batch_size
        rows = np.array([self._stream[i] for i in range(number * size, (number + 1) * size)], np.int64)
        kind = self._bucket_of_row[rows]
        if (kind == kind[0]).all():
            return rows.reshape(_WINDOW, -1)
        batches = rows[np.argsort(kind, kind="stable")].reshape(_WINDOW, -1)
        return np.random.default_rng([self._seed, number]).permutation(batches)


def train_batches(
    features: Features, batch_size: int, *, seed: int, start_step: int = 0, buckets: Sequence[Bucket] = ()
) -> Iterator[Batch]:
    """Endless batches; batch k is a function of (features, batch_size, seed, buckets, k) alone.

    Each pass over the rows has its own order, and a batch may span two passes, so no row is left
    out. With several buckets, rows of like size travel together: the rows of some dozens of batches are
    sorted by bucket, cut into batches, and these put in random order. The position is a count of
    batches, so a run goes on exactly where it stopped, on any number of hosts.

    Args:
        features: the train split, N rows.
        batch_size: B, rows of the global batch.
        seed: of the order.
        start_step: batches already consumed.
        buckets: from `choose_buckets`; a batch is trimmed to the first that holds its rows. Without any the
            rows stay in the order of the shuffle, and no batch is trimmed.

    Yields:
        Arrays of `Features` with first axis B, and row_weight float32 [B], all ones.
    """
    lengths = features.question_length, features.rationale_length
    kind = bucket_of_rows(buckets, *lengths) if buckets else np.zeros(len(features), np.int32)
    order = _Order(kind, batch_size, seed)
    step, rows = start_step, order.window(start_step // _WINDOW)
    while True:
        picked = rows[step % _WINDOW]
        # Buckets are not nested: rows of two may need a third, that holds both.
        batch = features.batch(picked, _widths(buckets, *(length[picked] for length in lengths)))
        yield batch | {"row_weight": np.ones((batch_size,), np.float32)}
        step += 1
        if step % _WINDOW == 0:
            rows = order.window(step // _WINDOW)


def _widths(buckets: Sequence[Bucket], question: np.ndarray, rationale: np.ndarray) -> dict[str, int]:
    fitting = (bucket.widths for bucket in buckets if bucket.holds(question, rationale).all())
    return next(fitting, {})


# Batches of an evaluation from which a second, third ... width is worth its compilation: the first ones save the most.
_WORTH_A_WIDTH = (4, 8, 12, 32, 48, 64, 80)


def evaluation_buckets(
    features: Features, batch_size: int, *, prompt_tokens: int, rationales: bool
) -> tuple[Bucket, ...]:
    """Shapes for `evaluation_batches`; one where there are fewer than 4 batches or rows are alike, at most 8.

    Args:
        features: N rows.
        batch_size: B.
        prompt_tokens: tokens that the longest prompt adds to the question.
        rationales: whether the rationales of the rows are computed with. If not, only the width of the
            questions differs between the shapes.
    """
    question, rationale = (array.shape[1] for array in (features.question_ids, features.rationale_ids))
    return choose_buckets(
        features.question_length,
        features.rationale_length if rationales else np.full(len(features), rationale),
        full=Bucket(question, rationale),
        count=1 + bisect.bisect(_WORTH_A_WIDTH, math.ceil(len(features) / batch_size)),
        prompt_tokens=prompt_tokens,
    )


def evaluation_batches(
    features: Features, batch_size: int, buckets: Sequence[Bucket] = ()
) -> Iterator[tuple[np.ndarray, Batch]]:
    """All rows once; which rows are in which batch is a function of (features, batch_size, buckets) alone.

    With several buckets the rows of some dozens of batches are sorted by size, the longest first; after these
    batches every earlier row has been seen. Otherwise rows stay in order. The last batch is filled up.

    Args:
        features: N rows.
        batch_size: B.
        buckets: from `evaluation_buckets`; a batch is trimmed to the first that holds its rows. Without any, no
            batch is trimmed.

    Yields:
        numbers of the rows int64 [n], n <= B; arrays of `Features` with first axis B, of which the first n are
        these rows and any others copies of the first, and row_weight float32 [B], 1 = real.
    """
    question, rationale = features.question_length, features.rationale_length
    size = _WINDOW * batch_size
    for start in range(0, len(features), size):
        window = np.arange(start, min(start + size, len(features)))
        if len(buckets) > 1:
            kind = bucket_of_rows(buckets, question[window], rationale[window])
            # Longest first: the batch that is filled up is one of short rows.
            window = window[np.lexsort((-question[window], -kind))]
        for first in range(0, len(window), batch_size):
            rows = window[first : first + batch_size]
            picked = np.pad(rows, (0, batch_size - len(rows)), constant_values=rows[0])
            batch = features.batch(picked, _widths(buckets, question[rows], rationale[rows]))
            yield rows, batch | {"row_weight": (np.arange(batch_size) < len(rows)).astype(np.float32)}


# Batches made ahead of the step that is computed; more would hide nothing and take memory.
_PREFETCH = 2


class _Steps(grain.DatasetIterator[Batch]):
    """Batches as an iterator of grain; its state, which grain asks for, is a count."""

    def __init__(self, batches: Iterator[Batch]):
        super().__init__()
        self._batches, self._step = batches, 0

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        return {"step": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        raise NotImplementedError("batches are resumed by their start_step")


@contextlib.contextmanager
def prefetched(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """The same batches, made by a thread of their own while a step is computed.

    It ends with the block, also after an exception; one that making a batch raises is raised by `next`. A
    thread and no process: nothing is forked beside the threads of JAX and of the tokenizer, and numpy lets go
    of the lock where it takes long.
    """
    # Only this list keeps grain's iterator: one that lives on to the end of the program complains there.
    ahead = [grain.experimental.ThreadPrefetchDatasetIterator(_Steps(batches), _PREFETCH)]

    def made() -> Iterator[Batch]:
        while ahead:
            yield next(ahead[0])

    try:
        yield made()
    finally:
        ahead.pop().close()

"""Batches: order, passes, resume and padding."""

import itertools
import threading

import numpy as np
import pytest

from r2d_jax.data.buckets import Bucket
from r2d_jax.data.features import Features
from r2d_jax.data.pipeline import evaluation_batches, prefetched, train_batches


def features(rows):
    column = np.arange(rows, dtype=np.int32)
    wide = np.repeat(column[:, None], 3, axis=1)
    return Features(wide, column, wide, column, wide, column, 0, 0)


def first(iterator, count):
    return [next(iterator)["question_length"].tolist() for _ in range(count)]


def test_each_pass_holds_every_row_once_in_an_order_of_its_own():
    order = np.array(first(train_batches(features(10), 5, seed=1), 6)).reshape(3, 10)
    assert [sorted(one) for one in order.tolist()] == [list(range(10))] * 3
    assert len({tuple(one) for one in order.tolist()}) == 3


def test_a_batch_may_span_two_passes_and_loses_no_row():
    rows = np.array(first(train_batches(features(10), 4, seed=1), 5)).ravel()
    assert sorted(rows[:10]) == list(range(10))
    assert sorted(rows[10:]) == list(range(10))


def test_the_batch_may_be_larger_than_the_data():
    rows = np.array(first(train_batches(features(3), 8, seed=0), 3)).ravel()
    assert np.bincount(rows).tolist() == [8, 8, 8]


@pytest.mark.parametrize("start", [1, 2, 7])
def test_going_on_gives_the_same_rows(start):
    """B064, B066: also mid-pass and at the end of a pass."""
    whole = first(train_batches(features(10), 5, seed=4), 9)
    assert first(train_batches(features(10), 5, seed=4, start_step=start), 9 - start) == whole[start:]


def test_seeds_differ():
    assert first(train_batches(features(50), 8, seed=1), 3) != first(
        train_batches(features(50), 8, seed=2), 3
    )


def test_the_order_is_the_one_that_it_always_was():
    """A run that goes on under another version of this code, or of grain and numpy, repeats no row and skips none."""
    plain = [[6, 5, 7, 3, 8], [4, 9, 2, 0, 1], [2, 8, 9, 3, 5], [0, 1, 6, 7, 4]]
    assert first(train_batches(features(10), 5, seed=1), 4) == plain
    sorted_by_size = [[7, 5, 9, 6, 8], [7, 9, 5, 6, 8], [2, 3, 4, 0, 1], [2, 3, 0, 1, 4]]
    buckets = Bucket(4, 4), Bucket(9, 9)
    assert first(train_batches(features(10), 5, seed=1, buckets=buckets), 4) == sorted_by_size


def test_arrays_of_a_row_stay_together_and_are_int32():
    batch = next(train_batches(features(10), 4, seed=0))
    np.testing.assert_array_equal(batch["rationale_ids"][:, 0], batch["question_length"])
    assert {array.dtype for name, array in batch.items() if name != "row_weight"} == {np.dtype(np.int32)}


def test_evaluation_sees_every_row_once_and_fills_the_last_batch_with_weight_zero():
    """B069: 10 rows in batches of 4."""
    batches = list(evaluation_batches(features(10), 4))
    assert [batch["row_weight"].tolist() for _, batch in batches] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    assert [rows.tolist() for rows, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch["question_length"].tolist() for _, batch in batches][2] == [8, 9, 8, 8]
    rows = np.concatenate([batch["question_length"][batch["row_weight"] > 0] for _, batch in batches])
    np.testing.assert_array_equal(rows, np.arange(10))


def threads():
    return [one.name for one in threading.enumerate() if "prefetch" in one.name]


def test_b079_batches_made_ahead_are_the_same_and_their_thread_ends():
    plain = itertools.islice(train_batches(features(50), 8, seed=1, start_step=5), 40)
    with prefetched(train_batches(features(50), 8, seed=1, start_step=5)) as ahead:
        found = list(itertools.islice(ahead, 40))
        assert len(threads()) == 1
    assert threads() == []
    for one, other in zip(plain, found, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_b079_an_exception_ends_the_thread_and_a_fault_of_making_is_raised():
    def stopped():
        with prefetched(train_batches(features(50), 8, seed=1)) as ahead:
            next(ahead)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert threads() == []

    def broken():
        yield {"row_weight": np.ones(1)}
        raise OSError("disk gone")

    with prefetched(broken()) as ahead:
        next(ahead)
        with pytest.raises(OSError, match="disk gone"):
            next(ahead)
    assert threads() == []
    # Never asked for anything, and a fault that nobody waits for.
    for asked in (0, 1):
        with prefetched(broken()) as ahead:
            [next(ahead) for _ in range(asked)]
        assert threads() == []


def test_b080_processes_share_one_order():
    """Each takes its rows of the same global batch; together they have every row of a pass once."""
    halves = [[], []]
    for batch in itertools.islice(train_batches(features(40), 8, seed=3), 5):
        for process, half in enumerate(halves):
            half += batch["question_length"][process * 4 : process * 4 + 4].tolist()
    assert sorted(halves[0] + halves[1]) == list(range(40))
    assert not set(halves[0]) & set(halves[1])

"""Intervals and paired tests against exact enumeration, scikit-learn and hand-worked values."""

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from r2d_jax.evaluation.intervals import bootstrap_interval, macro_f1_of, mean_of, paired_test, text_ids


def test_interval_of_a_mean_is_that_of_all_resamples():
    """All 4^4 samples of four rows; the drawn interval must lie on their 2.5 and 97.5 % points."""
    values = np.array([0.0, 1.0, 2.0, 5.0])
    exact = [np.mean(sample) for sample in itertools.product(values, repeat=4)]
    low, high = bootstrap_interval(mean_of(values), 4, resamples=20_000)
    assert low == pytest.approx(np.quantile(exact, 0.025), abs=0.13)
    assert high == pytest.approx(np.quantile(exact, 0.975), abs=0.13)


def test_rows_that_do_not_count_are_left_out():
    values = np.array([1.0, np.nan, 0.0, np.nan])
    assert mean_of(values)(np.array([0, 1, 2, 3])) == 0.5
    np.testing.assert_array_equal(mean_of(values)(np.array([[0, 0, 1], [2, 2, 3]])), [1.0, 0.0])


def test_interval_is_the_same_each_time_and_absent_where_it_says_nothing():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(mean_of(values), 50) == bootstrap_interval(mean_of(values), 50)
    assert bootstrap_interval(mean_of(values), 50) != bootstrap_interval(mean_of(values), 50, seed=1)
    assert bootstrap_interval(mean_of(values[:1]), 1) is None
    assert bootstrap_interval(mean_of(values), 50, resamples=0) is None


@pytest.mark.parametrize("published", [False, True])
def test_macro_f1_of_samples_equals_scikit_learn(published):
    rng = np.random.default_rng(1)
    gold = rng.choice(["a", "b", "c"], 40, p=[0.6, 0.35, 0.05]).tolist()
    predicted = rng.choice(["a", "b", "c", "nothing"], 40).tolist()
    statistic = macro_f1_of(*text_ids(gold, predicted), published=published)
    samples = rng.integers(0, 40, (25, 40))
    for sample, found in zip(samples, statistic(samples), strict=True):
        g, p = [gold[i] for i in sample], [predicted[i] for i in sample]
        labels = None if published else sorted(set(g))
        expected = sklearn.metrics.f1_score(g, p, labels=labels, average="macro", zero_division=0)
        assert found == pytest.approx(expected)


def test_paired_test_equals_exact_enumeration():
    """Eight rows have 256 ways to swap; scipy enumerates them."""
    first = np.array([1.0, 1, 1, 0, 1, 1, 0, 1])
    second = np.array([0.0, 1, 0, 0, 1, 0, 0, 0])
    exact = scipy.stats.permutation_test(
        (first, second), lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples", n_resamples=np.inf
    )
    found = paired_test([mean_of(np.concatenate([first, second]))], 8, resamples=20_000)
    assert found.difference == pytest.approx(0.5)
    assert found.p_value == pytest.approx(exact.pvalue, abs=0.01)
    assert found.low <= 0.5 <= found.high


def test_paired_test_over_seeds_swaps_a_row_in_all_of_them():
    """Two seeds with the same outputs are no second piece of evidence."""
    first, second = np.array([1.0] * 6), np.array([0.0] * 3 + [1.0] * 3)
    statistic = mean_of(np.concatenate([first, second]))
    one = paired_test([statistic], 6, resamples=5000)
    assert paired_test([statistic, statistic], 6, resamples=5000) == one
    # 3 rows differ: 2 of 8 ways to swap them are as extreme.
    assert one.p_value == pytest.approx(0.25, abs=0.02)


def test_no_p_value_is_zero_for_what_happened_is_one_of_the_swaps():
    """No other way to swap 60 rows, of which all differ, is as extreme but one in 2^60."""
    found = paired_test([mean_of(np.repeat([1.0, 0.0], 60))], 60, resamples=99)
    assert found.p_value == pytest.approx(1 / 100)


def test_methods_that_are_alike_do_not_differ():
    values = np.random.default_rng(0).random(30)
    found = paired_test([mean_of(np.concatenate([values, values]))], 30, resamples=500)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)

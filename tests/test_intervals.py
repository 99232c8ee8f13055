"""Intervals and paired tests against exact enumeration, scikit-learn and hand-worked values."""

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from r2d_jax.evaluation.intervals import (
    Ratio,
    bootstrap_interval,
    macro_f1_of,
    mean_of,
    paired_test,
    share_of,
    text_ids,
)
from r2d_jax.evaluation.resampling import cluster_samples, clusters_among, clusters_of


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


@pytest.mark.parametrize("rows", [10, 30, 100])
def test_a_share_of_nothing_or_all_is_no_certainty(rows):
    """Of N rows without a case the exact interval ends at 1 - 0.025^(1/N)."""
    end = 1 - 0.025 ** (1 / rows)
    assert bootstrap_interval(share_of(np.zeros(rows)), rows) == pytest.approx((0, end))
    assert bootstrap_interval(share_of(np.ones(rows)), rows) == pytest.approx((1 - end, 1))
    # Rows that do not count tell nothing; of rows with several cases each counts once.
    some = np.concatenate([np.zeros(rows), np.full(5, np.nan)])
    assert bootstrap_interval(share_of(some), rows + 5) == pytest.approx((0, end))
    cases = Ratio(np.full(rows, 3.0), np.full(rows, 3), share=True)
    assert bootstrap_interval(cases, rows) == pytest.approx((1 - end, 1))
    # Two rows of each cluster.
    clusters = np.arange(2 * rows) // 2
    assert bootstrap_interval(share_of(np.zeros(2 * rows)), 2 * rows, clusters=clusters) == pytest.approx(
        (0, end)
    )


def test_a_figure_that_is_always_the_same_and_no_share_has_no_interval():
    assert bootstrap_interval(mean_of(np.zeros(20)), 20) is None
    assert bootstrap_interval(mean_of(np.full(20, 0.3)), 20) is None
    assert bootstrap_interval(share_of(np.full(20, 0.3)), 20) is None
    gold = np.arange(20) % 2
    assert bootstrap_interval(macro_f1_of(gold, gold, 2), 20) is None


def test_no_interval_leaves_out_its_own_figure():
    """100 rows of four labels, all right, and a row each of eight labels that are never predicted."""
    gold = np.concatenate([np.arange(100) % 4, np.arange(4, 12)])
    predicted = np.concatenate([np.arange(100) % 4, np.zeros(8, np.int64)])
    statistic = macro_f1_of(gold, predicted, 12)
    rng = np.random.default_rng(0)
    drawn = statistic(rng.integers(0, 108, (1000, 108)))
    assert statistic(np.arange(108)) < np.quantile(drawn, 0.025)
    assert bootstrap_interval(statistic, 108) is None


def test_clusters_are_counted_as_they_come_and_none_where_each_row_is_alone():
    assert clusters_of(["b", "a", "b", "", "", "a"]).tolist() == [0, 1, 0, 2, 3, 1]
    assert clusters_of(["b", "a", "", ""]) is None
    assert clusters_of([]) is None
    clusters = np.array([0, 1, 0, 2, 3, 1])
    assert clusters_among(clusters, np.array([2, 5, 1])).tolist() == [0, 1, 1]
    assert clusters_among(clusters, np.array([0, 1, 3])) is None
    assert clusters_among(None, np.array([0, 0])) is None


def test_samples_hold_whole_clusters_as_often_as_they_were_drawn():
    clusters = np.array([0, 1, 0, 2, 2, 2])
    seen = set()
    for sample in cluster_samples(clusters, 200, 0):
        times = np.bincount(sample, minlength=6)
        of_cluster = [set(times[clusters == number]) for number in range(3)]
        assert all(len(one) == 1 for one in of_cluster)
        assert sum(min(one) for one in of_cluster) == 3
        seen.add(tuple(times.tolist()))
    # Three of three with replacement: ten samples.
    assert len(seen) == 10


def test_interval_over_clusters_is_that_of_all_samples_of_clusters():
    """Three patients of one, two and three notes: 3^3 samples of patients."""
    values, clusters = np.array([0.0, 4.0, 1.0, 9.0, 2.0, 2.5]), np.array([0, 1, 1, 2, 2, 2])
    exact = []
    for drawn in itertools.product(range(3), repeat=3):
        rows = np.concatenate([np.flatnonzero(clusters == number) for number in drawn])
        exact.append(values[rows].mean())
    low, high = bootstrap_interval(mean_of(values), 6, resamples=20_000, clusters=clusters)
    assert low == pytest.approx(np.quantile(exact, 0.025, method="inverted_cdf"))
    assert high == pytest.approx(np.quantile(exact, 0.975, method="inverted_cdf"))
    assert bootstrap_interval(mean_of(values), 6, clusters=np.zeros(6, np.int64)) is None


def test_interval_over_clusters_holds_what_the_one_over_rows_does_not():
    """40 patients of ten notes that are all right or all wrong: the notes are 40 cases, not 400."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 10)
    held = {"rows": 0, "clusters": 0}
    for trial in range(100):
        values = np.repeat(rng.random(40) < 0.6, 10).astype(float)
        for name, drawn in (("rows", None), ("clusters", clusters)):
            low, high = bootstrap_interval(share_of(values), 400, resamples=200, seed=trial, clusters=drawn)
            held[name] += low <= 0.6 <= high
    assert held["clusters"] >= 85
    assert held["rows"] <= 60


def test_paired_test_over_clusters_equals_exact_enumeration_over_patients():
    """Eight patients of two notes have 256 ways to swap; scipy enumerates them over the patients' sums."""
    rng = np.random.default_rng(3)
    first, second = rng.random(16), rng.random(16) - 0.2
    clusters = np.arange(16) % 8
    sums = [np.bincount(clusters, values) for values in (first, second)]
    exact = scipy.stats.permutation_test(
        sums, lambda a, b: np.mean(a) - np.mean(b), permutation_type="samples", n_resamples=np.inf
    )
    statistic = mean_of(np.concatenate([first, second]))
    found = paired_test([statistic], 16, resamples=20_000, clusters=clusters)
    assert found.p_value == pytest.approx(exact.pvalue, abs=0.01)
    assert found.p_value != pytest.approx(paired_test([statistic], 16, resamples=20_000).p_value, abs=0.005)

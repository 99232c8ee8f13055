"""How sure a figure is; in: a statistic of resampled rows, out: bootstrap intervals and paired tests."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r2d_jax.evaluation.resampling import cluster_samples

Statistic = Callable[[np.ndarray], np.ndarray]
"""Row numbers int64 [..., N] to the figure of each such sample, float64 [...]."""

_MAX_NUMBERS_AT_ONCE = 1_000_000
# Sums in another order may differ in the last digit.
_SAME = 1e-12


def _batch(rows: int) -> int:
    return max(1, _MAX_NUMBERS_AT_ONCE // max(rows, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Ratio:
    """The `Statistic` of a mean over cases of which a row has none, one or several.

    Attributes:
        parts: float64 [N], sums over the cases of each row.
        counts: [N], cases of each row.
        share: whether every case lies between 0 and 1.
    """

    parts: np.ndarray
    counts: np.ndarray
    share: bool = False

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Sum of the parts by sum of the counts of each sample."""
        # A sample may hold no row that counts.
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.parts[rows].sum(axis=-1) / self.counts[rows].sum(axis=-1)

    def among(self, rows: np.ndarray) -> "Ratio":
        """That of some rows alone."""
        return Ratio(self.parts[rows], self.counts[rows], self.share)

    def units(self, clusters: np.ndarray | None) -> int:
        """Independent cases: rows that count, or clusters int64 [N] of such."""
        counted = self.counts > 0
        return int(counted.sum()) if clusters is None else len(np.unique(clusters[counted]))


def bootstrap_interval(
    statistic: Statistic,
    rows: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> tuple[float, float] | None:
    """95 % percentile interval over samples of the rows, drawn with replacement (Efron, 1979).

    It tells how the figure would move with other test rows, not with another training seed. A share of 0 or 1 is the
    same in every sample, though other rows may well differ: it gets the exact interval of Clopper & Pearson (1934), at
    its widest for shares that rows have in part.

    Args:
        statistic: of the rows.
        rows: N.
        resamples: samples drawn; 0: no interval.
        seed: of the draws.
        clusters: int64 [N], of `clusters_of`: rows that are drawn together; None: each row by itself.

    Returns:
        low and high; None for fewer than two rows or clusters, no resamples, a figure that is not a number or the same
        in every sample without being a share, or an interval that leaves out the figure itself, as of macro-F1
        with labels of a row or two: samples without these rows, and so without these labels, have a higher one.
    """
    found = _percentiles(statistic, rows, resamples, seed, clusters)
    if found is None:
        return None
    low, high = found
    value = float(statistic(np.arange(rows)))
    if high - low < _SAME:
        return _exact(value, statistic, clusters)
    return (low, high) if low - _SAME <= value <= high + _SAME else None


def _exact(value: float, statistic: Statistic, clusters: np.ndarray | None) -> tuple[float, float] | None:
    import scipy.stats

    if not isinstance(statistic, Ratio) or not statistic.share or min(value, 1 - value) > _SAME:
        return None
    units = statistic.units(clusters)
    found = scipy.stats.binomtest(round(value) * units, units).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def _percentiles(
    statistic: Statistic, rows: int, resamples: int, seed: int, clusters: np.ndarray | None
) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile of the figures of samples; None where there are none."""
    if rows < 2 or resamples < 1 or (clusters is not None and not clusters.any()):
        return None
    if clusters is None:
        low, high = _of_rows(statistic, rows, resamples, seed)
    else:
        drawn = [float(statistic(sample)) for sample in cluster_samples(clusters, resamples, seed)]
        low, high = np.percentile(drawn, [2.5, 97.5])
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def _of_rows(statistic: Statistic, rows: int, resamples: int, seed: int) -> tuple[float, float]:
    import scipy.stats

    with warnings.catch_warnings():
        # A figure without a value in some sample has no interval, which the result says.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            (np.arange(rows),),
            lambda sample, axis: statistic(sample),
            n_resamples=resamples,
            batch=_batch(rows),
            method="percentile",
            vectorized=True,
            axis=-1,
            rng=np.random.default_rng(seed),
        )
    return result.confidence_interval


def intervals_of(
    statistics: Mapping[str, Statistic], rows: int, *, resamples: int, clusters: np.ndarray | None = None
) -> dict[str, tuple[float, float]]:
    """The `bootstrap_interval` of each figure over N rows, by its name; figures that have none are left out."""
    found = {
        name: bootstrap_interval(statistic, rows, resamples=resamples, clusters=clusters)
        for name, statistic in statistics.items()
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def mean_of(values: np.ndarray, *, share: bool = False) -> Ratio:
    """Mean of values float64 [N], which lie between 0 and 1 where it is a `share`; nan marks rows that do not count."""
    counted = np.isfinite(values)
    return Ratio(np.where(counted, values, 0.0), counted, share)


def share_of(values: np.ndarray) -> Ratio:
    """As `mean_of`, of values between 0 and 1."""
    return mean_of(values, share=True)


def text_ids(gold: Sequence[str], predicted: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Every distinct text as a number: gold int64 [N], predicted int64 [N], and how many texts there are."""
    index = {text: number for number, text in enumerate(dict.fromkeys([*gold, *predicted]))}
    return (
        np.array([index[text] for text in gold], np.int64),
        np.array([index[text] for text in predicted], np.int64),
        len(index),
    )


def macro_f1_of(
    gold: np.ndarray, predicted: np.ndarray, classes: int, *, published: bool = False
) -> Statistic:
    """Macro-F1 of class numbers int64 [N] below `classes`.

    Args:
        gold: class of each row.
        predicted: class of each row's prediction.
        classes: K.
        published: also count the classes that are only predicted (the definition of published figures);
            else the mean is over the classes that occur in gold.
    """

    def count(numbers: np.ndarray, samples: int) -> np.ndarray:
        return np.bincount(numbers.ravel(), minlength=samples * classes).reshape(samples, classes)

    def statistic(rows: np.ndarray) -> np.ndarray:
        flat = rows.reshape(-1, rows.shape[-1])
        offset = np.arange(len(flat))[:, None] * classes
        g, p = gold[flat] + offset, predicted[flat] + offset
        in_gold, in_predicted, right = count(g, len(flat)), count(p, len(flat)), count(g[g == p], len(flat))
        f1 = 2 * right / np.maximum(in_gold + in_predicted, 1)
        taken = (in_gold + in_predicted if published else in_gold) > 0
        return ((f1 * taken).sum(axis=1) / taken.sum(axis=1)).reshape(rows.shape[:-1])

    return statistic


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Two methods on the same rows.

    Attributes:
        difference: figure of the first less that of the second.
        low: of the 95 % bootstrap interval of the difference; None: there is none, as with one row.
        high: of the same.
        p_value: two-sided, of the randomisation test.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float


def paired_test(
    statistics: Sequence[Statistic],
    rows: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> PairedTest:
    """Whether two methods differ on the rows they share, by approximate randomisation (Noreen, 1989).

    A method's figure is its mean over training seeds. If the methods were alike, swapping their outputs
    on a row, in all seeds together, would not matter; p is the share of such swaps, the real one
    included, whose difference is at least as large. The test is over rows: it says nothing of seeds
    that were not trained.

    Args:
        statistics: one for each training seed, over 2·N outputs: rows 0 to N - 1 are the first method's, the
            same rows of the second follow.
        rows: N.
        resamples: samples of interval and test.
        seed: of the draws.
        clusters: int64 [N]: rows that are drawn and swapped together; None: each row by itself.
    """

    def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.mean([one(first) - one(second) for one in statistics], axis=0)

    here = np.arange(rows)
    observed = float(difference(here, here + rows))
    low, high = _percentiles(
        lambda sample: difference(sample, sample + rows), rows, resamples, seed, clusters
    ) or (None, None)
    of_row = here if clusters is None else clusters
    rng = np.random.default_rng(seed + 1)
    reached = 0
    for start in range(0, resamples, _batch(rows)):
        samples = min(_batch(rows), resamples - start)
        swapped = (rng.random((samples, of_row.max() + 1)) < 0.5)[:, of_row]
        first, second = np.where(swapped, here + rows, here), np.where(swapped, here, here + rows)
        reached += int(np.sum(np.abs(difference(first, second)) >= abs(observed) - _SAME))
    return PairedTest(observed, low, high, (1 + reached) / (1 + resamples))

"""How sure a figure is; in: a statistic of resampled rows, out: bootstrap intervals and paired tests."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
"""Row numbers int64 [..., N] to the figure of each such sample, float64 [...]."""

_MAX_NUMBERS_AT_ONCE = 1_000_000


def _batch(rows: int) -> int:
    return max(1, _MAX_NUMBERS_AT_ONCE // max(rows, 1))


def bootstrap_interval(
    statistic: Statistic, rows: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval over samples of the rows, drawn with replacement (Efron, 1979).

    It tells how the figure would move with other test rows, not with another training seed.

    Args:
        statistic: of the rows.
        rows: N.
        resamples: samples drawn; 0: no interval.
        seed: of the draws.

    Returns:
        low and high; None for fewer than two rows, no resamples, or a figure that is not a number.
    """
    import scipy.stats

    if rows < 2 or resamples < 1:
        return None
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
    low, high = (float(value) for value in result.confidence_interval)
    return (low, high) if np.isfinite([low, high]).all() else None


def intervals_of(
    statistics: Mapping[str, Statistic], rows: int, *, resamples: int
) -> dict[str, tuple[float, float]]:
    """The `bootstrap_interval` of each figure over N rows, by its name; figures that have none are left out."""
    found = {
        name: bootstrap_interval(statistic, rows, resamples=resamples)
        for name, statistic in statistics.items()
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def mean_of(values: np.ndarray) -> Statistic:
    """Mean of values float64 [N]; nan marks rows that do not count."""
    counted = np.isfinite(values)
    return ratio_of(np.where(counted, values, 0.0), counted)


def ratio_of(parts: np.ndarray, counts: np.ndarray) -> Statistic:
    """Sum of parts float64 [N] by sum of counts [N]: a mean over cases of which a row has none or several."""

    def statistic(rows: np.ndarray) -> np.ndarray:
        # A sample may hold no row that counts.
        with np.errstate(invalid="ignore", divide="ignore"):
            return parts[rows].sum(axis=-1) / counts[rows].sum(axis=-1)

    return statistic


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
    statistics: Sequence[Statistic], rows: int, *, resamples: int = 1000, seed: int = 0
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
    """

    def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.mean([one(first) - one(second) for one in statistics], axis=0)

    here = np.arange(rows)
    observed = float(difference(here, here + rows))
    low, high = bootstrap_interval(
        lambda sample: difference(sample, sample + rows), rows, resamples=resamples, seed=seed
    ) or (None, None)
    rng = np.random.default_rng(seed + 1)
    reached = 0
    for start in range(0, resamples, _batch(rows)):
        swapped = rng.random((min(_batch(rows), resamples - start), rows)) < 0.5
        first, second = np.where(swapped, here + rows, here), np.where(swapped, here, here + rows)
        # Sums in another order may differ in the last digit.
        reached += int(np.sum(np.abs(difference(first, second)) >= abs(observed) - 1e-12))
    return PairedTest(observed, low, high, (1 + reached) / (1 + resamples))

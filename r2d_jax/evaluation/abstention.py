"""When to give no answer; in: probabilities of answers and which are right, out: a threshold, risk by coverage."""

import math

import numpy as np

from r2d_jax.evaluation.intervals import Statistic

CURVE_POINTS = 100
"""Maximum number of points of the curve that is written down."""


def upper_risk(errors: int, rows: int, confidence: float) -> float:
    """The error rate that, with this confidence, is not exceeded (one-sided; Clopper & Pearson, 1934).

    Args:
        errors: wrong answers, at most `rows`.
        rows: answers; 0: nothing is known, so 1.
        confidence: above 0, below 1.
    """
    import scipy.stats

    if errors >= rows:
        return 1.0
    return float(scipy.stats.beta.ppf(confidence, errors + 1, rows - errors))


def choose_threshold(
    probability: np.ndarray, right: np.ndarray, target_risk: float, confidence: float | None
) -> float | None:
    """The least probability of an answer that is given, so that at most `target_risk` of the given answers are wrong.

    With a confidence this is selection with guaranteed risk (Geifman & El-Yaniv, 2017, algorithm 1): a binary search
    over the probabilities that occur, each step testing the upper bound of the error rate with its share of the
    allowed doubt. Here the lowest is tested before the search: half of the answers have a higher bound, so that few
    but good answers would all be withheld. The error rate among answers to further rows of the same kind is above
    the target with a probability of 1 - confidence at most. That holds for rows which chose nothing else: not the
    temperature, not the checkpoint.

    Args:
        probability: float [N] of each answer; nan: the row has none, so it is never answered.
        right: bool [N].
        target_risk: above 0, below 1.
        confidence: above 0, below 1; None: the error rate of these rows themselves is at most the target, at the
            lowest threshold for which that is so. On other rows it then is higher about as often as not.

    Returns:
        One of the probabilities; None: no threshold will do.
    """
    answered = np.isfinite(probability)
    order = np.argsort(-probability[answered], kind="stable")
    sure, wrong = probability[answered][order], ~np.asarray(right, bool)[answered][order]
    if not len(sure):
        return None
    thresholds = np.unique(sure)
    # Answers, and wrong ones, at or above each threshold.
    given = len(sure) - np.searchsorted(sure[::-1], thresholds, side="left")
    errors = np.cumsum(wrong)[given - 1]
    if confidence is None:
        fits = np.flatnonzero(errors / given <= target_risk)
        return float(thresholds[fits[0]]) if fits.size else None
    tests = _tests(len(thresholds))

    def holds(place: int) -> bool:
        found = int(errors[place]), int(given[place])
        return upper_risk(*found, 1 - (1 - confidence) / tests) <= target_risk

    if holds(0):
        return float(thresholds[0])
    low, high = 1, len(thresholds)
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return float(thresholds[high]) if high < len(thresholds) else None


def _tests(thresholds: int) -> int:
    """Most tests of `choose_threshold` among so many thresholds: of the lowest, and of those of a binary search."""
    return 1 + (thresholds - 1).bit_length()


def fewest_rows(target_risk: float, confidence: float) -> int:
    """The least number of rows, all answered rightly, for which `choose_threshold` finds a threshold.

    Each row has another probability; of rows that share one fewer may do.

    Args:
        target_risk: above 0, below 1.
        confidence: above 0, below 1.
    """
    rows = 1
    while True:
        # Without an error the upper bound is 1 - doubt^(1 / rows).
        wanted = math.ceil(math.log((1 - confidence) / _tests(rows)) / math.log1p(-target_risk))
        if wanted <= rows:
            return rows
        rows = wanted


def risk_coverage(probability: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The error rate among the surest answers, for each number of them (El-Yaniv & Wiener, 2010).

    Args:
        probability: float [N]; nan: no answer, which comes last.
        wrong: bool [N].

    Returns:
        coverage and risk, float64 [N]: of the surest 1, 2, ..., N rows. Of rows that are equally sure any may come
        first, and the mean over these orders is told.
    """
    sure = np.where(np.isfinite(probability), probability, -np.inf)
    _, group, sizes = np.unique(-sure, return_inverse=True, return_counts=True)
    rate = np.bincount(group, weights=np.asarray(wrong, np.float64)) / sizes
    number = np.arange(1, len(sure) + 1)
    return number / len(sure), np.cumsum(np.repeat(rate, sizes)) / number


def aurc_of(probability: np.ndarray, wrong: np.ndarray) -> Statistic:
    """The area under the risk-coverage curve, the mean of its risks (Geifman et al., 2019).

    Of a random order it is the error rate itself; the lower, the better the wrong answers are told by their
    probability. Rows that are equally sure count in the order of the sample.
    """
    sure = np.where(np.isfinite(probability), probability, -np.inf)
    errors = np.asarray(wrong, np.float64)

    def statistic(rows: np.ndarray) -> np.ndarray:
        order = np.argsort(-sure[rows], axis=-1, kind="stable")
        found = np.take_along_axis(errors[rows], order, axis=-1)
        return (np.cumsum(found, axis=-1) / np.arange(1, rows.shape[-1] + 1)).mean(axis=-1)

    return statistic


def curve_points(coverage: np.ndarray, risk: np.ndarray) -> list[list[float]]:
    """At most 100 pairs of coverage and risk, the first and the last among them."""
    picked = np.unique(np.linspace(0, len(coverage) - 1, CURVE_POINTS).round().astype(int))
    return [[round(float(coverage[place]), 6), round(float(risk[place]), 6)] for place in picked]

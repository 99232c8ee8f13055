"""Whether probabilities are as often right as they say; in: log-probabilities and gold, out: temperature, figures."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from r2d_jax.config import LabelDecode
from r2d_jax.errors import UserError
from r2d_jax.evaluation.intervals import Statistic
from r2d_jax.evaluation.model_folder import read_card
from r2d_jax.runtime.run_files import CALIBRATION, RUN_STATE

BINS = 15
"""Of calibration errors, as in Guo et al. (2017)."""
TEMPERATURES = (0.01, 100.0)
"""The lowest and the highest temperature that is fitted."""

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
RowSource = Literal["validation", "file"]
"""Where rows to fit to came from: the validation split of the model's own run, or a file that was given."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted to rows that the weights were not trained on; stored as calibration.json.

    Attributes:
        temperature: by which log-probabilities are divided.
        threshold: least probability of a label that is answered; None: there is none. With a target_risk that means
            that none was found, so that no row is answered.
        target_risk: the share of wrong answers that was aimed at; None: every row is answered.
        rows: that it was fitted to.
        labels_sha256: `labels_digest` of the label set.
        risk_confidence: with which the target holds; None: it held on the fitted rows.
        label_decode: how the labels were decoded that the threshold was chosen for.
        source: where the rows came from; None: not known (an earlier version did not store it).
        row_digests: of the texts of the rows, in order, 4096 at most (`fitted_rows.fitted_to`); empty: not known. They
            are no part of what was fitted, and do not count where calibrations are compared.
    """

    temperature: _Positive
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    target_risk: _Share | None
    rows: Annotated[int, Field(ge=0)]
    labels_sha256: str
    risk_confidence: _Share | None = None
    label_decode: LabelDecode = "free"
    source: RowSource | None = None
    row_digests: tuple[_Digest, ...] = dataclasses.field(default=(), compare=False)

    def abstains(self, probability: float | None) -> bool | None:
        """Whether a label of this calibrated probability (None: it is none of the set) is better not given.

        None where there is no target_risk: then nothing is said about it.
        """
        if self.target_risk is None:
            return None
        return self.threshold is None or probability is None or not probability >= self.threshold

    def to_json(self) -> str:
        """The text of calibration.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def labels_digest(labels: Sequence[str]) -> str:
    """Sha256 of a label set in its order, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()


def load_calibration(folder: pathlib.Path, source: str | None = None) -> Calibration | None:
    """The calibration of a model folder; None where it has none.

    Args:
        folder: with the model card.
        source: `LoadedModel.source`; of a run, only its best checkpoint of stage 2 is calibrated, so that any other
            one has none. None: that is the one that is used.

    Raises:
        UserError: the file is damaged, or was made for another label set.
    """
    path = folder / CALIBRATION
    if not path.is_file() or (source is not None and not is_calibrated(folder, source)):
        return None
    try:
        calibration = TypeAdapter(Calibration).validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(
            str(path), f"is damaged ({type(error).__name__})", "Remove it, or calibrate the model again."
        ) from error
    if calibration.labels_sha256 != labels_digest(read_card(folder).labels):
        raise UserError(
            str(path), "was made for another label set", "Remove it, or calibrate the model again."
        )
    return calibration


def is_calibrated(folder: pathlib.Path, source: str) -> bool:
    """Whether the calibration of a folder is one of the weights that were loaded from `source`."""
    return not (folder / RUN_STATE).is_file() or pathlib.PurePath(source).parts[-3:-1] == ("stage2", "best")


def label_probabilities(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities over the label set alone, float64 [N, K]; each row sums to 1.

    Args:
        log_probs: float [N, K], log P(label | input).
        temperature: 1: as the model has them. Higher: less sure; the order of the labels stays.
    """
    from scipy.special import softmax

    return softmax(np.asarray(log_probs, np.float64) / temperature, axis=-1)


def negative_log_likelihood(log_probs: np.ndarray, gold: np.ndarray, temperature: float) -> np.ndarray:
    """float64 [N]: -log of the probability of each row's gold label int64 [N]; nan where it is -1."""
    from scipy.special import logsumexp

    scaled = np.asarray(log_probs, np.float64) / temperature
    of_gold = np.take_along_axis(scaled, np.maximum(gold, 0)[:, None], axis=1)[:, 0]
    return np.where(gold >= 0, logsumexp(scaled, axis=-1) - of_gold, np.nan)


def fit_temperature(log_probs: np.ndarray, gold: np.ndarray) -> float:
    """The temperature of least mean negative log-likelihood (Guo et al., 2017, section 4.2).

    The likelihood has one minimum: it is convex in 1 / temperature. Where the gold label of every row is the most
    probable one it falls without end as the temperature does; nothing can then be fitted, and the probabilities
    stay as they are.

    Args:
        log_probs: float [N, K], log P(label | input).
        gold: int64 [N], number of the gold label; rows with -1 are left out.

    Returns:
        0.01 to 100; 1.0 where nothing can be fitted.
    """
    from scipy.optimize import minimize_scalar

    inside = gold >= 0
    scores, right = np.asarray(log_probs, np.float64)[inside], gold[inside]
    others = scores.copy()
    np.put_along_axis(others, right[:, None], -np.inf, axis=1)
    if (np.take_along_axis(scores, right[:, None], axis=1)[:, 0] > others.max(axis=1)).all():
        return 1.0
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda logarithm: negative_log_likelihood(scores, right, np.exp(logarithm)).mean(),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))


def brier_score(probabilities: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """float64 [N]: squared distance of each row's probabilities from its gold label (Brier, 1950); 0 to 2.

    Args:
        probabilities: float [N, K].
        gold: int64 [N]; nan comes out where it is -1.
    """
    wanted = np.arange(probabilities.shape[1])[None, :] == gold[:, None]
    return np.where(gold >= 0, np.square(probabilities - wanted).sum(axis=1), np.nan)


def calibration_error_of(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Statistic:
    """The expected calibration error (Naeini et al., 2015; Guo et al., 2017) of confidences float [N], right bool [N].

    Bins of equal width, each with its upper end; the mean over rows of |share right - mean confidence| of their bin.
    In a sample of few rows it comes out too high, and so does its bootstrap interval.
    """
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    place = np.searchsorted(inner, confidence, side="left")
    gap = np.asarray(right, np.float64) - confidence

    def statistic(rows: np.ndarray) -> np.ndarray:
        flat = rows.reshape(-1, rows.shape[-1])
        keys = place[flat] + np.arange(len(flat))[:, None] * bins
        sums = np.bincount(keys.ravel(), weights=gap[flat].ravel(), minlength=len(flat) * bins)
        errors = np.abs(sums.reshape(-1, bins)).sum(axis=1) / rows.shape[-1]
        return errors.reshape(rows.shape[:-1])

    return statistic


def adaptive_calibration_error_of(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Statistic:
    """The same with bins of equally many rows in the order of their confidence (Nguyen & O'Connor, 2015).

    It tells more where nearly all confidences lie in one or two bins of equal width. Of rows that are equally sure any
    may come first, so each counts with the mean of them.
    """
    gap = np.asarray(right, np.float64) - confidence
    _, group = np.unique(confidence, return_inverse=True)
    groups = int(group.max(initial=-1)) + 1

    def statistic(rows: np.ndarray) -> np.ndarray:
        count = rows.shape[-1]
        flat = rows.reshape(-1, count)
        place = group[flat] + np.arange(len(flat))[:, None] * groups
        sizes = np.bincount(place.ravel(), minlength=len(flat) * groups)
        sums = np.bincount(place.ravel(), weights=gap[flat].ravel(), minlength=len(flat) * groups)
        means = (sums / np.maximum(sizes, 1))[np.sort(place, axis=-1)]
        sorted_gaps = means.reshape(rows.shape)
        starts = np.unique(np.arange(bins) * count // bins)
        return np.abs(np.add.reduceat(sorted_gaps, starts, axis=-1)).sum(axis=-1) / count

    return statistic

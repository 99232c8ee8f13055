"""What probabilities add to an evaluation; in: scores of labels and gold rows, out: sections of metrics.json, rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from r2d_jax.evaluation.abstention import aurc_of, curve_points, risk_coverage
from r2d_jax.evaluation.calibration import (
    BINS,
    Calibration,
    adaptive_calibration_error_of,
    brier_score,
    calibration_error_of,
    label_probabilities,
    negative_log_likelihood,
)
from r2d_jax.evaluation.intervals import Ratio, Statistic, mean_of, share_of
from r2d_jax.evaluation.label_scoring import label_numbers, probability_of
from r2d_jax.evaluation.report_labels import calibration as bins_of
from r2d_jax.evaluation.scoring import Scores

_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class Probabilities:
    """Probabilities of the labels of N rows.

    Attributes:
        labels: K labels.
        log_probs: float32 [N, K], log P(label | input).
        calibration: that of the model; None: it has none, and probabilities are as the model has them.
        predicted: int64 [N], number of the generated label; -1: it is none of the set.
    """

    labels: Sequence[str]
    log_probs: np.ndarray
    calibration: Calibration | None
    predicted: np.ndarray

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        log_probs: np.ndarray,
        calibration: Calibration | None,
        predicted: Sequence[str],
    ) -> "Probabilities":
        """Of N rows with these generated labels."""
        return cls(labels, log_probs, calibration, label_numbers(labels, predicted))

    @property
    def table(self) -> np.ndarray:
        """float64 [N, K], calibrated; each row sums to 1."""
        return label_probabilities(self.log_probs, self.calibration.temperature if self.calibration else 1.0)

    def lines(self, *, every_label: bool = False) -> list[dict[str, Any]]:
        """For each row what predictions.jsonl gets.

        Returns:
            label_probability: of the generated label, None where it is none of the set. abstained: True, False, or
            None where no target_risk was set. With `every_label` also probabilities, by label.
        """
        table = self.table
        made = []
        for row, one in enumerate(probability_of(table, self.predicted).tolist()):
            probability = one if np.isfinite(one) else None
            line: dict[str, Any] = {
                "label_probability": None if probability is None else round(probability, _DIGITS),
                "abstained": self.calibration.abstains(probability) if self.calibration else None,
            }
            if every_label:
                shares = [round(float(share), _DIGITS) for share in table[row]]
                line["probabilities"] = dict(zip(self.labels, shares, strict=True))
            made.append(line)
        return made

    def scores(self, gold: Sequence[str]) -> "ProbabilityScores":
        """Figures of the probabilities against N gold labels, and of the choice not to answer."""
        from scipy.special import logsumexp

        numbers = label_numbers(self.labels, gold)
        found = ProbabilityScores({}, {}, {})
        top = self.log_probs.argmax(axis=1)
        right = top == numbers
        section: dict[str, Any] = {
            "labels": len(self.labels),
            "rows": len(numbers),
            "rows_outside_set": int((numbers < 0).sum()),
            "temperature": self.calibration.temperature if self.calibration else None,
            "fitted_rows": self.calibration.rows if self.calibration else None,
            "fitted_from": self.calibration.source if self.calibration else None,
            "top_accuracy": float(right.mean()),
            "predicted_is_top_fraction": float((self.predicted == top).mean()),
            "label_set_probability": float(np.exp(logsumexp(self.log_probs, axis=1)).mean()),
            "bins": {},
        }
        temperatures = {"before": 1.0}
        if self.calibration:
            temperatures["after"] = self.calibration.temperature
        for name, temperature in temperatures.items():
            section[name] = found.add_temperature(f"calibration.{name}", self, numbers, right, temperature)
            table = label_probabilities(self.log_probs, temperature)
            section["bins"][name] = [one._asdict() for one in bins_of(table.max(axis=1), right, BINS)[0]]
        for one in (one for bins in section["bins"].values() for one in bins if not one["rows"]):
            one |= {"confidence": None, "accuracy": None}
        found.sections["calibration"] = section
        found.sections["abstention"] = found.add_abstention(self, numbers)
        return found


@dataclasses.dataclass(frozen=True)
class ProbabilityScores:
    """Figures of probabilities.

    Attributes:
        sections: "calibration" and "abstention" of metrics.json.
        rows: dotted figure to float64 [N], nan where a row does not count.
        statistics: dotted figure to its `Statistic`.
    """

    sections: dict[str, Any]
    rows: dict[str, np.ndarray]
    statistics: dict[str, Statistic]

    def added_to(self, scores: Scores, resamples: int) -> Scores:
        """The scores with the sections, the parts of each row, and intervals."""
        count = self.sections["calibration"]["rows"]
        return scores.plus(self.sections, self.rows, self.statistics, count, resamples)

    def add_temperature(
        self, name: str, of: Probabilities, numbers: np.ndarray, right: np.ndarray, temperature: float
    ) -> dict[str, float | None]:
        """Add rows and statistics of calibration at a temperature; its section of figures by name."""
        table = label_probabilities(of.log_probs, temperature)
        rows = {
            "nll": negative_log_likelihood(of.log_probs, numbers, temperature),
            "brier": brier_score(table, numbers),
        }
        top = table.max(axis=1)
        statistics = {
            "ece": calibration_error_of(top, right),
            "adaptive_ece": adaptive_calibration_error_of(top, right),
        } | {figure: mean_of(values) for figure, values in rows.items()}
        self.rows.update({f"{name}.{figure}": values for figure, values in rows.items()})
        self.statistics.update({f"{name}.{figure}": one for figure, one in statistics.items()})
        return {figure: _value(one, len(numbers)) for figure, one in statistics.items()}

    def add_abstention(self, of: Probabilities, numbers: np.ndarray) -> dict[str, Any]:
        """Add rows and statistics of abstention; its section."""
        probability = probability_of(of.table, of.predicted)
        wrong = (of.predicted != numbers) | (of.predicted < 0)
        calibration = of.calibration
        target = None if calibration is None else calibration.target_risk
        self.statistics["abstention.aurc"] = aurc_of(probability, wrong)
        section: dict[str, Any] = {
            "target_risk": target,
            "risk_confidence": None if calibration is None else calibration.risk_confidence,
            "threshold": None if calibration is None else calibration.threshold,
            "error_fraction": float(wrong.mean()),
        }
        coverage, risk = risk_coverage(probability, wrong)
        section["aurc"] = float(risk.mean())
        if calibration is not None and target is not None:
            least = np.inf if calibration.threshold is None else calibration.threshold
            answered = probability >= least
            self.rows["abstention.coverage"] = answered.astype(np.float64)
            self.rows["abstention.risk"] = np.where(answered, wrong, np.nan)
            self.statistics["abstention.coverage"] = share_of(self.rows["abstention.coverage"])
            if answered.any():
                self.statistics["abstention.risk"] = Ratio(
                    (answered & wrong).astype(float), answered, share=True
                )
            section |= {
                "answered_rows": int(answered.sum()),
                "coverage": float(answered.mean()),
                "risk": float(wrong[answered].mean()) if answered.any() else None,
            }
        return section | {"curve": curve_points(coverage, risk)}


def _value(statistic: Statistic, rows: int) -> float | None:
    value = float(statistic(np.arange(rows)))
    return value if np.isfinite(value) else None

"""What a report tells of probabilities; in: a RunRecord, out: tables and plots, or nothing to tell."""

import math
from typing import Any

from pydantic import BaseModel

from r2d_jax.evaluation.fitted_rows import rows_told
from r2d_jax.evaluation.report_labels import Bin
from r2d_jax.evaluation.report_values import cell, scored_figure, section
from r2d_jax.evaluation.run_record import RunRecord

_TIMES = {"before": "before scaling", "after": "after scaling"}
_COLUMNS = (
    ("expected calibration error (ECE)", "ece"),
    ("the same, bins of equal size", "adaptive_ece"),
    ("negative log-likelihood", "nll"),
    ("Brier score", "brier"),
)
_ANSWERS = (("rows answered", "coverage"), ("of these wrong", "risk"), ("AURC", "aurc"))


class _Bin(BaseModel):
    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None

    def drawn(self) -> Bin:
        """As the plot takes it."""
        known = self.confidence is not None and self.accuracy is not None
        pair = (self.confidence, self.accuracy) if known else (math.nan, math.nan)
        return Bin(self.low, self.high, self.rows, *pair)  # type: ignore[arg-type]


class _Calibration(BaseModel):
    labels: int
    rows: int
    temperature: float | None
    fitted_rows: int | None
    fitted_from: str | None = None
    top_accuracy: float
    predicted_is_top_fraction: float
    label_set_probability: float
    bins: dict[str, list[_Bin]]

    @property
    def fitted_told(self) -> str:
        """The rows of the calibration, in words."""
        return rows_told(self.fitted_rows, self.fitted_from)


class _Abstention(BaseModel):
    target_risk: float | None
    risk_confidence: float | None
    threshold: float | None
    error_fraction: float
    aurc: float
    coverage: float | None = None
    risk: float | None = None
    curve: list[tuple[float, float]]


def probabilities_part(run: RunRecord, number: int, colour: str, safe: Any) -> dict[str, Any] | None:
    """Figures before and after scaling, reliability plots and the risk-coverage curve; None without probabilities.

    Args:
        run: its metrics.
        number: of the run.
        colour: of the run.
        safe: marks plots as markup.

    Raises:
        UserError: metrics.json is damaged.
    """
    if run.metrics.get("calibration") is None:
        return None
    calibration = section(run, "calibration", _Calibration)
    abstention = section(run, "abstention", _Abstention)
    from r2d_jax.evaluation import plots
    from r2d_jax.evaluation.calibration_plots import risk_coverage

    times = [name for name in _TIMES if name in calibration.bins]
    chosen = None
    if abstention.coverage is not None and abstention.risk is not None:
        chosen = (abstention.coverage, abstention.risk)
    curve = risk_coverage(
        "Risk and coverage",
        abstention.curve,
        abstention.error_fraction,
        colour,
        f"{run.path.name} {number}",
        target=abstention.target_risk,
        chosen=chosen,
    )
    return {
        "columns": [title for title, _ in _COLUMNS],
        "rows": [
            {
                "name": _TIMES[name],
                "cells": [
                    cell(scored_figure(run.metrics, f"calibration.{name}.{figure}")) for _, figure in _COLUMNS
                ],
            }
            for name in times
        ],
        "note": _note(calibration),
        "plots": [
            safe(
                plots.reliability(
                    f"Reliability {_TIMES[name]}", [one.drawn() for one in calibration.bins[name]], number
                )
            )
            for name in times
        ],
        "answers": [title for title, _ in _ANSWERS],
        "answer_cells": [cell(scored_figure(run.metrics, f"abstention.{name}")) for _, name in _ANSWERS],
        "answers_note": _answers_note(abstention, calibration),
        "curve": safe(curve),
    }


def _note(calibration: _Calibration) -> str:
    fitted = (
        "Not calibrated: probabilities are as the model has them."
        if calibration.temperature is None
        else f"Temperature {calibration.temperature:.3f}, fitted to {calibration.fitted_told}."
    )
    return (
        f"{fitted} Of the most probable of {calibration.labels} labels, which is right in "
        f"{100 * calibration.top_accuracy:.1f} % of {calibration.rows} rows and is the generated one in "
        f"{100 * calibration.predicted_is_top_fraction:.1f} %. Before they are compared with one another the labels "
        f"have {calibration.label_set_probability:.3f} of the probability of all texts."
    )


def _answers_note(abstention: _Abstention, calibration: _Calibration) -> str:
    told = (
        "AURC: mean error rate over all shares of answered rows, the surest first; of a random order it is the "
        f"error rate, {abstention.error_fraction:.3f}."
    )
    if abstention.target_risk is None:
        return f"No target_risk is set, so every row is answered. {told}"
    aim = f"Target: at most {100 * abstention.target_risk:g} % wrong among the answered rows"
    if abstention.risk_confidence is not None:
        aim += f", with confidence {abstention.risk_confidence:g}"
    if abstention.threshold is None:
        return f"{aim}. No threshold reached it on {calibration.fitted_told}: no row is answered. {told}"
    return f"{aim}; answered from probability {abstention.threshold:.4f} on. {told}"

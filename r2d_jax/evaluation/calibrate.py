"""Fitting temperature and threshold; in: a model and labelled rows it was not trained on, out: a Calibration."""

from collections.abc import Callable, Sequence

import numpy as np

from r2d_jax.config import EvaluationConfig
from r2d_jax.data.features import Features
from r2d_jax.errors import UserError
from r2d_jax.evaluation.abstention import choose_threshold, fewest_rows
from r2d_jax.evaluation.calibration import (
    Calibration,
    fit_temperature,
    label_probabilities,
    labels_digest,
)
from r2d_jax.evaluation.fitted_rows import rows_told
from r2d_jax.evaluation.label_scoring import LabelScorer, label_numbers, probability_of, scores_of
from r2d_jax.evaluation.predict import Predictor, all_of
from r2d_jax.model.parameters import Params
from r2d_jax.runtime.row_progress import row_progress


def left_out(settings: EvaluationConfig, labels: Sequence[str]) -> str | None:
    """Why the labels of a model are not scored, in words; None where they are.

    Raises:
        UserError: they are not, though a target_risk needs them.
    """
    why = None
    if not settings.probabilities:
        why = "evaluation.probabilities is false"
    elif not labels:
        why = "the model has no label set"
    elif len(labels) > settings.max_scored_labels:
        why = f"{len(labels)} labels are more than evaluation.max_scored_labels={settings.max_scored_labels}"
    if why is not None and settings.target_risk is not None:
        raise UserError(
            "evaluation.target_risk",
            f"needs probabilities, and {why}",
            "Change that setting, or set evaluation.target_risk=null.",
        )
    return why


@row_progress("calibrating")
def calibrate(
    predictor: Predictor,
    params: Params,
    labels: Sequence[str],
    gold: Sequence[str],
    features: Features,
    settings: EvaluationConfig,
    check_stop: Callable[[], None] = lambda: None,
) -> Calibration:
    """Fit the temperature to N rows and, where settings.target_risk is set, choose the threshold on them.

    Args:
        predictor: of the model; the threshold is for the labels that it decodes.
        params: weights.
        labels: K labels of the model.
        gold: N gold labels.
        features: the N rows.
        settings: batch size, target_risk and risk_confidence.
        check_stop: called between batches; may raise to stop.

    Raises:
        UserError: no gold label is one of the model's, or its probabilities are no numbers.
    """
    numbers = label_numbers(labels, gold)
    if not (numbers >= 0).any():
        raise UserError(
            "calibration",
            f"none of the {len(numbers)} rows has a gold label of the model's label set",
            "Check data.columns.label (for --input: --label-column), or give rows with these labels.",
        )
    scorer, size = LabelScorer(predictor, labels), settings.batch_size
    if settings.target_risk is None:
        lists = scorer.log_probabilities(params, features, size)
        scores = np.array(all_of(lists, check_stop), np.float32).reshape(-1, len(labels))
    else:
        score = scorer.score_labels
        rows = all_of(predictor.predict(params, features, size, rationales=False, score=score), check_stop)
        scores = scores_of(rows, len(labels))
    if np.isnan(scores).any():
        raise UserError(
            "calibration",
            "a probability is not a number, so the weights of the model are damaged or too large",
            "Take another checkpoint; nothing was written.",
        )
    temperature, threshold = fit_temperature(scores, numbers), None
    if settings.target_risk is not None:
        answers = label_numbers(labels, [row.label for row in rows])
        probability = probability_of(label_probabilities(scores, temperature), answers)
        threshold = choose_threshold(
            probability, answers == numbers, settings.target_risk, settings.risk_confidence
        )
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        target_risk=settings.target_risk,
        rows=int((numbers >= 0).sum()),
        labels_sha256=labels_digest(labels),
        risk_confidence=None if settings.target_risk is None else settings.risk_confidence,
        label_decode="free" if predictor.programs.label_trie is None else "constrained",
    )


def told(calibration: Calibration) -> str:
    """A calibration in one line, without case text."""
    rows = rows_told(calibration.rows, calibration.source)
    line = f"temperature {calibration.temperature:.3f}, fitted to {rows}"
    # A search never ends at exactly 1: `fit_temperature` had nothing to fit.
    if calibration.temperature == 1.0:
        line = f"temperature 1: all {rows} are right, so nothing is fitted"
    if calibration.target_risk is None:
        return line
    aim = f"at most {100 * calibration.target_risk:g} % wrong"
    if calibration.risk_confidence is not None:
        aim += f" with confidence {calibration.risk_confidence:g}"
    if calibration.threshold is None:
        line += f"; no threshold reaches {aim}, so every label is marked as abstained"
        if calibration.risk_confidence is not None:
            fewest = fewest_rows(calibration.target_risk, calibration.risk_confidence)
            if calibration.rows < fewest:
                line += f": it takes {fewest:,} rows without a mistake, and these are {calibration.rows:,}"
        return line
    return f"{line}; labels below probability {calibration.threshold:.4f} are marked as abstained ({aim})"

"""All figures of an evaluation; in: gold rows and predictions, out: metrics with intervals, and row scores."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.config import BertScoreConfig, EvaluationConfig
from r2d_jax.data.mentions import evidence_fraction, is_blank, label_agreement, rationale_names_label
from r2d_jax.data.schema import Example
from r2d_jax.errors import UserError
from r2d_jax.evaluation.bertscore import bertscore_rows, load_scorer
from r2d_jax.evaluation.intervals import Statistic, intervals_of, macro_f1_of, mean_of, text_ids
from r2d_jax.evaluation.metrics import counted_labels, label_metrics, normalise_label
from r2d_jax.evaluation.ordinal import scale_of
from r2d_jax.evaluation.overlap import bleu, bleu_rows, corpus_bleu, rouge_l_rows
from r2d_jax.evaluation.predict import Prediction
from r2d_jax.evaluation.rationale_checks import (
    Flip,
    agreement,
    flip_figures,
    flip_statistics,
    has_text,
)
from r2d_jax.evaluation.resampling import clusters_of
from r2d_jax.evaluation.subgroups import subgroup_figures
from r2d_jax.evaluation.triage_scoring import evaluate_triage

# Figures that are means over rows, but of values that may lie beyond 0 and 1.
_NO_SHARES = ("bleu.", "bertscore.")

# Module and package of what is imported at the first evaluation only.
_LATE = {"rouge_score": "rouge-score", "sacrebleu": "sacrebleu", "scipy": "scipy", "sklearn": "scikit-learn"}


def require_libraries() -> None:
    """Look for the libraries that an evaluation will import, without the seconds that importing them takes.

    Raises:
        UserError: one of them is not installed.
    """
    for module, package in _LATE.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(package, "is not installed, and evaluation needs it", f"pip install {package}")


def require_scorer(asked: BertScoreConfig | None) -> None:
    """Load the model of BERTScore and let go of it, so that a fault comes to light before the work and not after.

    Raises:
        UserError: as `bertscore_rows`, as far as it can be told without texts.
    """
    if asked is not None:
        load_scorer(asked.model, asked.num_layers, rescale=asked.rescale, baseline_path=_baseline(asked))


def _baseline(asked: BertScoreConfig) -> pathlib.Path | None:
    return pathlib.Path(asked.baseline_path) if asked.baseline_path else None


@dataclasses.dataclass(frozen=True)
class Readings:
    """Labels that the model reads back from rationales.

    Attributes:
        from_rationale: from each row's generated rationale, N labels.
        from_gold: from each row's gold rationale, N labels.
        flips: rationales under other labels.
        cut_rationales: generated rationales whose end was left out, as they were longer than the input limit.
        cut_gold_rationales: gold rationales likewise.
    """

    from_rationale: Sequence[str]
    from_gold: Sequence[str]
    flips: Sequence[Flip]
    cut_rationales: int = 0
    cut_gold_rationales: int = 0


@dataclasses.dataclass(frozen=True)
class Scores:
    """Figures of an evaluation.

    Attributes:
        metrics: by name; "intervals" holds the 95 % bootstrap interval of each, by dotted name.
        rows: figure to float64 [N], the part of each row in it; nan where the row does not count.
        clusters: int64 [N], rows that are no independent cases, as of `clusters_of`; None: all are.
    """

    metrics: dict[str, Any]
    rows: dict[str, np.ndarray]
    clusters: np.ndarray | None = None

    def plus(
        self,
        sections: Mapping[str, Any],
        rows: Mapping[str, np.ndarray],
        statistics: Mapping[str, Statistic],
        count: int,
        resamples: int,
    ) -> "Scores":
        """With sections of metrics.json, the parts of each of `count` rows in them, and intervals of figures."""
        intervals = intervals_of(statistics, count, resamples=resamples, clusters=self.clusters)
        metrics = {**self.metrics, **sections, "intervals": self.metrics.get("intervals", {}) | intervals}
        return Scores(metrics, {**self.rows, **rows}, self.clusters)


def score(
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    rationale_source: str | None,
    settings: EvaluationConfig | None = None,
    readings: Readings | None = None,
    *,
    probabilities: np.ndarray | None = None,
) -> Scores:
    """Score predictions against the gold rows.

    Args:
        examples: N rows with gold labels.
        predictions: N predictions.
        labels: the label set; empty: the gold labels.
        rationale_source: gold rationale to compare with; rows whose own is blank count in no figure of that
            comparison. None: labels alone are scored.
        settings: BERTScore and intervals; None: defaults.
        readings: labels read back from rationales, where they were.
        probabilities: float [N, K] of the K labels, for rules that choose by them; None: not known.

    Raises:
        UserError: from the metrics; nothing to score, or a request that cannot be honoured.
    """
    settings = settings or EvaluationConfig()
    gold = [example.label for example in examples]
    valid = {normalise_label(label) for label in labels or gold}
    parts = [_label_part(gold, predictions, labels, valid, settings)]
    compared = np.ones(len(examples), bool)
    if rationale_source is not None:
        compared = with_gold_rationale(examples, rationale_source)
        parts.append(_rationale_part(examples, predictions, labels, rationale_source, compared, settings))
    if readings is not None:
        parts.append(_reading_part(gold, predictions, labels, valid, compared, readings))
    metrics: dict[str, Any] = {}
    rows: dict[str, np.ndarray] = {}
    statistics: dict[str, Statistic] = {}
    for part in parts:
        metrics |= part.metrics
        rows |= part.rows
        statistics |= part.statistics
    statistics |= {
        name: mean_of(values, share=not name.startswith(_NO_SHARES)) for name, values in rows.items()
    }
    clusters = clusters_of([example.group for example in examples])
    if clusters is not None:
        metrics["groups"] = int(clusters.max()) + 1
    if settings.triage is not None:
        predicted = [prediction.label for prediction in predictions]
        triage = evaluate_triage(settings.triage, labels, gold, predicted, probabilities)
        metrics["triage"] = triage.section
        rows |= triage.rows
        statistics |= triage.statistics
    groups = subgroup_figures(
        examples,
        statistics,
        least_rows=settings.subgroup_least_rows,
        resamples=settings.resamples,
        clusters=clusters,
    )
    if groups is not None:
        metrics["subgroups"] = groups
    metrics["intervals"] = intervals_of(
        statistics, len(examples), resamples=settings.resamples, clusters=clusters
    )
    return Scores(metrics, rows, clusters)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Figures of one kind.

    Attributes:
        metrics: by name.
        rows: as in `Scores`; the mean of each is a figure with an interval.
        statistics: of resampled rows, by dotted name, where a figure is no mean over rows.
    """

    metrics: dict[str, Any]
    rows: dict[str, np.ndarray]
    statistics: dict[str, Statistic]


def _label_part(
    gold: Sequence[str],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    valid: Collection[str],
    settings: EvaluationConfig,
) -> _Part:
    """Figures of N gold and predicted labels; `valid` are the labels that count as such, as they are compared."""
    predicted = [prediction.label for prediction in predictions]
    # Tables show labels as they stand here: levels by urgency, not by name.
    ordered = scale_of(settings.triage, labels).labels if settings.triage is not None and labels else labels
    metrics: dict[str, Any] = dict(label_metrics(gold, predicted, ordered))
    metrics["rows"] = len(gold)
    metrics["label_limit_fraction"] = _share(not prediction.label_finished for prediction in predictions)
    invalid = 1 - _in_set(predicted, valid)
    counted = counted_labels(predicted, invalid)
    rows = {"accuracy": agreement(gold, counted), "invalid_fraction": invalid}
    return _Part(metrics, rows, _macro_f1_statistics(gold, predicted, counted))


def _rationale_part(
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    source: str,
    compared: np.ndarray,
    settings: EvaluationConfig,
) -> _Part:
    """Figures of N generated rationales; those with a gold one, bool [N] `compared`, are compared with it."""
    predicted = [prediction.label for prediction in predictions]
    rationales = [prediction.rationale for prediction in predictions]
    finished = [prediction.rationale_finished for prediction in predictions]
    metrics: dict[str, Any] = {"rationale_limit_fraction": _share(not one for one in finished)}
    metrics |= _rationale_metrics(examples, predicted, rationales, labels)
    rows = _rationale_rows(examples, predicted, rationales, labels)
    own = [text for text, there in zip(rationales, compared, strict=True) if there]
    golds = [e.rationales[source] for e, there in zip(examples, compared, strict=True) if there]
    metrics["bleu"] = bleu(own, golds)
    sentences, bleu_statistics = bleu_rows(own, golds)
    of_pairs = {"rouge_l": rouge_l_rows(own, golds), "bleu.mean_sentence": sentences}
    if settings.bertscore is not None:
        metrics["bertscore"], of_pairs["bertscore.f1"] = _bertscore(own, golds, settings)
    metrics["rouge_l"] = float(of_pairs["rouge_l"].mean())
    rows |= {name: _spread(values, compared, np.nan) for name, values in of_pairs.items()}
    corpus = _corpus_bleu_of(_spread(bleu_statistics, compared, 0))
    return _Part(metrics, rows, {"bleu.corpus": corpus})


def _reading_part(
    gold: Sequence[str],
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    valid: Collection[str],
    compared: np.ndarray,
    readings: Readings,
) -> _Part:
    """Figures of labels that were read back from N rationales; bool [N] `compared`: which rows have a gold one."""
    predicted = [prediction.label for prediction in predictions]
    written = has_text([prediction.rationale for prediction in predictions])
    rows = {
        # An output that is no label is consistent with nothing.
        "consistency_fraction": agreement(readings.from_rationale, predicted)
        * written
        * _in_set(predicted, valid),
        "sufficiency_fraction": agreement(readings.from_rationale, gold) * written * _in_set(gold, valid),
        "gold_robustness_fraction": np.where(compared, agreement(readings.from_gold, gold), np.nan),
    }
    metrics: dict[str, Any] = {name: float(np.nanmean(values)) for name, values in rows.items()}
    metrics["read_back_cut"] = {
        "rationales": readings.cut_rationales,
        "gold_rationales": readings.cut_gold_rationales,
    }
    metrics["label_flip"] = flip_figures(readings.flips, labels)
    statistics: dict[str, Statistic] = {}
    if readings.flips:
        flips = flip_statistics(readings.flips, labels, len(gold))
        statistics = {f"label_flip.{name}": statistic for name, statistic in flips.items()}
    return _Part(metrics, rows, statistics)


def _share(flags: Any) -> float:
    values = list(flags)
    return sum(values) / max(len(values), 1)


def with_gold_rationale(examples: Sequence[Example], source: str) -> np.ndarray:
    """Bool [N]: which of N rows have a rationale of this source."""
    return np.array([not is_blank(example.rationales[source]) for example in examples])


def _spread(values: np.ndarray, places: np.ndarray, fill: float) -> np.ndarray:
    """Values [M, ...] at the M places of bool [N] that are true, and `fill` at the others: [N, ...]."""
    spread = np.full((len(places), *values.shape[1:]), fill, values.dtype)
    spread[places] = values
    return spread


def _in_set(labels: Sequence[str], valid: Collection[str]) -> np.ndarray:
    return np.array([float(normalise_label(label) in valid) for label in labels])


def _macro_f1_statistics(
    gold: Sequence[str], predicted: Sequence[str], counted: Sequence[str]
) -> dict[str, Statistic]:
    known = [normalise_label(text) for text in gold]
    # The published definition knows no label set.
    raw = text_ids(known, [normalise_label(text) for text in predicted])
    return {
        "macro_f1": macro_f1_of(*text_ids(known, counted)),
        "macro_f1_published": macro_f1_of(*raw, published=True),
    }


def _corpus_bleu_of(statistics: np.ndarray) -> Statistic:
    def of_samples(rows: np.ndarray) -> np.ndarray:
        totals = statistics[rows].sum(axis=-2)
        flat = [corpus_bleu(one) for one in totals.reshape(-1, totals.shape[-1])]
        return np.array(flat).reshape(rows.shape[:-1])

    return of_samples


def _rationale_metrics(
    examples: Sequence[Example],
    predicted: Sequence[str],
    rationales: Sequence[str],
    labels: Sequence[str],
) -> dict[str, Any]:
    return {
        "evidence_fraction": evidence_fraction(rationales, [example.evidence for example in examples]),
        "label_agreement": label_agreement(rationales, predicted, labels),
    }


def _rationale_rows(
    examples: Sequence[Example],
    predicted: Sequence[str],
    rationales: Sequence[str],
    labels: Sequence[str],
) -> dict[str, np.ndarray]:
    rows = {}
    if any(example.evidence for example in examples):
        found = [evidence_fraction([r], [e.evidence]) for r, e in zip(rationales, examples, strict=True)]
        rows["evidence_fraction"] = np.array([np.nan if one is None else one for one in found])
    if labels:
        naming = [rationale_names_label(r, y, labels) for r, y in zip(rationales, predicted, strict=True)]
        rows["label_agreement.names_label_fraction"] = np.array([float(one == "label") for one in naming])
        rows["label_agreement.names_other_only_fraction"] = np.array(
            [float(one == "other") for one in naming]
        )
    return rows


def _bertscore(
    rationales: Sequence[str], golds: Sequence[str], settings: EvaluationConfig
) -> tuple[dict[str, Any], np.ndarray]:
    asked = settings.bertscore
    assert asked is not None
    return bertscore_rows(
        rationales,
        golds,
        asked.model,
        asked.num_layers,
        rescale=asked.rescale,
        baseline_path=_baseline(asked),
        batch_size=asked.batch_size,
    )


def label_scores(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """The label metrics that validation follows, named `eval/...`; eval/collapsed is 1 for nearly one label only."""
    metrics = label_metrics(gold, predicted, labels)
    scores = {f"eval/{name}": float(metrics[name]) for name in ("macro_f1", "accuracy", "invalid_fraction")}
    return scores | {"eval/collapsed": float(metrics["collapsed"] is not None)}

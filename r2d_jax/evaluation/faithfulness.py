"""Whether a rationale gives the model's reason; in: a model, rows, rationales, out: figures, intervals, case lines."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from r2d_jax.config import EvaluationConfig
from r2d_jax.data.schema import Example
from r2d_jax.data.statements import STATEMENT_RULES
from r2d_jax.evaluation.ablation_outcomes import Measured, measure
from r2d_jax.evaluation.ablations import VARIANTS, Ablation, ablate, part_of
from r2d_jax.evaluation.citations import citations
from r2d_jax.evaluation.distinct_texts import distinct_figures
from r2d_jax.evaluation.intervals import Statistic, mean_of
from r2d_jax.evaluation.model_folder import LoadedModel
from r2d_jax.evaluation.predict import Prediction, Predictor, ScoreFn
from r2d_jax.evaluation.rationale_checks import Flip, flips_by_row
from r2d_jax.evaluation.scoring import Scores, with_gold_rationale
from r2d_jax.evaluation.support import Support
from r2d_jax.evaluation.support_rates import support_figures, support_statistics, supports

# Figure: the variants that are compared, cited and random.
_MEASURES = {
    "comprehensiveness": ("cited_removed", "random_removed"),
    "sufficiency": ("cited_kept", "random_kept"),
}
_FIGURES = ("cited", "random", "difference", "cited_change", "random_change", "change_difference")


def check_faithfulness(
    model: LoadedModel,
    predictor: Predictor,
    examples: Sequence[Example],
    predictions: Sequence[Prediction],
    rationale_source: str | None,
    settings: EvaluationConfig,
    *,
    flips: Sequence[Flip] = (),
    score_labels: ScoreFn | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> "Faithfulness":
    """Look whether the rationales of N predictions give the model's reasons.

    Args:
        model: weights and label set.
        predictor: of the same model.
        examples: N rows.
        predictions: of them, with rationales.
        rationale_source: gold rationales whose support is told beside; None: none.
        settings: faithfulness_rows and batch size; without rationale_checks no input is ablated.
        flips: rationales under other labels, told by case.
        score_labels: of the model's labels; None: only changes of the greedy label are told.
        check_stop: called between batches; may raise to stop.
    """
    rationales = [one.rationale for one in predictions]
    predicted = [one.label for one in predictions]
    rows = settings.faithfulness_rows if settings.rationale_checks else 0
    ablations = ablate(examples, rationales, predicted, predictor.encoder, rows=rows)
    measured = measure(
        predictor,
        model.params,
        ablations,
        settings.batch_size,
        labels=model.card.labels,
        score_labels=score_labels,
        check_stop=check_stop,
    )
    return faithfulness(
        examples, rationales, predicted, rationale_source, ablations, measured, flips, model.card.labels
    )


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """All that is told of the reasons of N rationales.

    Attributes:
        section: "faithfulness" of metrics.json.
        rows: figure by dotted name to float64 [N], nan where a row does not count; only what some row has.
        statistics: of resampled rows, by dotted name.
        lines: one for each row, of faithfulness.jsonl: figures and places, no text.
    """

    section: dict[str, Any]
    rows: dict[str, np.ndarray]
    statistics: dict[str, Statistic]
    lines: list[dict[str, Any]]

    def added_to(self, scores: Scores, resamples: int) -> Scores:
        """The scores with the section, its parts by row, and its intervals."""
        sections = {"faithfulness": self.section}
        return scores.plus(sections, self.rows, self.statistics, len(self.lines), resamples)


def faithfulness(
    examples: Sequence[Example],
    rationales: Sequence[str],
    predicted: Sequence[str],
    rationale_source: str | None,
    ablations: Sequence[Ablation],
    measured: Sequence[Measured],
    flips: Sequence[Flip],
    labels: Sequence[str],
) -> Faithfulness:
    """Figures, intervals and case lines.

    Args:
        examples: N rows.
        rationales: N generated texts.
        predicted: N predicted labels.
        rationale_source: gold rationales whose support is told beside; None: none.
        ablations: of some rows.
        measured: what the model says of their texts.
        flips: rationales under other labels, told by case.
        labels: the label set.

    Returns:
        Its section holds: rules (`STATEMENT_RULES`; a metrics.json without it is of 1); rows, compared_rows,
        nothing_cited_rows, all_cited_rows, probability_rows (counts); cited_words_fraction and
        random_words_fraction (mean shares of the words); comprehensiveness and sufficiency, each with cited,
        random and difference (mean drop of the probability of the label when these sentences are removed, or only
        these are left; None where there are no probabilities) and cited_change, random_change
        and change_difference (share of rows whose label changes); statements and gold_statements
        (`support_figures`); texts (`distinct_figures`; of the rows with a gold rationale, or of all where none has).
    """
    count = len(examples)
    own = supports(examples, rationales, predicted)
    rows = _rows(measured, count)
    section = {"rules": STATEMENT_RULES, **_counts(ablations, measured)} | {
        name: {figure: _mean(rows[f"faithfulness.{name}.{figure}"]) for figure in _FIGURES}
        for name in _MEASURES
    }
    section["statements"] = support_figures(own, rationales)
    section["gold_statements"] = None
    compared, gold = list(rationales), None
    if rationale_source is not None:
        there = with_gold_rationale(examples, rationale_source)
        with_gold = list(itertools.compress(examples, there))
        gold = [example.rationales[rationale_source] for example in with_gold]
        of_gold = supports(with_gold, gold, [example.label for example in with_gold])
        section["gold_statements"] = support_figures(of_gold, gold)
        if gold:
            compared = list(itertools.compress(rationales, there))
    section["texts"] = distinct_figures(compared, gold)
    told = {name: values for name, values in rows.items() if np.isfinite(values).any()}
    statistics: dict[str, Statistic] = {
        name: mean_of(values, share=name.endswith("_change")) for name, values in told.items()
    }
    statistics |= {
        f"faithfulness.statements.{name}": statistic
        for name, statistic in support_statistics(own, rationales).items()
    }
    lines = list(
        _lines(examples, rationales, predicted, own, ablations, measured, flips_by_row(flips, labels))
    )
    return Faithfulness(section, told, statistics, lines)


def _rows(measured: Sequence[Measured], count: int) -> dict[str, np.ndarray]:
    rows = {
        f"faithfulness.{name}.{figure}": np.full(count, np.nan) for name in _MEASURES for figure in _FIGURES
    }
    for one in measured:
        for name, (cited, drawn) in _MEASURES.items():
            drops, changes = (
                (value(cited), value(drawn), value(cited) - value(drawn)) for value in (one.drop, one.changed)
            )
            for figure, value in zip(_FIGURES, (*drops, *changes), strict=True):
                rows[f"faithfulness.{name}.{figure}"][one.row] = value
    return rows


def _mean(values: np.ndarray) -> float | None:
    counted = values[np.isfinite(values)]
    return float(counted.mean()) if counted.size else None


def _counts(ablations: Sequence[Ablation], measured: Sequence[Measured]) -> dict[str, Any]:
    compared = [one for one in ablations if one.texts]
    cited, drawn = (_mean(np.array([one.removed_words[place] for one in compared])) for place in (0, 1))
    nothing = sum(not one.found.cited for one in ablations)
    return {
        "rows": len(ablations),
        "compared_rows": len(compared),
        "nothing_cited_rows": nothing,
        "all_cited_rows": len(ablations) - len(compared) - nothing,
        "probability_rows": sum(bool(np.isfinite(one.probabilities).all()) for one in measured),
        "cited_words_fraction": cited,
        "random_words_fraction": drawn,
    }


def _lines(
    examples: Sequence[Example],
    rationales: Sequence[str],
    predicted: Sequence[str],
    own: Sequence[Support],
    ablations: Sequence[Ablation],
    measured: Sequence[Measured],
    flips: Mapping[int, Mapping[str, float]],
) -> Iterator[dict[str, Any]]:
    ablated = {one.row: one for one in ablations}
    said = {one.row: one for one in measured}
    for row, example in enumerate(examples):
        part = part_of(example)
        one = ablated.get(row) or Ablation(
            row, len(part.head), citations(rationales[row], part.text, [predicted[row]])
        )
        yield {
            "id": example.row_id,
            "sentences": len(one.found.sentences),
            "cited": [list(place) for place in one.cited],
            "numbers": own[row].numbers,
            "findings": own[row].findings,
            "unsupported": [
                {"start": bad.span[0], "end": bad.span[1], "kind": bad.kind, "contradicted": bad.contradicted}
                for bad in own[row].unsupported
            ],
            "ablation": _told(said[row]) if row in said else None,
            "label_flip": dict(flips[row]) if row in flips else None,
        }


def _told(measured: Measured) -> dict[str, Any]:
    """The probability of the label in each variant, null where it is not known, and which variants change it."""
    return {
        "probability": {
            variant: round(float(value), 6) if np.isfinite(value) else None
            for variant, value in zip(VARIANTS, measured.probabilities, strict=True)
        },
        "label_changes": {variant: bool(measured.changed(variant)) for variant in VARIANTS[1:]},
    }

"""Every figure that is shown; in: metrics.json, out: figures of it, how each is called and written, and where."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal


def rounded(value: float, digits: int, most: float = math.inf) -> str:
    """A number as text; one above 0 is never told as 0.000, nor one below the highest there can be as that.

    Args:
        value: of a figure.
        digits: after the point.
        most: the highest value there can be.
    """
    text, step = f"{value:.{digits}f}", 10.0**-digits
    if value > 0 and float(text) == 0:
        return f"< {step:.{digits}f}"
    return f"> {most - step:.{digits}f}" if value < most == float(text) else text


def percent(fraction: float) -> str:
    """A share as text, as `rounded` has it."""
    return f"{rounded(100 * fraction, 1, 100)} %"


def _score(value: float) -> str:
    return rounded(value, 3, 1)


@dataclasses.dataclass(frozen=True)
class Unit:
    """How figures of one kind are written.

    Attributes:
        text: in the printed table and the model card.
        digits: after the point, in a report.
        scale: factor in a comparison of methods.
        scaled_digits: after the point there.
        most: the highest value there can be.
    """

    text: Callable[[float], str] = "{:.3f}".format
    digits: int = 3
    scale: float = 100.0
    scaled_digits: int = 1
    most: float = 1.0


SHARE, SCORE = Unit(percent), Unit(_score)
INDEX = Unit(scale=1.0, scaled_digits=3)
LOSS = Unit(scale=1.0, scaled_digits=3, most=math.inf)
BLEU = Unit("{:.1f}".format, digits=1, scale=1.0, most=100.0)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure, and where it is shown: by a heading of that place, by its title (True) or not (False).

    Attributes:
        name: where it stands in metrics.json, dotted; also the name of its interval and of its row scores.
        title: as shown where there is room.
        unit: how it is written.
        up: higher is better.
        printed: in the printed table and the model card, by its title.
        if_set: there only where it is not 0.
        report: among the main figures of `r2d report`.
        compared: in the table of `r2d compare`.
        tested: there also tested against the reference.
        groups: told of each subgroup.
        gold: name of the same figure of the gold rationales, beside which it is read; "": there is none.
        hub: its metric's name on the Hub, which then has it as a result of the model; "": it has none.
    """

    name: str
    title: str
    unit: Unit = SHARE
    up: bool = True
    printed: bool = True
    if_set: bool = False
    report: str | bool = False
    compared: str | bool = False
    tested: bool = False
    groups: str | bool = False
    gold: str = ""
    hub: str = ""


LABEL_FIGURES = (
    Figure(
        "accuracy", "accuracy", SCORE, report=True, compared=True, tested=True, groups=True, hub="accuracy"
    ),
    Figure("macro_f1", "macro-F1", SCORE, report=True, compared=True, tested=True, groups=True, hub="f1"),
    Figure("macro_f1_published", "macro-F1, published definition", SCORE),
    Figure(
        "invalid_fraction",
        "outputs that are no label",
        up=False,
        report=True,
        compared="no label",
        groups="no label",
    ),
    Figure("empty_fraction", "outputs that are empty", up=False, if_set=True),
    Figure(
        "triage.under_fraction",
        "under-triage",
        up=False,
        report=True,
        compared=True,
        tested=True,
        groups=True,
    ),
    Figure(
        "triage.under_many_fraction",
        "under-triage by 2 levels or more",
        up=False,
        groups="under-triage by two levels or more",
    ),
    Figure("triage.over_fraction", "over-triage", up=False, report=True, compared=True, groups=True),
    Figure(
        "triage.quadratic_kappa",
        "kappa, quadratic weights",
        INDEX,
        report="weighted kappa",
        compared="weighted kappa",
        groups="weighted kappa",
    ),
    Figure(
        "triage.expected_cost",
        "expected cost",
        LOSS,
        up=False,
        report=True,
        compared="cost",
        tested=True,
        groups=True,
    ),
    Figure("triage.rules.argmax.expected_cost", "expected cost, most probable label", LOSS, up=False),
    Figure(
        "triage.rules.least_cost.expected_cost",
        "expected cost, label of least cost",
        LOSS,
        up=False,
        compared="cost by least-cost rule",
        groups="cost, least-cost rule",
    ),
    Figure(
        "triage.rules.least_cost.under_fraction",
        "under-triage, label of least cost",
        up=False,
        groups="under-triage, least-cost rule",
    ),
    Figure(
        "expected_calibration_error", "ECE of label_confidence", INDEX, up=False, printed=False, report=True
    ),
    Figure("calibration.before.ece", "ECE of probabilities", INDEX, up=False),
    Figure(
        "calibration.after.ece", "ECE of probabilities, scaled", INDEX, up=False, report=True, compared="ECE"
    ),
    Figure("calibration.after.brier", "Brier score", LOSS, up=False, printed=False, compared=True),
    Figure(
        "abstention.aurc", "area under risk and coverage", INDEX, up=False, report="AURC", compared="AURC"
    ),
    Figure("abstention.coverage", "rows answered"),
    Figure("abstention.risk", "wrong among the answered", up=False),
)


def _statements(name: str, title: str) -> tuple[Figure, Figure]:
    """A figure of what rationales state, and beside it that of the gold rationales, without which it says little."""
    own, gold = (f"faithfulness.{part}.{name}" for part in ("statements", "gold_statements"))
    return (
        Figure(own, title, up=False, compared=True, gold=gold),
        Figure(gold, f"{title}, gold", up=False, compared=True),
    )


RATIONALE_FIGURES = (
    Figure("bleu.corpus", "BLEU of the corpus", BLEU, report=True, compared="BLEU", hub="sacrebleu"),
    Figure("bleu.mean_sentence", "BLEU, mean of rows", BLEU),
    Figure("rouge_l", "ROUGE-L", SCORE, report=True, compared=True, tested=True, hub="rouge"),
    Figure("bertscore.f1", "BERTScore F1", SCORE, report=True, compared="BERTScore", hub="bertscore"),
    Figure(
        "evidence_fraction",
        "rationales that name the evidence",
        report=True,
        compared="names evidence",
        tested=True,
    ),
    Figure(
        "label_agreement.names_label_fraction",
        "rationales that name their label",
        report=True,
        compared="names label",
    ),
    Figure("label_agreement.names_other_only_fraction", "rationales that name only another", up=False),
    Figure(
        "faithfulness.texts.distinct_fraction",
        "distinct rationales",
        compared="distinct",
        gold="faithfulness.texts.gold_distinct_fraction",
    ),
    Figure(
        "faithfulness.texts.gold_distinct_fraction", "distinct rationales, gold", compared="distinct, gold"
    ),
    Figure("consistency_fraction", "consistency", report=True, compared=True, tested=True),
    Figure("sufficiency_fraction", "sufficiency", report=True, compared=True),
    Figure("gold_robustness_fraction", "gold robustness", report=True, compared=True),
    Figure("label_flip.changed_fraction", "flipped label: text changes"),
    Figure("label_flip.names_given_fraction", "flipped label: text names it", compared="flip names label"),
    Figure("label_flip.names_other_fraction", "flipped label: names only another", up=False),
    Figure("label_flip.label_follows_fraction", "flipped label: read back", report=True),
    Figure("faithfulness.comprehensiveness.difference", "cited input out, beyond random", INDEX),
    Figure("faithfulness.sufficiency.difference", "cited input alone, beyond random", INDEX, up=False),
    Figure("faithfulness.comprehensiveness.cited_change", "cited input out: label changes"),
    Figure("faithfulness.comprehensiveness.random_change", "random input out: label changes", up=False),
    *_statements("unsupported_numbers_fraction", "unsupported numbers"),
    *_statements("unsupported_findings_fraction", "unsupported findings"),
    *_statements("contradicted_findings_fraction", "contradicted findings"),
    Figure("label_limit_fraction", "labels cut at the length limit", up=False),
    Figure("rationale_limit_fraction", "rationales cut at the length limit", up=False),
)
FIGURES = LABEL_FIGURES + RATIONALE_FIGURES


def headings(place: Literal["report", "compared", "groups"]) -> dict[Figure, str]:
    """The figures of a place with their headings there; macro-F1, by which models are chosen, leads."""
    told = {figure: getattr(figure, place) for figure in FIGURES}
    leading = sorted(FIGURES, key=lambda figure: figure.name != "macro_f1")
    return {
        figure: figure.title if told[figure] is True else told[figure] for figure in leading if told[figure]
    }


def class_scores(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Precision, recall and F1 of one label of `per_class`; None where its rows could give none.

    metrics.json has 0 there, as scikit-learn has it. Without predicted rows there is no precision, and without gold
    rows no recall; F1 is then 0 whatever the model does.
    """
    without = {
        "precision": row.get("predicted") == 0,
        "recall": row["support"] == 0,
        "f1": row["support"] == 0,
    }
    return {name: None if without[name] else row[name] for name in without}


def class_texts(row: Mapping[str, Any]) -> list[str]:
    """The texts of `class_scores`, in its order."""
    return ["\N{EN DASH}" if score is None else SCORE.text(score) for score in class_scores(row).values()]


def title_of(figure: Figure, metrics: Mapping[str, Any], scorer: str = "") -> str:
    """The title of a figure of one evaluation, with what its value depends on.

    Args:
        figure: that the metrics have.
        metrics: of metrics.json.
        scorer: how the model of BERTScore is called; "": it is told elsewhere.
    """
    if figure.name != "bertscore.f1":
        return figure.title
    rescaled = ", rescaled" if metrics["bertscore"]["rescaled"] else ""
    return figure.title + (f" of {scorer}" if scorer else "") + rescaled


def figure_at(metrics: Mapping[str, Any], name: str) -> float | None:
    """The figure at a dotted name of metrics.json; None where it was not computed."""
    value: Any = metrics
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value

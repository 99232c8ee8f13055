"""What a user sees of an evaluation; in: metrics, and cases with their text, out: tables on the console."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from r2d_jax.data.mentions import fold_white_space
from r2d_jax.evaluation.distinct_texts import repetition_of
from r2d_jax.evaluation.figures import FIGURES, class_texts, figure_at, percent, title_of
from r2d_jax.evaluation.fitted_rows import fitted_rows_told, overlap_warning

_MAX_CLASSES = 30
# An escape sequence in a case text must not move the cursor or recolour the user's terminal.
_CONTROL = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


@dataclasses.dataclass(frozen=True)
class WorkedCase:
    """One row with its text, for a user who asked to see it.

    Attributes:
        text: the input as the user wrote it.
        gold_label: "" where the row has none; then nothing is marked right or wrong.
        predicted_label: as generated.
        rationale: as generated.
        gold_rationale: "" where the row has none.
    """

    text: str
    gold_label: str
    predicted_label: str
    rationale: str
    gold_rationale: str


def _text(text: str, style: str = "") -> Text:
    # A Text is never read as markup or emoji codes, which a plain string would be.
    return Text(text.translate(_CONTROL), style=style, overflow="fold")


def result_lines(metrics: Mapping[str, Any], scorer: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Title, value, interval and the majority class's value; figures that were not computed have no line.

    Args:
        metrics: of metrics.json.
        scorer: as of `title_of`.
    """
    intervals, majority = metrics.get("intervals", {}), metrics.get("majority_class", {})
    for figure in FIGURES:
        value = figure_at(metrics, figure.name) if figure.printed else None
        if value is None or (figure.if_set and not value):
            continue
        text = figure.unit.text
        bounds = " to ".join(map(text, intervals.get(figure.name, ()))).replace(" % to", " to")
        other = text(majority[figure.name]) if figure.name in majority else ""
        yield title_of(figure, metrics, scorer), text(value), bounds, other


def _warnings(metrics: Mapping[str, Any]) -> Iterator[str]:
    if label := metrics.get("collapsed"):
        share = metrics["per_class"][label]["predicted"] / _scored_rows(metrics)
        yield f"the model gives nearly one label only: {label!r} in {percent(share)} of rows"
    if outside := metrics.get("labels_outside_set"):
        # Not named here: with a wrong label column they would be case text.
        yield f"{len(outside)} gold labels are none of the model's; their rows can only be wrong"
    if (triage := metrics.get("triage")) and triage["rows_outside_order"]:
        yield f"{triage['rows_outside_order']} rows have a gold label without a level; no triage figure counts them"
    if (abstention := metrics.get("abstention")) and abstention["target_risk"] is not None:
        target = percent(abstention["target_risk"])
        if abstention["threshold"] is None:
            told = fitted_rows_told(metrics.get("calibration") or {})
            yield f"no threshold reached the target of {target} wrong on {told}, so no row is answered"
        elif (risk := abstention["risk"]) is not None and risk > abstention["target_risk"]:
            yield f"{percent(risk)} of the answered rows are wrong, more than the target of {target}"
    if text := overlap_warning(metrics):
        yield text
    if (bleu := metrics.get("bleu")) and bleu["empty_predictions"]:
        yield f"{bleu['empty_predictions']} of {bleu['rows']} rationales are empty; each scores 0"
    if (read := metrics.get("read_back_cut")) and any(read.values()):
        yield (
            f"consistency, sufficiency and gold robustness: {read['rationales']} rationales and "
            f"{read['gold_rationales']} gold ones are over the input limit, and were read without their end"
        )
    if text := repetition_of(metrics):
        yield text
    if score := metrics.get("bertscore"):
        cut = score["truncated_predictions"], score["truncated_references"]
        if any(cut):
            yield f"BERTScore cut {cut[0]} rationales and {cut[1]} references at {score['max_tokens']} tokens"


def _scored_rows(metrics: Mapping[str, Any]) -> int:
    return int(sum(row["support"] for row in metrics["per_class"].values()))


def plain_table(title: str | None, *numbers: str, names: int = 1) -> Table:
    """An empty table as all that are printed look.

    Args:
        title: above it.
        numbers: headings of the columns of numbers, which are never broken.
        names: columns of names before them.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for _ in range(names):
        table.add_column("", overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _class_table(metrics: Mapping[str, Any]) -> Table:
    per_class = metrics["per_class"]
    shown = sorted(per_class, key=lambda label: -per_class[label]["support"])[:_MAX_CLASSES]
    title = (
        "By label"
        if len(shown) == len(per_class)
        else f"The {len(shown)} most common of {len(per_class)} labels"
    )
    table = plain_table(title, "gold rows", "predicted", "precision", "recall", "F1")
    for label in (label for label in per_class if label in set(shown)):
        row = per_class[label]
        table.add_row(_text(label), str(row["support"]), str(row["predicted"]), *class_texts(row))
    if invalid := _scored_rows(metrics) - sum(row["predicted"] for row in per_class.values()):
        table.add_row("(no label)", "", str(invalid))
    return table


def figure_notes(metrics: Mapping[str, Any]) -> Iterator[str]:
    """What the figures mean and over how many rows they are; names no label, text or path.

    Args:
        metrics: of metrics.json.
    """
    if triage := metrics.get("triage"):
        yield (
            f"under-triage: predicted less urgent than gold; cost: {triage['costs']}, an output that is no label "
            "costs as much as the worst one"
        )
    if groups := metrics.get("groups"):
        yield f"intervals: over {groups} groups, whose rows are drawn together, of {metrics['rows']} rows"
    if probabilities := metrics.get("calibration"):
        scaled = "as the model has them, not calibrated"
        if probabilities["temperature"] is not None:
            scaled = f"temperature {probabilities['temperature']:.3f} of {fitted_rows_told(probabilities)}"
        yield f"probabilities: over {probabilities['labels']} labels; {scaled}"
    if bleu := metrics.get("bleu"):
        yield f"BLEU: sacrebleu {bleu['signature']}"
        if bleu["rows"] < (metrics.get("rows") or 0):
            yield f"figures that compare rationales: over the {bleu['rows']} rows that have a gold one"
    if "consistency_fraction" in metrics:
        yield (
            "consistency, sufficiency: label read back from the rationale alone is the predicted, the gold one; "
            "gold robustness: label read from the gold rationale is the gold one"
        )
    if flips := metrics.get("label_flip"):
        yield (
            f"flipped label: rationales of {flips['rows']} rows written under {flips['flips']} labels that were "
            "not predicted"
        )
    if (reasons := metrics.get("faithfulness")) and reasons["rows"]:
        compared = reasons["compared_rows"]
        scored = reasons.get("probability_rows", compared)
        yield (
            f"cited input: {compared} of {reasons['rows']} rows without the sentences that the "
            f"rationale cites, and without as many random ones; {reasons['nothing_cited_rows']} rationales cite none"
            + (f"; probabilities over {scored} of the {compared}" if scored < compared else "")
        )
    if figure_at(metrics, "faithfulness.gold_statements.unsupported_findings_fraction") is not None:
        yield (
            "unsupported, contradicted: what rationales say and their input does not, or denies; general knowledge is "
            "in no input either, so read each beside the gold rationales'"
        )


def _notes(metrics: Mapping[str, Any]) -> Iterator[str]:
    """What the figures mean, and the settings without which they could not be compared."""
    if model := metrics.get("model"):
        yield f"model: {model}"
    if "majority_class" in metrics:
        yield f"majority class: {metrics['majority_class']['label']}"
        labels = len(metrics["macro_f1_labels"])
        yield f"macro-F1: over {labels} labels with gold rows; an output that is no label is wrong"
    yield from figure_notes(metrics)
    if "subgroups" in metrics:
        yield "subgroups: figures of each group and the worst ones are in metrics.json"
    if score := metrics.get("bertscore"):
        yield f"BERTScore: {score['model']}, layer {score['num_layers']}, {score['version']}"


def print_results(metrics: Mapping[str, Any], console: Console) -> None:
    """Print the figures of one evaluation, the labels one by one, and what deserves a warning.

    Args:
        metrics: what `label_metrics` returns, with any of rows, model, bleu, bertscore, evidence_fraction,
            label_agreement, label_limit_fraction and rationale_limit_fraction beside it.
        console: where to print; labels are printed, case text never is.
    """
    rows = metrics["rows"] if "rows" in metrics else _scored_rows(metrics)
    table = plain_table(f"Results on {rows} rows", "model", "95 % interval", "majority class")
    for line in result_lines(metrics):
        table.add_row(*line)
    console.print(table, "")
    for note in _notes(metrics):
        console.print(_text(note, "dim"))
    if "per_class" in metrics:
        console.print("", _class_table(metrics), "", sep="\n")
    for warning in _warnings(metrics):
        console.print(_text(f"warning: {warning}", "yellow"))


def print_worked_examples(cases: Sequence[WorkedCase], console: Console) -> None:
    """Print cases WITH THEIR TEXT, whole: input, gold and predicted label, generated and gold rationale.

    Args:
        cases: what to show, in order.
        console: where to print.
    """
    arrow = "->" if console.options.ascii_only else "\N{RIGHTWARDS ARROW}"
    for number, case in enumerate(cases, 1):
        title = f"Case {number} of {len(cases)}"
        grid = Table.grid(padding=(0, 2), expand=False)
        grid.add_column(no_wrap=True, style="bold")
        grid.add_column(overflow="fold")
        grid.add_row("input", _text(case.text))
        grid.add_row("label", _label_line(case, arrow))
        grid.add_row("rationale", _text(case.rationale or "(empty)"))
        if case.gold_rationale:
            grid.add_row("gold rationale", _text(case.gold_rationale))
        console.print(Text(title, style="bold underline"))
        console.print(Padding(grid, (0, 0, 1, 0)))


def _label_line(case: WorkedCase, arrow: str) -> Text:
    predicted = case.predicted_label or "(empty)"
    if not case.gold_label:
        return _text(predicted)
    right = fold_white_space(case.gold_label) == fold_white_space(case.predicted_label)
    line = _text(f"{case.gold_label} {arrow} {predicted}  ")
    return line.append("right" if right else "wrong", style="green" if right else "red")

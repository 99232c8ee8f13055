"""What a report tells of each run; in: RunRecords, out: rows of tables, warnings and which curves to draw."""

import json
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from r2d_jax.errors import UserError
from r2d_jax.evaluation.case_table import row_sets, short
from r2d_jax.evaluation.distinct_texts import repetition_of
from r2d_jax.evaluation.figures import INDEX, Figure, Unit, figure_at, headings, rounded
from r2d_jax.evaluation.fitted_rows import overlap_warning
from r2d_jax.evaluation.report_labels import LabelNames, calibration, confidences
from r2d_jax.evaluation.run_record import RunRecord, StageRecord, is_number
from r2d_jax.runtime.run_files import EVALUATION_METRICS

_PLAIN_NAME = re.compile(r"[a-z0-9_]{1,60}")
_SHOWN_ELSEWHERE = ("per_class", "confusion", "intervals", "subgroups")

Section = TypeVar("Section", bound=BaseModel)
Scored = tuple[float, tuple[float, float] | None]
"""A figure, and its interval where the run states one."""


MAIN_FIGURES = headings("report")
"""The main figures with their headings."""
_ECE = "expected_calibration_error"


class Panel(NamedTuple):
    """One plot of training.

    Attributes:
        title: above it.
        stage: 1 or 2.
        curves: name in metrics.jsonl, name in the legend, and style as in `plots.Line`.
        fraction: the values are 0 to 1.
        note: below it.
    """

    title: str
    stage: int
    curves: tuple[tuple[str, str, str], ...]
    fraction: bool = False
    note: str = ""


def _losses(name: str) -> tuple[tuple[str, str, str], ...]:
    return ((f"train/{name}", "train", "thin"), (f"eval/{name}", "validation", "marked"))


PANELS = (
    Panel("Stage 1: rationale loss", 1, _losses("rationale_loss")),
    Panel("Stage 2: label loss", 2, _losses("label_loss")),
    Panel("Stage 2: rationale loss", 2, _losses("rationale_loss")),
    Panel("Stage 2: validation macro-F1", 2, (("eval/macro_f1", "validation", "marked"),), True),
    Panel(
        "Stage 2: weight of the label loss",
        2,
        (("train/label_weight", "\N{GREEK SMALL LETTER ALPHA}", "dashed"),),
        True,
        "\N{GREEK SMALL LETTER ALPHA} of the loss; the rationale loss has the rest.",
    ),
    Panel(
        "Stage 2: scheduled sampling",
        2,
        (
            ("train/sampling_probability", "probability \N{GREEK SMALL LETTER PI}", "dashed"),
            ("train/sampled_fraction", "realised share", "thin"),
        ),
        True,
        "Rows whose rationale prompt holds the model's own label instead of the gold one.",
    ),
    Panel(
        "Stage 2: confidence of labels (R2D-C)",
        2,
        (
            ("train/confidence", "mean", "thin"),
            ("train/tau", "threshold \N{GREEK SMALL LETTER TAU}", "dashed"),
        ),
        True,
        "Of the labels decoded in training; one above the threshold is likelier to be used.",
    ),
    Panel(
        "Stage 2: cycle loss (R2D-C)",
        2,
        (("train/cycle_loss", "train", "thin"),),
        note="Of reading the given label back from the generated rationale.",
    ),
)


def main_figures(run: RunRecord) -> dict[str, Scored]:
    """The main figures that a run has, by name."""
    names = (figure.name for figure in MAIN_FIGURES)
    found = {name: there for name in names if (there := scored_figure(run.metrics, name)) is not None}
    if _ECE not in found and (scored := confidences(run))[0]:
        found[_ECE] = (calibration(*scored)[1], None)
    return found


def scored_figure(metrics: Mapping[str, Any], name: str) -> Scored | None:
    """The figure at a dotted name of a run's metrics.json; None where it has none."""
    value = figure_at(metrics, name)
    return (float(value), _interval(metrics, name)) if is_number(value) else None


def _interval(metrics: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    stated = metrics.get("intervals")
    pair = stated.get(name) if isinstance(stated, Mapping) else None
    if isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)):
        return float(pair[0]), float(pair[1])
    return None


def section(run: RunRecord, name: str, form: type[Section]) -> Section:
    """A section of a run's metrics.json.

    Raises:
        UserError: it is not there, or damaged.
    """
    try:
        return form.model_validate(run.metrics.get(name))
    except ValidationError as error:
        # The error quotes what it found.
        raise UserError(
            str(run.path / "evaluation" / EVALUATION_METRICS),
            f"is damaged ({name})",
            "Evaluate the run again.",
        ) from error


def all_figures(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Every number of metrics.json by its dotted name, for each run; but not those by label, shown elsewhere."""
    flat = [
        dict(_numbers(run.metrics, set(map(str, run.metrics.get("labels_outside_set", ()))))) for run in runs
    ]
    names = list(dict.fromkeys(name for numbers in flat for name in numbers))
    return [
        (name, [f"{numbers[name]:.6g}" if name in numbers else "\N{EN DASH}" for numbers in flat])
        for name in names
    ]


def _numbers(
    values: Mapping[str, Any], hidden: Collection[str], prefix: str = ""
) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        # A gold label outside the set may be case text, and so may what is no plain name.
        if key in _SHOWN_ELSEWHERE or key in hidden or not _PLAIN_NAME.fullmatch(key):
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, hidden, f"{prefix}{key}.")
        elif is_number(value):
            yield f"{prefix}{key}", value


def cell(scored: Scored | None, unit: Unit = INDEX) -> dict[str, str]:
    """The texts of one cell of a table of figures."""
    if scored is None:
        return {"value": "\N{EN DASH}", "interval": ""}
    value, interval = scored
    told, *ends = (rounded(number, unit.digits, unit.most) for number in (value, *(interval or ())))
    return {"value": told, "interval": " to ".join(ends)}


def majority_rows(
    runs: Sequence[RunRecord], columns: Sequence[Figure]
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """What always giving the most common gold label would reach, once for runs with the same test rows."""
    for numbers in row_sets(runs):
        scores = next(
            (
                run.metrics["majority_class"]
                for n in numbers
                if (run := runs[n]).metrics.get("majority_class")
            ),
            None,
        )
        if scores is not None:
            yield (
                "the most common label, always",
                [cell(scored_figure(scores, figure.name), figure.unit) for figure in columns],
            )


def run_summary(run: RunRecord) -> dict[str, Any]:
    """What the table of runs tells of one run; all texts."""
    settings = run.settings
    rows = run.metrics.get("rows", len(run.predictions))
    triage = settings.get("data.source") == "triage"
    data = settings.get("data.path") or settings.get("data.train_path") or ""
    made = [f"{settings.get(f'data.triage.{name}_rows')} {name}" for name in ("train", "validation", "test")]
    return {
        "state": "unfinished" if run.missing else "finished",
        "seed": short(settings.get("seed", "\N{EN DASH}")),
        "labels": str(len(run.labels) or "\N{EN DASH}"),
        "test_rows": str(rows or "\N{EN DASH}"),
        # Where the folders of data differ, the table of settings shows them.
        "data": "synthetic triage notes, " + ", ".join(made)
        if triage
        else short(pathlib.PurePath(str(data)).name),
        "stages": [stage_summary(stage) for stage in run.stages],
        "evaluated": _evaluated(run),
    }


def stage_summary(stage: StageRecord, used: int | None = None) -> str:
    """How far a stage came, and which checkpoint was chosen.

    Args:
        stage: what it logged.
        used: step of the checkpoint that is spoken of; where it is not the chosen one both are named, and no score.
            None: the chosen one.
    """
    if not stage.last_step:
        return "\N{EN DASH}"
    name = "eval/rationale_loss" if stage.number == 1 else "eval/macro_f1"
    score = stage.value_at(name, stage.best_step)
    steps = f"{stage.last_step} of {stage.max_steps or 'unknown'} steps"
    if stage.done and stage.last_step < stage.max_steps:
        steps += ", stopped early"
    other = "" if used in (None, stage.best_step) else f"; this is step {used}"
    if stage.best_step is None:
        return f"{steps}; no checkpoint chosen yet{other}"
    kind = "loss" if stage.number == 1 else "macro-F1"
    told = f" (validation {kind} {score:.3f})" if score is not None and not other else ""
    return f"{steps}; {'chosen' if stage.done else 'best so far'}: step {stage.best_step}{told}{other}"


def _evaluated(run: RunRecord) -> str:
    found = re.search(r"(stage\d)/(best|latest)/(\d+)$", str(run.metrics.get("model", "")).replace("\\", "/"))
    return f"{found[1]}, {found[2]}, step {found[3]}" if found else "\N{EN DASH}"


def collapse_of(run: RunRecord, named: Callable[[str], str] | None = None) -> str:
    """That a run gives nearly one label only, in words; "" where it does not.

    Args:
        run: what it wrote.
        named: how a label is shown; None: as on the pages of `r2d report`.
    """
    label = run.metrics.get("collapsed")
    if not label:
        return ""
    row = run.metrics.get("per_class", {}).get(label, {})
    rows = run.metrics.get("rows") or len(run.predictions) or 1
    share = f", in {100 * row['predicted'] / rows:.1f} % of rows" if "predicted" in row else ""
    return f"The model has collapsed: it gives nearly one label only ({(named or LabelNames(run))(label)}{share})."


def warnings_of(run: RunRecord, named: Callable[[str], str] | None = None) -> Iterator[str]:
    """What a reader must know before trusting the figures of a run.

    Args:
        run: what it wrote.
        named: as of `collapse_of`.
    """
    if run.missing:
        yield "Unfinished: " + "; ".join(run.missing) + "."
    if text := collapse_of(run, named):
        yield text
    if text := repetition_of(run.metrics):
        yield f"{text[0].upper()}{text[1:]}."
    if text := overlap_warning(run.metrics):
        yield f"{text[0].upper()}{text[1:]}."
    if outside := run.metrics.get("labels_outside_set"):
        yield f"{len(outside)} gold labels are none of the model's; their rows can only be wrong."
    if run.recalibrated:
        yield (
            "Calibrated again since its evaluation: figures of probabilities and of abstention are left out, for they "
            "were of the earlier calibration. `r2d eval`, with the run's own folder evaluation as output and "
            "--overwrite, measures them again."
        )
    chosen = run.stages[1].best_step
    evaluated = re.search(r"stage2/(?:best|latest)/(\d+)$", str(run.metrics.get("model", "")))
    if evaluated and chosen is not None and int(evaluated[1]) != chosen:
        yield f"Evaluated at step {evaluated[1]} of stage 2, but step {chosen} is the chosen checkpoint."


def setting_differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with the value of each run."""
    names = sorted({name for run in runs for name in run.settings})
    told = {name: [_told(run.settings, name) for run in runs] for name in names}
    return [(short(name), texts) for name, texts in told.items() if len(set(texts)) > 1]


def _told(settings: Mapping[str, Any], name: str) -> str:
    return (
        short(json.dumps(settings[name], ensure_ascii=False, default=str), 200)
        if name in settings
        else "(not set)"
    )

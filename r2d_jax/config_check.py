"""How settings fit together; in: a Config, out: its stages and rationale sources, or a UserError."""

import difflib
import itertools
import math
from collections.abc import Iterable

from r2d_jax.config import ColumnsConfig, Config, DataConfig, StageConfig, TriageScoringConfig
from r2d_jax.errors import UserError
from r2d_jax.methods import METHODS

TRIAGE_SOURCES = ("llm", "nurse", "nurse_polished")
TRIAGE_COSTS = ("linear", "quadratic", "linear_under_x3", "quadratic_under_x3")
# Names that an error lists.
_MAX_LISTED = 20


def rationale_sources(config: Config) -> tuple[str, ...]:
    """Rationale sources that the rows of a config have."""
    return TRIAGE_SOURCES if config.data.source == "triage" else tuple(config.data.columns.rationales)


def rationale_source(config: Config, stage: StageConfig) -> str | None:
    """The rationale source of a stage: the configured one, or the first there is; None: labels only."""
    return stage.rationale_source or next(iter(rationale_sources(config)), None)


def stage_configs(config: Config) -> dict[int, StageConfig]:
    """The stages that a run has by number, in order; the baselines have the second alone."""
    first = {1: config.stage1} if METHODS[config.method].two_stages and config.stage1.enabled else {}
    return {**first, 2: config.stage2}


def used_sources(config: Config) -> tuple[str, ...]:
    """Rationale sources that the rows of a run must have, each once."""
    names = [rationale_source(config, stage) for stage in stage_configs(config).values()]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def check_config(config: Config) -> None:
    """Check how settings fit together.

    Raises:
        UserError: names the setting and what fits.
    """
    for number, stage in stage_configs(config).items():
        _check_stage(f"stage{number}", stage, config)
    second = config.stage2
    too_long = second.warmup_fraction + second.transition_fraction > 1
    if METHODS[config.method].two_stages and too_long and not second.select_before_transition:
        raise UserError(
            "stage2.transition_fraction",
            f"warm-up {second.warmup_fraction} and transition {second.transition_fraction} exceed the stage, so no "
            "evaluation could be selected",
            "Lower one of them, or set stage2.select_before_transition=true.",
        )
    adapts = second.adaptive_sampling and second.max_sampling_probability > 0
    if METHODS[config.method].adaptive and adapts and second.warmup_fraction == 0:
        raise UserError(
            "stage2.warmup_fraction",
            "0 leaves no warm-up, from which tau takes its first value",
            "Use for example 0.05, or set stage2.adaptive_sampling=false.",
        )
    _check_data(config.data, needs_rationales=METHODS[config.method].explains)
    _check_subgroups(config.data.columns)
    if config.evaluation.triage is not None:
        _check_triage(config.evaluation.triage)


def _check_data(data: DataConfig, *, needs_rationales: bool) -> None:
    by_split = {"train": data.train_path, "validation": data.validation_path, "test": data.test_path}
    named = [name for name, path in by_split.items() if path]
    if data.source == "triage" and (data.path or named):
        # Else a run meant for the user's rows would quietly train on synthetic ones.
        field = "data.path" if data.path else f"data.{named[0]}_path"
        raise UserError(
            field, "a file is named beside data.source=triage", "Set data.source=files, or name no file."
        )
    if data.source == "files" and not (data.path or data.train_path):
        raise UserError(
            "data", "no file is named", "Set data.path or data.train_path, or data.source=triage."
        )
    if data.path and named:
        raise UserError(
            "data.path", "is set beside files by split", "Use either; data.path=null drops that of a config."
        )
    if not data.columns.rationales and needs_rationales:
        raise UserError(
            "data.columns.rationales",
            "names no column",
            "Give one at least, as {default: rationale}, or set method=sft.",
        )
    shares = data.triage.class_shares
    # A sum that is not finite has a share that is not.
    if len(shares) != 5 or min(shares) < 0 or not 0 < sum(shares) < math.inf:
        raise UserError(
            "data.triage.class_shares", f"{list(shares)} are not five shares", "Give five numbers >= 0."
        )
    if len(set(data.split_values.values())) < len(data.split_values):
        raise UserError("data.split_values", "two splits have the same value", "Give each its own.")


def _check_subgroups(columns: ColumnsConfig) -> None:
    if blank := [name for name, column in columns.subgroups.items() if not (name.strip() and column.strip())]:
        raise UserError(
            "data.columns.subgroups", f"{blank[0]!r} has no name or no column", "Write {sex: COLUMN}."
        )
    for name, edges in columns.subgroup_edges.items():
        where = f"data.columns.subgroup_edges.{name}"
        if name not in columns.subgroups:
            raise UserError(where, "is not a subgroup", nearest(name, columns.subgroups))
        finite = all(map(math.isfinite, edges))
        if not edges or not finite or any(low >= high for low, high in itertools.pairwise(edges)):
            raise UserError(where, f"{list(edges)} are not rising numbers", "Write for example [18, 65].")


def _check_triage(triage: TriageScoringConfig) -> None:
    where, order, costs = "evaluation.triage", triage.order, triage.costs
    if len(order) < 2 or len(set(order)) < len(order) or not all(label.strip() for label in order):
        raise UserError(f"{where}.order", "has to name two labels or more, each once", "Correct the list.")
    if isinstance(costs, str):
        if costs not in TRIAGE_COSTS:
            raise UserError(f"{where}.costs", f"{costs!r} is not known", nearest(costs, TRIAGE_COSTS))
        return
    for label in (*costs, *(predicted for row in costs.values() for predicted in row)):
        if label not in order:
            raise UserError(
                f"{where}.costs", f"{label!r} is not a label of {where}.order", nearest(label, order)
            )
    for gold in order:
        for predicted in order:
            cost = costs.get(gold, {}).get(predicted, 0.0 if gold == predicted else None)
            if cost is None:
                raise UserError(
                    f"{where}.costs.{gold}",
                    f"has no cost of predicting {predicted!r}",
                    "Give every pair one.",
                )
            if not 0 <= cost < math.inf:
                raise UserError(
                    f"{where}.costs.{gold}.{predicted}",
                    f"{cost} is not a cost",
                    "Give a number of 0 or more.",
                )


def nearest(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is not known: the nearest one, or all there are, or how many where they are many."""
    names = list(known)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"Did you mean {near[0]!r}?"
    if len(names) > _MAX_LISTED:
        return f"Choose one of the {len(names)} that there are."
    return f"Choose one of {', '.join(names) or 'none'}."


def _check_stage(name: str, stage: StageConfig, config: Config) -> None:
    for key in ("eval_every_steps", "save_every_steps"):
        if getattr(stage, key) > stage.max_steps:
            raise UserError(
                f"{name}.{key}",
                f"{getattr(stage, key)} is beyond the run of {stage.max_steps} steps",
                f"Set at most {stage.max_steps}.",
            )
    if stage.optimizer.warmup_steps >= stage.max_steps:
        raise UserError(
            f"{name}.optimizer.warmup_steps", "leaves no step to decay", f"Set below {stage.max_steps}."
        )
    parts = stage.micro_batches or 1
    if stage.batch_size % parts:
        below = max(stage.batch_size // parts, 1) * parts
        raise UserError(
            f"{name}.batch_size",
            f"{stage.batch_size} rows do not divide into {parts} micro-batches",
            f"Set {below} or {below + parts}.",
        )
    sources = rationale_sources(config)
    if stage.rationale_source is None and len(sources) > 1 and config.data.source != "triage":
        raise UserError(
            f"{name}.rationale_source",
            "several sources and none chosen",
            f"Choose one of {', '.join(sources)}.",
        )
    if stage.rationale_source is not None and stage.rationale_source not in sources:
        raise UserError(
            f"{name}.rationale_source",
            f"{stage.rationale_source!r} is not a source",
            f"Choose one of {', '.join(sources)}.",
        )

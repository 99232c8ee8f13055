"""The main job; in: a Config and a workdir, out: both stages trained, test set evaluated, model exported."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Callable
from typing import Any

from rich.console import Console

from r2d_jax.config import Config
from r2d_jax.config_check import check_config, stage_configs
from r2d_jax.config_effect import without_effect
from r2d_jax.data.buckets import padding_fraction
from r2d_jax.data.features import Features
from r2d_jax.data.row_counts import row_counts
from r2d_jax.data.row_store import labels_of
from r2d_jax.data.splits import describe
from r2d_jax.errors import Preempted, UserError
from r2d_jax.evaluation.calibrate import calibrate, left_out, told
from r2d_jax.evaluation.calibration import Calibration, load_calibration
from r2d_jax.evaluation.evaluate import evaluate_rows, worked_cases
from r2d_jax.evaluation.export import NEEDED, export_model, require_no_other_files
from r2d_jax.evaluation.fitted_rows import fitted_to
from r2d_jax.evaluation.model_folder import LoadedModel, load_model
from r2d_jax.evaluation.report import print_results, print_worked_examples
from r2d_jax.evaluation.scoring import require_libraries
from r2d_jax.model.hf_format import require_hf_target
from r2d_jax.runtime.devices import check_platform, enable_compile_cache, request_deterministic_gpu_ops
from r2d_jax.runtime.distributed import agree, is_writer, look_again, require_same
from r2d_jax.runtime.files import write_json, write_text
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.runtime.reporting import say
from r2d_jax.runtime.run_files import (
    CALIBRATION,
    EVALUATION_METRICS,
    PARAMETERS,
    PREDICTIONS,
    ROW_COUNTS,
    RUN_CONFIG,
)
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training.footprint import MIB, parameter_rows, parameter_table, weight_count
from r2d_jax.training.prepare import Prepared, prepare
from r2d_jax.training.stages import require_stage1, run_stage
from r2d_jax.training.workdir import EARLIER_CALIBRATION, Workdir, adopt_stage1

# Weights x rows, of all steps: two cores do 4e7 to 8e7 of these a second (T5-small, PubMedQA).
_DAYS_ON_A_CPU = 1e13


def start(config: Config, workdir: Workdir, console: Console) -> Prepared:
    """Check config, devices, workdir and data, in this order, before anything costly.

    Raises:
        UserError: whatever is wrong, in one line.
    """
    check_config(config)
    require_libraries()
    cache = enable_compile_cache()
    if config.deterministic:
        say(console, f"deterministic: {request_deterministic_gpu_ops()}")
    devices = check_platform(config.platform)
    say(console, f"devices: {devices}")
    prepared = prepare(config, workdir, make_mesh(config.mesh), lambda line: say(console, line))
    say(console, f"workdir: {workdir.path}")
    say(console, f"compile cache: {cache or 'none'}")
    say(console, describe(prepared.splits, prepared.data_hash))
    for line in prepared.notes:
        say(console, line)
    if unread := without_effect(config):
        say(
            console,
            f"note: set, but without effect in this run (method={config.method}): {', '.join(unread)}",
        )
    _say_limits(prepared, console)
    rows = list(parameter_rows(prepared.factory.abstract_params, prepared.mesh))
    path, table = workdir.path / PARAMETERS, parameter_table(rows)
    # A finished run is left as it is; another layout of devices has another table.
    if is_writer() and not (path.is_file() and path.read_text(encoding="utf-8") == table):
        write_text(path, table)
    if is_writer() and not (workdir.path / ROW_COUNTS).is_file():
        write_json(workdir.path / ROW_COUNTS, row_counts(prepared.splits))
    device_bytes = sum(row.device_bytes for row in rows)
    say(
        console,
        f"weights: {weight_count(rows):,} in {len(rows)} arrays, {device_bytes / MIB:.1f} MiB per device; "
        f"table: {path}",
    )
    if config.platform == "any" and devices.startswith("cpu") and takes_days(config, weight_count(rows)):
        say(
            console,
            "warning: JAX found a CPU only, which takes days or weeks for so many weights and steps; platform=gpu or "
            "platform=tpu ends a run that does not find one, platform=cpu ends this warning",
        )
    return prepared


def takes_days(config: Config, weights: int) -> bool:
    """Whether a CPU of a few cores works on a model of so many weights for days, by a rule of thumb."""
    rows = sum(stage.max_steps * stage.batch_size for stage in stage_configs(config).values())
    return weights * rows > _DAYS_ON_A_CPU


def _say_limits(prepared: Prepared, console: Console) -> None:
    shapes = prepared.shapes
    say(
        console,
        f"tokens: question {shapes.question}, label {shapes.label}, rationale {shapes.rationale}, "
        f"prompt {prepared.context.prompts.width(shapes.question)}; vocabulary {prepared.tokenizer.size}",
    )
    for number, stage in prepared.stages.items():
        widths = ", ".join(f"{bucket.question}+{bucket.rationale}" for bucket in stage.buckets)
        lengths = stage.train.question_length, stage.train.rationale_length
        share = 100 * padding_fraction(stage.buckets, *lengths)
        say(
            console,
            f"stage {number}: batches are trimmed to question+rationale {widths} tokens, {share:.1f} % padding",
        )
    named: dict[str, Features] = {}
    for number, stage in prepared.stages.items():
        source = prepared.sources[number]
        # Stages that learn the same rationales cut the same.
        suffix = f", rationales {source}" if source != prepared.sources[2] else ""
        named |= {f"train{suffix}": stage.train, f"validation{suffix}": stage.validation}
    named["test"] = prepared.test
    for name, features in named.items():
        if features.cut_questions or features.cut_rationales:
            say(
                console,
                f"warning: {name}: {features.cut_questions} of {len(features)} questions/contexts and "
                f"{features.cut_rationales} rationales are longer than their limit and were cut at the end",
            )


def train_stage(config: Config, folder: pathlib.Path, number: int, console: Console) -> None:
    """Stage 1 or 2 alone.

    Raises:
        UserError: the method of the config has no such stage, or stage 1 must be finished first.
    """
    if number not in stage_configs(config):
        raise UserError(
            "--stage",
            f"a run with method={config.method} has no stage {number}",
            "Train stage 2, or change the config.",
        )
    with Workdir(folder) as workdir:
        if number == 2 and 1 in stage_configs(config):
            # Before the start, which claims the folder for this config.
            require_stage1(workdir)
        prepared = start(config, workdir, console)
        with StopSignal() as stop:
            run_stage(prepared, workdir, number, console, stop)


def run(
    config: Config,
    folder: pathlib.Path,
    console: Console,
    *,
    stage1_from: pathlib.Path | None = None,
    rows_of: pathlib.Path | None = None,
) -> None:
    """Stage 1, stage 2, test-set evaluation, predictions and export; goes on where it stopped.

    Args:
        config: of the run.
        folder: its workdir.
        console: where progress goes.
        stage1_from: workdir of a run whose finished stage 1 is taken instead of training one.
        rows_of: workdir of a run whose rows this one must have.
    """
    with Workdir(folder, rows_of) as workdir:
        _run(config, workdir, console, stage1_from)


def _run(config: Config, workdir: Workdir, console: Console, stage1_from: pathlib.Path | None) -> None:
    prepared = start(config, workdir, console)
    if stage1_from is not None:
        adopt_stage1(workdir, Workdir(stage1_from), console)
    if not agree(not workdir.finished):
        say(console, "this run is finished; nothing to do")
        _say_where(workdir, console)
        return
    # Told now, and not after the training: neither is written over.
    load_calibration(workdir.path)
    exported = _has_export(workdir)
    with StopSignal() as stop:
        for number in stage_configs(config):
            run_stage(prepared, workdir, number, console, stop)
        model = load_model(workdir.path, prepared.mesh)

        def check_stop() -> None:
            if agree(stop.requested):
                raise Preempted("stopped during the test evaluation; the same command does it again")

        calibration = _calibrated(prepared, workdir, model, console, check_stop)
        say(console, f"evaluating {model.source} on {len(prepared.splits.test)} test rows")
        metrics = evaluate_rows(
            model,
            prepared.predictor(),
            prepared.splits.test,
            prepared.test,
            prepared.sources[2],
            settings=config.evaluation,
            folder=workdir.evaluation,
            calibration=calibration,
            check_stop=check_stop,
        )
        # Still with the signal held back: there is little left, and it would leave half a folder.
        if exported:
            again = f"`r2d export --model {shlex.quote(str(workdir.path))} --output {shlex.quote(str(workdir.export))}"
            say(console, f"export: kept, as it is there; {again} --overwrite` writes it again")
        else:
            # The training took long enough to put something there.
            _has_export(workdir)
            export_model(model, workdir.export, overwrite=True, home=workdir.path)
        workdir.mark("run_done", True)
    _say_results(prepared, workdir, metrics, console)


def _has_export(workdir: Workdir) -> bool:
    """Whether a run that came to its end has its export, which is the user's since then.

    Raises:
        UserError: it has not, and its folder holds files that would be gone.
    """
    folder, fault = workdir.export, None
    whole = all((folder / name).is_file() for name in NEEDED)
    if agree(is_writer() and workdir.state.get("run_done", False) and whole):
        return True
    if is_writer():
        try:
            require_no_other_files(folder, str(folder), "Move it away; the same command goes on.")
            require_hf_target(folder, overwrite=True)
        except UserError as error:
            fault = error
    # All end together: a process that waited for one that has gone would wait long.
    if agree(fault is not None):
        raise fault or UserError(str(folder), "is refused by process 0", "Do what that one says.")
    return False


def _calibrated(
    prepared: Prepared,
    workdir: Workdir,
    model: LoadedModel,
    console: Console,
    check_stop: Callable[[], None],
) -> Calibration | None:
    """The calibration that is there, else one of the validation split, written down; None: labels are not scored.

    Raises:
        UserError: that which is there is damaged.
    """
    settings, splits = prepared.config.evaluation, prepared.splits
    if left_out(settings, prepared.labels) is not None:
        return None
    look_again(workdir.path)
    require_same("calibrations", [str(workdir.calibration_digest()).encode()])
    if (there := load_calibration(workdir.path)) is not None:
        if (workdir.state.get("stage2_done") or {}).get(EARLIER_CALIBRATION) != workdir.calibration_digest():
            say(console, "calibration: kept, as it is there")
            return there
        # What it aims at is the user's choice, and is still good.
        settings = dataclasses.replace(
            settings, target_risk=there.target_risk, risk_confidence=there.risk_confidence
        )
        say(console, f"calibration: that in {workdir.path / CALIBRATION} was made before stage 2 ended")
    say(console, f"calibrating {model.source} on {len(splits.validation)} validation rows")
    calibration = calibrate(
        prepared.predictor(),
        model.params,
        prepared.labels,
        list(labels_of(splits.validation)),
        prepared.stages[2].validation,
        settings,
        check_stop,
    )
    calibration = fitted_to(calibration, splits.validation, "validation")
    if is_writer():
        write_text(workdir.path / CALIBRATION, calibration.to_json())
    say(console, f"calibration: {told(calibration)}")
    return calibration


def _say_results(prepared: Prepared, workdir: Workdir, metrics: dict[str, Any], console: Console) -> None:
    print_results(metrics, console)
    count = prepared.config.evaluation.worked_examples
    if count:
        lines = (workdir.evaluation / PREDICTIONS).read_text(encoding="utf-8").splitlines()[:count]
        rows = [json.loads(line) for line in lines]
        print_worked_examples(worked_cases(prepared.splits.test, rows, prepared.sources[2], count), console)
    _say_where(workdir, console)


def _say_where(workdir: Workdir, console: Console) -> None:
    for what, path in (
        ("predictions", workdir.evaluation / PREDICTIONS),
        ("metrics", workdir.evaluation / EVALUATION_METRICS),
        ("Hugging Face folder", workdir.export),
        ("checkpoints", workdir.stage(2)),
        ("effective config", workdir.path / RUN_CONFIG),
    ):
        say(console, f"{what}: {path}")

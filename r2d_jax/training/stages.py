"""Stage 1 and stage 2 as one step and one evaluation each; in: Prepared and Workdir, out: a trained stage."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from rich.console import Console

from r2d_jax.config import Stage2Config, StageConfig
from r2d_jax.config_check import stage_configs
from r2d_jax.data.pipeline import prefetched, train_batches
from r2d_jax.data.row_store import labels_of
from r2d_jax.errors import UserError
from r2d_jax.evaluation.scoring import label_scores
from r2d_jax.methods import METHODS
from r2d_jax.objective.schedules import transition_end_step
from r2d_jax.runtime.checkpoint import StageCheckpoints
from r2d_jax.runtime.checkpoint_files import BEST, best_step, restore_params
from r2d_jax.runtime.checksums import checksum
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.runtime.mesh import with_shardings
from r2d_jax.runtime.reporting import Reporter, say
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training.baselines import dss_objective, sft_objective
from r2d_jax.training.footprint import abstract_batch, describe_step_memory
from r2d_jax.training.loop import EvaluateFn, Progress, Selection, train
from r2d_jax.training.objectives import Objective, StepContext, stage1_objective, stage2_objective
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.prepare import Prepared
from r2d_jax.training.r2dc import r2dc_objective
from r2d_jax.training.state import TrainState, abstract_state, fresh_state, put_count
from r2d_jax.training.steps import make_train_step
from r2d_jax.training.validation import losses_alone, losses_and_labels
from r2d_jax.training.workdir import EARLIER_CALIBRATION, Workdir


@dataclasses.dataclass(frozen=True)
class Stage:
    """What tells one stage from another; the loop is the same.

    Attributes:
        number: 1 or 2.
        config: lengths and optimiser.
        objective: what is minimised.
        evaluate: how it is judged.
        selection: which evaluation is best.
    """

    number: int
    config: StageConfig
    objective: Objective
    evaluate: EvaluateFn
    selection: Selection


def stage1(prepared: Prepared) -> Stage:
    """Rationale only; best is the lowest validation loss."""
    objective = stage1_objective(prepared.context)
    losses = losses_alone(prepared, 1, objective)

    def evaluate(params: Any, step: int, check_stop: Callable[[], None]) -> dict[str, float]:
        return {"eval/rationale_loss": losses(params, check_stop)["rationale_loss"]}

    return Stage(1, prepared.config.stage1, objective, evaluate, Selection("eval/rationale_loss", False))


OBJECTIVES: dict[str, Callable[[StepContext, Stage2Config], Objective]] = {
    "r2d": stage2_objective,
    "r2dc": r2dc_objective,
    "sft": sft_objective,
    "dss": dss_objective,
}


def stage2(prepared: Prepared) -> Stage:
    """Label, and rationale unless the method has none; best is the highest validation macro-F1 of labels."""
    config = prepared.config.stage2
    objective = OBJECTIVES[prepared.config.method](prepared.context, config)
    found = losses_and_labels(prepared, 2, objective)
    gold = list(labels_of(prepared.splits.validation))

    def evaluate(params: Any, step: int, check_stop: Callable[[], None]) -> dict[str, float]:
        losses, predicted = found(params, check_stop)
        scores = label_scores(gold, predicted, prepared.labels)
        return scores | {f"eval/{name}": value for name, value in losses.items()}

    settled = transition_end_step(config) if METHODS[prepared.config.method].two_stages else 0
    eligible = 0 if config.select_before_transition else settled
    return Stage(2, config, objective, evaluate, Selection("eval/macro_f1", True, eligible, settled))


STAGES: dict[int, Callable[[Prepared], Stage]] = {1: stage1, 2: stage2}


def require_stage1(workdir: Workdir) -> None:
    """Refuse a stage 2 that has no stage 1 to begin with; the workdir need not be a run yet.

    Raises:
        UserError: stage 1 is not finished there.
    """
    if not (workdir.started and workdir.state.get("stage1_done")):
        raise UserError(
            str(workdir.stage(1)),
            "stage 1 is not finished here",
            "Run `r2d train --stage 1` with this --workdir first.",
        )


def run_stage(prepared: Prepared, workdir: Workdir, number: int, console: Console, stop: StopSignal) -> None:
    """Train a stage to its end, going on from where it stopped; does nothing where it is done.

    The order of restoring, the only one there is: 1. done mark, 2. newest complete checkpoint of this
    stage, 3. (stage 2 after a stage 1) best weights of stage 1, 4. (first stage) model.init or random weights.

    Raises:
        UserError: stage 2 without a finished stage 1, a loss that is not finite, or no best weights at the end.
        Preempted: a stop was requested; the state is saved.
    """
    name = f"stage {number}"
    if workdir.state.get(f"stage{number}_done"):
        say(console, f"{name}: done before, nothing to do")
        return
    stage = STAGES[number](prepared)
    optimizer = make_optimizer(stage.config.optimizer, stage.config.max_steps)
    checkpoints = StageCheckpoints(workdir.stage(number), workdir.state["config_hash"])

    def tell(line: str) -> None:
        say(console, f"{name}: {line}")

    state, progress, origin = _starting_point(prepared, workdir, stage, optimizer, checkpoints, tell)
    tell(origin)
    reporter = Reporter(
        workdir.stage(number),
        name,
        console=console,
        total_steps=stage.config.max_steps,
        start_step=int(state.step),
        tensorboard=prepared.config.tensorboard,
    )
    data, seed = prepared.stages[number], prepared.config.seed
    step_fn = make_train_step(prepared.context, stage.objective, stage.config, prepared.mesh)
    try:
        # The batches made ahead end with the stage, however it ends.
        with CompileCounter() as compiled, contextlib.ExitStack() as stack:
            if memory := _step_memory(prepared, stage, optimizer, step_fn):
                reporter.say(memory)
            _, progress = train(
                stage.config,
                step_fn=step_fn,
                batches=lambda step: stack.enter_context(
                    prefetched(
                        train_batches(
                            data.train,
                            stage.config.batch_size,
                            seed=seed,
                            start_step=step,
                            buckets=data.buckets,
                        )
                    )
                ),
                evaluate=stage.evaluate,
                selection=stage.selection,
                state=state,
                progress=progress,
                checkpoints=checkpoints,
                reporter=reporter,
                mesh=prepared.mesh,
                stop=stop,
            )
    finally:
        reporter.close()
        checkpoints.close()
    tell(f"compiled {compiled}")
    _require_best(workdir.stage(number), progress)
    tell(f"best checkpoint: step {progress.best_step} in {workdir.stage(number) / 'best'}")
    done: dict[str, Any] = {"best_step": progress.best_step, "best_score": progress.best_score}
    if number == 2 and (earlier := workdir.calibration_digest()) is not None:
        # Of weights that were the best until now, if it was not made in this very moment.
        done[EARLIER_CALIBRATION] = earlier
    workdir.mark(f"stage{number}_done", done)


def _require_best(folder: pathlib.Path, progress: Progress) -> None:
    """Before the done mark: behind it nothing would train the stage again.

    Raises:
        UserError: the stage has no best weights.
    """
    if progress.best_step is None:
        raise UserError(
            str(folder),
            "has no best checkpoint, for no evaluation that counts gave a finite score",
            "Train in a new --workdir with a lower learning rate or model.compute_dtype=float32.",
        )
    if best_step(folder) is None:
        raise UserError(
            str(folder / BEST),
            f"has no checkpoint, though step {progress.best_step} was the best",
            "Restore it from a copy, or move the stage's folder away to train the stage anew.",
        )


def _step_memory(prepared: Prepared, stage: Stage, optimizer: Any, step_fn: Callable[..., Any]) -> str | None:
    """Of the widest batch, before the first step."""
    mesh, features = prepared.mesh, prepared.stages[stage.number]
    return describe_step_memory(
        step_fn,
        abstract_state(prepared.factory.abstract_params, optimizer, mesh, stage.objective.init_state),
        abstract_batch(
            stage.config.batch_size,
            prepared.shapes,
            features.buckets[-1],
            mesh,
            weighted_labels=features.train.label_weight is not None,
        ),
    )


def _starting_point(
    prepared: Prepared,
    workdir: Workdir,
    stage: Stage,
    optimizer: Any,
    checkpoints: StageCheckpoints,
    report: Callable[[str], None],
) -> tuple[TrainState, Progress, str]:
    """The state to train from, its progress, and where it came from, in words."""
    for folder in checkpoints.half_written():
        report(f"{folder} was not written to its end and is passed over")
    abstract_params, number, seed = prepared.factory.abstract_params, stage.number, prepared.config.seed
    init_state = stage.objective.init_state
    if checkpoints.latest_step() is not None:
        wanted = abstract_state(abstract_params, optimizer, prepared.mesh, init_state)
        step, params, opt_state, saved, objective_state = checkpoints.restore_latest(
            report, wanted.params, wanted.opt_state, wanted.objective_state
        )
        state = TrainState(
            put_count(step, prepared.mesh), params, opt_state, put_count(seed, prepared.mesh), objective_state
        )
        return state, Progress(**saved), f"going on from step {step} of {workdir.stage(number) / 'latest'}"
    if number == next(iter(stage_configs(prepared.config))):
        params = prepared.initial_params()
        source = prepared.config.model.init or f"random weights of seed {seed}"
        origin = f"starting from {source}, checksum {checksum(params)}"
        return fresh_state(params, optimizer, prepared.mesh, seed, init_state), Progress(), origin
    require_stage1(workdir)
    best = best_step(workdir.stage(1))
    if best is None:
        raise UserError(
            str(workdir.stage(1) / BEST),
            "has no checkpoint, though stage 1 is marked as done",
            "Restore it from a copy, or choose a new --workdir.",
        )
    folder = workdir.stage(1) / BEST / str(best)
    params = restore_params(folder, with_shardings(abstract_params, prepared.mesh))
    origin = f"starting from the best of stage 1: {folder}, step {best}, checksum {checksum(params)}"
    return fresh_state(params, optimizer, prepared.mesh, seed, init_state), Progress(), origin

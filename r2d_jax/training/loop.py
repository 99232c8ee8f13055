"""The one training loop of every stage; in: a step, batches and an evaluation, out: best and latest checkpoints."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from r2d_jax.config import StageConfig
from r2d_jax.errors import Preempted, UserError
from r2d_jax.runtime.checkpoint import StageCheckpoints
from r2d_jax.runtime.distributed import agree
from r2d_jax.runtime.mesh import put_flag, shard_batch
from r2d_jax.runtime.reporting import Reporter
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training.state import TrainState
from r2d_jax.training.steps import STOP


@dataclasses.dataclass
class Progress:
    """What selection and early stopping must remember; saved with every checkpoint.

    Attributes:
        best_score: best eligible score so far, None before the first; higher is better.
        best_step: its step.
        stale_evals: evaluations in a row without a better score.
        last_eval_step: step of the last evaluation that was taken into account.
        stopped_early: patience ran out.
    """

    best_score: float | None = None
    best_step: int | None = None
    stale_evals: int = 0
    last_eval_step: int = 0
    stopped_early: bool = False


@dataclasses.dataclass(frozen=True)
class Selection:
    """How the best checkpoint is chosen.

    Attributes:
        metric: name among the values that the evaluation returns.
        higher_is_better: direction.
        eligible_from_step: earlier evaluations can neither become best nor use up patience.
        patience_from_step: earlier evaluations do not use up patience.
    """

    metric: str
    higher_is_better: bool
    eligible_from_step: int = 0
    patience_from_step: int = 0

    def update(self, progress: Progress, step: int, values: Mapping[str, float], patience: int) -> bool:
        """Take an evaluation into account; True where it is the new best (ties go to the later one).

        A tie moves the best checkpoint but is no improvement, so patience goes on running; a score
        that is not finite is never best.
        """
        progress.last_eval_step = step
        score = values[self.metric] if self.higher_is_better else -values[self.metric]
        eligible = step >= self.eligible_from_step and math.isfinite(score)
        first = progress.best_score is None
        better = eligible and (first or score > progress.best_score)  # type: ignore[operator]
        tie = eligible and not first and score == progress.best_score
        if better:
            progress.stale_evals = 0
        elif step > self.patience_from_step:
            progress.stale_evals += 1
            progress.stopped_early = progress.stale_evals >= patience
        if better or tie:
            progress.best_score, progress.best_step = score, step
        return better or tie


COLLAPSED = "eval/collapsed"
EvaluateFn = Callable[[Any, int, Callable[[], None]], dict[str, float]]


def train(
    config: StageConfig,
    *,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
    evaluate: EvaluateFn,
    selection: Selection,
    state: TrainState,
    progress: Progress,
    checkpoints: StageCheckpoints,
    reporter: Reporter,
    mesh: Mesh,
    stop: StopSignal,
) -> tuple[TrainState, Progress]:
    """Train until max_steps or until patience runs out.

    Args:
        config: lengths and intervals of the stage.
        step_fn: from `make_train_step`; the state given to it is donated.
        batches: start step to an endless iterator of host batches.
        evaluate: (params, step, check_stop) to metrics; calls check_stop between batches.
        selection: which evaluation is best.
        state: to start or go on from.
        progress: of the same checkpoint.
        checkpoints: where latest and best go.
        reporter: where numbers go.
        mesh: devices.
        stop: request to stop.

    Raises:
        Preempted: a stop was requested; the state is saved.
        UserError: the loss is no longer finite; the last checkpoint before it is intact.
    """
    step = int(state.step)
    iterator = batches(step)
    window: list[dict[str, jax.Array]] = []
    window_start = time.monotonic()
    stop_before: jax.Array | None = None

    def save() -> None:
        _require_finite(window, reporter.stage, step)
        saved = dataclasses.asdict(progress)
        checkpoints.save_latest(step, state.params, state.opt_state, saved, state.objective_state)

    def leave() -> None:
        save()
        checkpoints.wait()
        raise Preempted(f"stopped at step {step}; the same command goes on from there")

    def check_stop() -> None:
        if agree(stop.requested):
            leave()

    if step and progress.best_step == step and checkpoints.best_step() != step:
        checkpoints.save_best(step, state.params, {"step": step})
    while True:
        finished = step >= config.max_steps or progress.stopped_early
        due = step > 0 and (step % config.eval_every_steps == 0 or step >= config.max_steps)
        if due and progress.last_eval_step < step:
            _require_finite(window, reporter.stage, step)
            values = evaluate(state.params, step, check_stop)
            best = selection.update(progress, step, values, config.patience_evals)
            reporter.scalars(step, values)
            _say_evaluation(reporter, step, values, progress, selection)
            if best:
                # First what names this step as the best, then its weights, which drive out those of the best before:
                # after a kill between the two they are written from the checkpoint.
                save()
                checkpoints.save_best(step, state.params, {"step": step, **values})
            finished = step >= config.max_steps or progress.stopped_early
            window_start, window = time.monotonic(), []
        if finished or (step > 0 and step % config.save_every_steps == 0):
            save()
        if finished:
            break
        # Not multihost_utils.reached_preemption_sync_point: it takes no Ctrl-C, and without jax.distributed it always
        # returns False.
        batch = shard_batch(next(iterator), mesh) | {STOP: put_flag(stop.requested, mesh)}
        state, metrics = step_fn(state, batch)
        step += 1
        asked = metrics.pop(STOP)
        window.append(metrics)
        if step % config.log_every_steps == 0 or step >= config.max_steps:
            _require_finite(window, reporter.stage, step)
            values = _window_values(window, config.batch_size, window_start)
            reporter.scalars(step, values)
            reporter.progress(step, values)
            window_start, window = time.monotonic(), []
        # Of the step before, so that the devices always have a step to do while the host looks.
        if stop_before is not None and int(stop_before):
            leave()
        stop_before = asked
    checkpoints.wait()
    if (there := checkpoints.best_step()) not in (None, progress.best_step):
        # It drove out the weights of the best before, and done again it is no longer better.
        reporter.say(f"warning: the best is step {there}, as a checkpoint said that was damaged since")
        progress.best_score, progress.best_step = None, there
    return state, progress


def _require_finite(window: Sequence[Mapping[str, Any]], stage: str, step: int) -> None:
    # Of each step since the last log or evaluation, of which `step` is the last. The loss is that before the update,
    # so it does not show what the last update did; its gradients do.
    names = {"loss": "the loss", "grad_norm": "the norm of the gradients"}
    fetched = jax.device_get([{name: one[name] for name in names if name in one} for one in window])
    for number, values in enumerate(fetched, start=step - len(window) + 1):
        for name in names:
            if not np.isfinite(values.get(name, 0.0)):
                raise UserError(
                    f"{stage}, step {number}",
                    f"{names[name]} is not finite",
                    "Lower the learning rate or use model.compute_dtype=float32; the checkpoints are intact.",
                )


_OF_LAST_STEP = (
    "learning_rate",
    "label_weight",
    "sampling_probability",
    "tau",
    "cycle_weight",
    "gumbel_temperature",
)


def _window_values(window: list[dict[str, jax.Array]], batch_size: int, start: float) -> dict[str, float]:
    # Fetched once per window, so that the host does not wait for every step; only then are they done.
    fetched = jax.device_get(window)
    seconds = time.monotonic() - start
    values = {f"train/{name}": float(np.mean([step[name] for step in fetched])) for name in fetched[-1]}
    for name in _OF_LAST_STEP:
        if name in fetched[-1]:
            values[f"train/{name}"] = float(fetched[-1][name])
    values["perf/examples_per_sec"] = batch_size * len(window) / max(seconds, 1e-9)
    # CPU does not tell.
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        values["perf/peak_memory_bytes"] = float(memory["peak_bytes_in_use"])
    return values


def _say_evaluation(
    reporter: Reporter, step: int, values: Mapping[str, float], progress: Progress, selection: Selection
) -> None:
    shown = "  ".join(
        f"{name.removeprefix('eval/')} {value:.4f}" for name, value in values.items() if name != COLLAPSED
    )
    best = "none eligible yet" if progress.best_step is None else f"step {progress.best_step}"
    reporter.say(
        f"evaluation at step {step}: {shown}  (best by {selection.metric.removeprefix('eval/')}: {best})"
    )
    if values.get(COLLAPSED):
        reporter.say("warning: the model gives nearly one label only; accuracy hides that, macro-F1 does not")
    if progress.stopped_early:
        reporter.say(f"stopping early: {progress.stale_evals} evaluations without a better score")

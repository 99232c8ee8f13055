"""Selection of the best checkpoint and early stopping, by hand-worked sequences."""

import dataclasses
import itertools
import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from r2d_jax.config import MeshConfig, Stage1Config
from r2d_jax.runtime.checkpoint import StageCheckpoints
from r2d_jax.runtime.checkpoint_files import restore_params
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training.loop import Progress, Selection, train
from r2d_jax.training.state import TrainState
from r2d_jax.training.steps import STOP

HIGHER = Selection("score", higher_is_better=True)


def follow(selection, scores, patience=99, every=10):
    progress, best = Progress(), []
    for index, score in enumerate(scores, start=1):
        best.append(selection.update(progress, index * every, {"score": score}, patience))
        if progress.stopped_early:
            break
    return progress, best


def test_the_highest_wins_and_ties_go_to_the_later():
    progress, best = follow(HIGHER, [0.5, 0.8, 0.8, 0.7])
    assert best == [True, True, True, False]
    assert (progress.best_step, progress.best_score) == (30, 0.8)


def test_lower_may_be_better():
    progress, best = follow(Selection("score", higher_is_better=False), [3.0, 2.0, 2.5])
    assert best == [True, True, False]
    assert progress.best_step == 20


def test_patience_counts_evaluations_without_a_better_score_and_a_tie_is_none():
    progress, best = follow(HIGHER, [0.5, 0.4, 0.5, 0.3, 0.9], patience=3)
    assert progress.stopped_early
    assert len(best) == 4
    assert progress.best_step == 30


def test_a_better_score_renews_patience():
    progress, _ = follow(HIGHER, [0.5, 0.4, 0.4, 0.6, 0.5, 0.5], patience=3)
    assert not progress.stopped_early


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_best(score):
    """B047."""
    progress, best = follow(HIGHER, [score, 0.1, score])
    assert best == [False, True, False]
    assert progress.best_score == 0.1


def test_evaluations_before_the_transition_cannot_win_and_do_not_use_up_patience():
    selection = Selection("score", True, eligible_from_step=30, patience_from_step=30)
    progress, best = follow(selection, [0.9, 0.9, 0.2, 0.3, 0.1, 0.1], patience=2)
    assert best == [False, False, True, True, False, False]
    assert progress.best_step == 40
    assert progress.stopped_early


def test_published_rule_selects_early_but_stops_late():
    selection = Selection("score", True, eligible_from_step=0, patience_from_step=30)
    progress, best = follow(selection, [0.9, 0.1, 0.1, 0.1, 0.1], patience=2)
    assert best[0]
    assert progress.best_step == 10
    assert progress.stopped_early
    # Steps 40 and 50 used it up: patience begins after step 30.
    assert len(best) == 5


def test_progress_survives_saving_so_a_worse_score_after_resume_is_not_best():
    """B047: best 0.80 at step 300, resumed, 0.70 at step 400."""
    progress, _ = follow(HIGHER, [0.5, 0.6, 0.8], every=100)
    resumed = Progress(**dataclasses.asdict(progress))
    assert not HIGHER.update(resumed, 400, {"score": 0.7}, 5)
    assert (resumed.best_step, resumed.stale_evals) == (300, 1)


class Killed(BaseException):
    """What a kill leaves is on disk."""


def train_on(folder, scores, kill_at=None, kill_after_writing=False, save_every=40):
    """Forty steps, each adding 1 to the only weight; (progress, best step on disk, its weight)."""
    checkpoints = StageCheckpoints(folder, "hash")
    write_best = checkpoints.save_best

    def save_best(step, *rest):
        if step == kill_at and not kill_after_writing:
            checkpoints.wait()
            raise Killed
        write_best(step, *rest)
        if step == kill_at:
            raise Killed

    checkpoints.save_best = save_best
    like, moments = {"w": jnp.zeros(3)}, {"mu": jnp.zeros(3)}
    state, progress = TrainState(jnp.int32(0), like, moments, jnp.int32(0)), Progress()
    if checkpoints.latest_step() is not None:
        step, params, _, saved, _ = checkpoints.restore_latest(print, like, moments)
        state, progress = TrainState(jnp.int32(step), params, moments, jnp.int32(0)), Progress(**saved)

    def step_fn(state, batch):
        params = {"w": state.params["w"] + 1}
        return state._replace(step=state.step + 1, params=params), {
            "loss": jnp.float32(1),
            STOP: batch[STOP].sum(),
        }

    silent = types.SimpleNamespace(
        stage="stage 1", say=lambda *_: None, scalars=lambda *_: None, progress=lambda *_: None
    )
    try:
        _, progress = train(
            Stage1Config(
                max_steps=40,
                batch_size=8,
                eval_every_steps=10,
                save_every_steps=save_every,
                log_every_steps=10,
            ),
            step_fn=step_fn,
            batches=lambda step: ({"row": np.zeros(8, np.int32)} for _ in itertools.count()),
            evaluate=lambda params, step, check_stop: {"score": scores[step]},
            selection=HIGHER,
            state=state,
            progress=progress,
            checkpoints=checkpoints,
            reporter=silent,
            mesh=make_mesh(MeshConfig()),
            stop=types.SimpleNamespace(requested=False),
        )
    finally:
        checkpoints.close()
    best = checkpoints.best_step()
    return progress, best, float(restore_params(folder / "best" / str(best), like)["w"][0])


@pytest.mark.parametrize(("kill_at", "after"), [(10, False), (10, True), (20, False), (20, True)])
def test_a_kill_around_the_writing_of_the_best_weights_costs_none(tmp_path, kill_at, after):
    """What names them was written later: on another layout of devices the step came out a hair worse when it was done
    again, so the run named the best before, whose weights were gone."""
    with pytest.raises(Killed):
        train_on(tmp_path, {10: 0.8, 20: 0.9}, kill_at, after)
    progress, best, weight = train_on(tmp_path, {10: 0.8, 20: 0.7, 30: 0.6, 40: 0.6})
    assert progress.best_step == best == weight == kill_at


@pytest.mark.parametrize("save_every", [5, 40])
@pytest.mark.parametrize(
    ("again", "best"),
    [
        # The same bits: nothing has happened.
        ({20: 0.9, 30: 0.6}, 20),
        # On another layout of devices the step comes out worse than what was the best before it.
        ({20: 0.7, 30: 0.6}, None),
        # A later one is better than both, or than the one before alone.
        ({20: 0.7, 30: 0.95}, 30),
        ({20: 0.7, 30: 0.85}, 30),
    ],
)
def test_a_run_names_the_best_that_is_there_after_the_checkpoint_that_named_it_is_damaged(
    tmp_path, again, best, save_every
):
    """Weights of step 10 went when those of 20 were written. It goes on from a step that knows 10 as the best."""
    with pytest.raises(Killed):
        train_on(tmp_path, {10: 0.8, 20: 0.9}, 20, True, save_every)
    (tmp_path / "latest" / "20" / "_CHECKPOINT_METADATA").write_bytes(b"")
    progress, there, weight = train_on(tmp_path, {10: 0.8, **again, 40: 0.6}, save_every=save_every)
    # Where it goes on from step 10 itself, its weights are at hand.
    expected = best or (20 if save_every == 5 else 10)
    assert progress.best_step == there == weight == expected
    known = {10: 0.8, **again}
    assert progress.best_score == (None if best is None and expected == 20 else known[expected])

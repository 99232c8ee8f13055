"""Selection of the best checkpoint and early stopping, by hand-worked sequences."""

import dataclasses
import math

import pytest

from r2d_jax.training.loop import Progress, Selection

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


def test_progress_survives_saving_so_a_worse_score_after_resume_is_not_best():
    """B047: best 0.80 at step 300, resumed, 0.70 at step 400."""
    progress, _ = follow(HIGHER, [0.5, 0.6, 0.8], every=100)
    resumed = Progress(**dataclasses.asdict(progress))
    assert not HIGHER.update(resumed, 400, {"score": 0.7}, 5)
    assert (resumed.best_step, resumed.stale_evals) == (300, 1)

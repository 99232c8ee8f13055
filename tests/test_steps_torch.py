"""The jitted steps of both stages against plain torch, and two of them bit for bit: compiled as users compile."""

import dataclasses

import jax
import numpy as np
import pytest
import torch_oracle as oracle
from test_steps import (
    HALF,
    LABEL,
    OPTIMIZER,
    ROWS,
    SAMPLING,
    VARIANTS,
    assert_same_weights,
    batch_of,
    context_of,
    factory_and_params,
    one_device,
    random_rows,
    run_steps,
    small,
    start,
    weights_of,
    with_dropout,
)

from r2d_jax.config import Stage1Config, Stage2Config
from r2d_jax.model.parameters import flatten
from r2d_jax.runtime.mesh import shard_batch
from r2d_jax.training import objectives, steps

__all__ = ["one_device", "small", "with_dropout"]

GOLD_LABELS = Stage2Config(
    max_steps=20, batch_size=ROWS, optimizer=OPTIMIZER, warmup_fraction=0.2, max_sampling_probability=0.0
)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["stage 1", "gold labels", "predicted labels"])
def test_five_steps_equal_plain_torch(tmp_path, one_device, variant, kind):
    model = oracle.random_t5(3, **VARIANTS[variant])
    factory, params = factory_and_params(tmp_path / "start", model)
    trainer = oracle.Trainer(model, OPTIMIZER.learning_rate, 20)
    context = context_of(factory)
    first_step = 0
    if kind == "stage 1":
        config = Stage1Config(max_steps=20, batch_size=ROWS, optimizer=OPTIMIZER)
        objective = objectives.stage1_objective(context)
    elif kind == "gold labels":
        config = GOLD_LABELS
        objective = objectives.stage2_objective(context, config)
    else:
        config = SAMPLING
        objective, first_step = objectives.stage2_objective(context, config), 2
    state = start(params, config, one_device, first_step)
    step_fn = steps.make_train_step(context, objective, config, one_device)
    differing_labels = 0
    for index in range(5):
        rows = random_rows(index)
        state, metrics = step_fn(state, shard_batch(batch_of(rows), one_device))
        if kind == "stage 1":
            loss, norm = trainer.stage1(rows)
        else:
            weight = oracle.alpha(index + first_step, 20, warmup_fraction=config.warmup_fraction)
            loss, norm, labels = trainer.stage2(rows, weight, LABEL, predicted=kind == "predicted labels")
            differing_labels += len({tuple(label) for label in labels})
            assert float(metrics["sampled_fraction"]) == (1.0 if kind == "predicted labels" else 0.0)
        assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert kind == "stage 1" or differing_labels > 10
    assert_same_weights(state.params, weights_of(model, tmp_path / "end"), 1e-5)
    assert step_fn._cache_size() == 1


def test_rows_without_a_rationale_add_to_the_label_loss_alone(tmp_path, one_device):
    """Against torch, and in the last batch no row has a rationale."""
    model = oracle.random_t5(3)
    factory, params = factory_and_params(tmp_path / "start", model)
    trainer, context = oracle.Trainer(model, OPTIMIZER.learning_rate, 20), context_of(factory)
    config = GOLD_LABELS
    state = start(params, config, one_device)
    step_fn = steps.make_train_step(context, objectives.stage2_objective(context, config), config, one_device)
    for index, every in enumerate((2, 3, 1)):
        rows = random_rows(index)
        rows = [
            (asked, label, [] if row % every == 0 else text) for row, (asked, label, text) in enumerate(rows)
        ]
        state, metrics = step_fn(state, shard_batch(batch_of(rows), one_device))
        weight = oracle.alpha(index, 20, warmup_fraction=0.2)
        if every > 1:
            loss, norm, _ = trainer.stage2(rows, weight, LABEL, predicted=False)
        else:
            prompts = [[*oracle.PREDICT, *asked, oracle.END] for asked, _, _ in rows]
            total, count = oracle.loss_sum_and_count(model, prompts, [label for _, label, _ in rows])
            loss = weight * total / count
            loss, norm = loss.item(), trainer.update(loss)
            assert float(metrics["rationale_loss"]) == 0.0
        assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert_same_weights(state.params, weights_of(model, tmp_path / "end"), 1e-5)


def test_probability_zero_is_teacher_forcing_bit_for_bit(with_dropout, one_device):
    """B039: at step 0 pi is 0 although sampling is on."""
    sampling = run_steps(*with_dropout, HALF, one_device, count=1, first_step=0)
    gold_only = dataclasses.replace(HALF, max_sampling_probability=0.0)
    gold = run_steps(*with_dropout, gold_only, one_device, count=1, first_step=0)
    assert sampling[1][0]["sampled_fraction"] == 0.0
    for name, value in flatten(jax.device_get(sampling[0].params)).items():
        np.testing.assert_array_equal(value, flatten(jax.device_get(gold[0].params))[name], err_msg=name)

"""SFT and DSS against plain torch, and the ablations as settings of stage 2."""

import dataclasses

import jax
import numpy as np
import pytest
import quick_compiler
import torch_oracle as oracle
from test_steps import (
    OPTIMIZER,
    ROWS,
    VARIANTS,
    assert_same_weights,
    batch_of,
    context_of,
    factory_and_params,
    one_device,
    random_rows,
    start,
    weights_of,
)

from r2d_jax.config import Stage2Config
from r2d_jax.model.parameters import flatten
from r2d_jax.objective.schedules import sampling_probability
from r2d_jax.runtime.mesh import shard_batch
from r2d_jax.training import steps
from r2d_jax.training.baselines import dss_objective, sft_objective

__all__ = ["one_device"]

CONFIG = Stage2Config(max_steps=20, batch_size=ROWS, optimizer=OPTIMIZER, label_weight=0.5)


@pytest.mark.parametrize("method", ["sft", "dss"])
def test_five_steps_equal_plain_torch(tmp_path, one_device, method):
    model = oracle.random_t5(3, **VARIANTS["flan"])
    factory, params = factory_and_params(tmp_path / "start", model)
    trainer = oracle.Trainer(model, OPTIMIZER.learning_rate, 20)
    context = context_of(factory)
    objective = {"sft": sft_objective, "dss": dss_objective}[method](context, CONFIG)
    state = start(params, CONFIG, one_device)
    step_fn = steps.make_train_step(context, objective, CONFIG, one_device)
    for index in range(5):
        rows = random_rows(index)
        state, metrics = step_fn(state, shard_batch(batch_of(rows), one_device))
        loss, norm = trainer.sft(rows) if method == "sft" else trainer.dss(rows, 0.5)
        assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert_same_weights(state.params, weights_of(model, tmp_path / "end"), 1e-5)


def test_sft_does_not_look_at_rationales(tmp_path, one_device):
    factory, params = factory_and_params(tmp_path, oracle.random_t5(4), dropout=0.1)
    context = context_of(factory)
    step_fn = steps.make_train_step(context, sft_objective(context, CONFIG), CONFIG, one_device)
    ends = []
    for fill in (0, 7):
        batch = batch_of(random_rows(0))
        batch["rationale_ids"] = np.full_like(batch["rationale_ids"], fill)
        batch["rationale_length"] = np.full_like(batch["rationale_length"], fill)
        with quick_compiler.quickly():
            state, _ = step_fn(start(params, CONFIG, one_device), shard_batch(batch, one_device))
        ends.append(flatten(jax.device_get(state.params)))
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name], err_msg=name)


def test_predicted_labels_only_is_probability_one_right_after_warm_up():
    """The ablation of configs/compare_*.yaml: warm-up of 70 steps, then 1."""
    config = dataclasses.replace(
        CONFIG, max_steps=1400, max_sampling_probability=1.0, transition_fraction=1e-6
    )
    found = [float(sampling_probability(np.int32(step), config)) for step in (0, 70, 71, 1399)]
    assert found == [0.0, 0.0, 1.0, 1.0]

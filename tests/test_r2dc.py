"""R2D-C: losses and tau against plain torch, what must not change them, and that a stop changes nothing."""

import dataclasses
import itertools
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick_compiler
import torch
import torch_oracle as oracle
from r2dc_oracle import R2DCTrainer
from test_r2dc_parts import keys_of
from test_steps import (
    HALF,
    IN_A_STEP,
    LABEL,
    OPTIMIZER,
    RATIONALE,
    ROWS,
    assert_same_weights,
    batch_of,
    context_of,
    factory_and_params,
    one_device,
    random_rows,
    small,
    weights_of,
    with_dropout,
)

from r2d_jax.config import Config, DataConfig, MeshConfig, Stage2Config
from r2d_jax.config_check import check_config
from r2d_jax.errors import UserError
from r2d_jax.model import cpu_parts
from r2d_jax.model.parameters import flatten
from r2d_jax.objective.cycle import gumbel_noise
from r2d_jax.runtime.checkpoint import StageCheckpoints
from r2d_jax.runtime.mesh import jit_on_mesh, make_mesh, replicated, shard_batch
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.training import objectives, stages, steps
from r2d_jax.training.loop import Progress, Selection, train
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.r2dc import r2dc_objective
from r2d_jax.training.stages import Stage
from r2d_jax.training.state import abstract_state, fresh_state

__all__ = ["one_device", "small", "with_dropout"]

# Warm-up of two steps, then pi rises by a sixth a step, and tau is renewed every second.
CONFIG = Stage2Config(
    max_steps=20,
    batch_size=ROWS,
    optimizer=OPTIMIZER,
    warmup_fraction=0.1,
    transition_fraction=0.3,
    tau_window_steps=2,
)


@pytest.fixture(autouse=True, scope="module")
def compiled_sooner():
    """Nearly all of the time goes into compiling, and what is compared was compiled alike; torch, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    torch.set_num_threads(threads)


def made(factory, config, mesh, **changes):
    """The objective and its step."""
    context = dataclasses.replace(context_of(factory), **changes)
    objective = r2dc_objective(context, config)
    return objective, steps.make_train_step(context, objective, config, mesh)


def begun(params, config, mesh, objective, step=0):
    optimizer = make_optimizer(config.optimizer, config.max_steps)
    state = fresh_state(jax.tree.map(jnp.array, params), optimizer, mesh, 7, objective.init_state)
    return state._replace(step=jax.device_put(state.step + step, state.step.sharding))


def test_eight_steps_equal_plain_torch(tmp_path, one_device):
    """Losses, gradients, coins and tau over warm-up and three windows."""
    model = oracle.random_t5(3)
    factory, params = factory_and_params(tmp_path / "start", model)
    trainer = R2DCTrainer(model, CONFIG, vocab_limit=90, label_tokens=LABEL)
    objective, step_fn = made(factory, CONFIG, one_device, vocab_limit=90)
    state, taus, all_sampled = begun(params, CONFIG, one_device, objective), [], []
    for index in range(8):
        rows = random_rows(index)
        rows[1] = (*rows[1][:2], list(range(30, 30 + RATIONALE)))
        uniform = jax.vmap(jax.random.uniform)(keys_of(objectives.Stream.COIN, index))
        noise = gumbel_noise(keys_of(objectives.Stream.GUMBEL, index), (RATIONALE, 96))
        state, metrics = step_fn(state, shard_batch(batch_of(rows), one_device))
        told = trainer.r2dc(rows, np.asarray(uniform), np.asarray(noise))
        loss, norm, cycle, confidence, sampled = told
        assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(metrics["cycle_loss"]) == pytest.approx(cycle, rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
        assert float(metrics["confidence"]) == pytest.approx(confidence, rel=1e-5)
        assert float(metrics["sampled_fraction"]) == sum(sampled) / ROWS
        taus.append(float(metrics["tau"]))
        all_sampled += sampled
        if index + 1 in (2, 4, 6, 8):
            assert taus[-1] == pytest.approx(trainer.tau(), rel=1e-5)
    assert len(set(taus)) == 5
    assert 4 <= sum(all_sampled) <= 30
    assert_same_weights(state.params, weights_of(model, tmp_path / "end"), 1e-5)
    assert step_fn._cache_size() == 1


# pi is 0.83, and tau is renewed after the first of three steps.
LATE = 7
# One program for all that follows, with what a batch may hold beside the rows.
ALL_ON = dataclasses.replace(CONFIG, label_decode_dropout=True)
LABEL_WEIGHTS = np.linspace(0.5, 3, ROWS, dtype=np.float32)


def full_batch(index, label_weight=LABEL_WEIGHTS):
    return batch_of(random_rows(index)) | {
        objectives.LABEL_WEIGHT: label_weight,
        steps.STOP: np.zeros(ROWS, np.int32),
    }


@pytest.fixture(scope="module")
def step_on_one(with_dropout, one_device):
    """The objective and its compiled step."""
    return made(with_dropout[0], ALL_ON, one_device)


@pytest.fixture(scope="module")
def reference(with_dropout, one_device, step_on_one):
    """Three steps: the last state, and the metrics of each."""
    objective, step_fn = step_on_one
    state, history = begun(with_dropout[1], ALL_ON, one_device, objective, LATE), []
    for index in range(3):
        state, metrics = step_fn(state, shard_batch(full_batch(index), one_device))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_neither_devices_nor_micro_batches_matter(with_dropout, reference):
    """Decodes, coins, noise and masks belong to rows of the global batch; one mean over all of it."""
    factory, params = with_dropout
    mesh, config = make_mesh(MeshConfig(2, 2, 2)), dataclasses.replace(ALL_ON, micro_batches=2)
    objective, step_fn = made(factory, config, mesh)
    state = begun(params, config, mesh, objective, LATE)
    for index, expected in enumerate(reference[1]):
        with quick_compiler.quickly():
            state, metrics = step_fn(state, shard_batch(full_batch(index), mesh))
        assert float(metrics["sampled_fraction"]) == expected["sampled_fraction"]
        for name in ("loss", "cycle_loss", "confidence", "tau", "gumbel_temperature"):
            assert float(metrics[name]) == pytest.approx(expected[name], rel=1e-5), name
    assert 0 < sum(row["sampled_fraction"] for row in reference[1]) < 3
    assert len({row["tau"] for row in reference[1]}) > 1
    assert_same_weights(state.params, flatten(jax.device_get(reference[0].params)), 1e-5)


class Log:
    """Stands for a reporter: keeps what was reported of each step."""

    stage = "stage 2"

    def __init__(self):
        self.rows = {}

    def scalars(self, step, values):
        timed = ("perf/examples_per_sec", "perf/peak_memory_bytes")
        self.rows.setdefault(step, {}).update(
            {name: value for name, value in values.items() if name not in timed}
        )

    def __getattr__(self, name):
        return lambda *_: None


def test_a_run_that_was_stopped_goes_on_with_the_same_tau(tmp_path, with_dropout, one_device, step_on_one):
    """Through the real loop and the real restore, bit for bit; the checkpoint lies within a window."""
    factory, params = with_dropout
    objective, step_fn = step_on_one
    config = dataclasses.replace(
        ALL_ON, max_steps=10, eval_every_steps=10, save_every_steps=9, log_every_steps=1
    )
    stage = Stage(2, config, objective, lambda *_: {"score": 0.5}, Selection("score", True))
    prepared = types.SimpleNamespace(factory=factory, mesh=one_device, config=types.SimpleNamespace(seed=7))
    workdir = types.SimpleNamespace(stage=lambda number: tmp_path)
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.max_steps)

    def go_on(state, progress):
        log, store = Log(), StageCheckpoints(tmp_path, "hash")
        end, _ = train(
            config,
            step_fn=step_fn,
            batches=lambda step: (full_batch(number) for number in itertools.count(step)),
            evaluate=stage.evaluate,
            selection=stage.selection,
            state=state,
            progress=progress,
            checkpoints=store,
            reporter=log,
            mesh=one_device,
            stop=StopSignal(),
        )
        store.close()
        return jax.device_get(end), log.rows

    whole, told = go_on(begun(params, CONFIG, one_device, objective, LATE), Progress())
    assert sorted(told) == [8, 9, 10]
    assert told[8]["train/tau"] == told[9]["train/tau"] != told[10]["train/tau"]
    shutil.rmtree(tmp_path / "latest" / "10")
    store = StageCheckpoints(tmp_path, "hash")
    state, progress, _ = stages._starting_point(prepared, workdir, stage, optimizer, store, print)
    store.close()
    assert (int(state.step), int(state.objective_state.window_rows)) == (9, ROWS)
    again, told_again = go_on(state, progress)
    assert told_again == {10: told[10]}
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def reason2decide(with_dropout, one_device):
    """Its objective and step, with the same settings."""
    context = context_of(with_dropout[0])
    plain = objectives.stage2_objective(context, ALL_ON)
    return plain, steps.make_train_step(context, plain, ALL_ON, one_device)


def one_step(made_step, params, mesh, step, batch, tau=None):
    objective, step_fn = made_step
    state = begun(params, ALL_ON, mesh, objective, step)
    if tau is not None:
        tau = jax.device_put(jnp.float32(tau), replicated(mesh))
        state = state._replace(objective_state=state.objective_state._replace(tau=tau))
    return step_fn(state, shard_batch(batch, mesh))


def test_in_warm_up_it_is_reason2decide_bit_for_bit(with_dropout, one_device, step_on_one, reason2decide):
    """pi and the weight of the cycle loss are 0; confidences are measured all the same."""
    both = step_on_one, reason2decide
    (ours, metrics), (theirs, _) = (
        one_step(one, with_dropout[1], one_device, 0, full_batch(0)) for one in both
    )
    assert 0 < float(metrics["tau"]) == float(metrics["confidence"]) < 1
    assert float(metrics["cycle_loss"]) > 0 == float(metrics["cycle_weight"])
    assert (int(ours.objective_state.window_rows), theirs.objective_state) == (ROWS, ())
    for name, value in flatten(jax.device_get(ours.params)).items():
        np.testing.assert_array_equal(value, flatten(jax.device_get(theirs.params))[name], err_msg=name)


def test_class_weights_and_dropout_in_the_label_decode_are_those_of_reason2decide(
    with_dropout, one_device, step_on_one, reason2decide
):
    """Far above tau every predicted label is used with pi itself."""
    params, even = with_dropout[1], np.ones(ROWS, np.float32)
    _, ours = one_step(step_on_one, params, one_device, LATE, full_batch(1), tau=-100)
    _, theirs = one_step(reason2decide, params, one_device, LATE, full_batch(1))
    assert 0 < float(ours["sampled_fraction"]) == float(theirs["sampled_fraction"]) < 1
    for name in ("label_loss", "rationale_loss"):
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-6), name
    # Labels weigh as told; in the cycle loss all rows weigh alike.
    _, unweighted = one_step(step_on_one, params, one_device, LATE, full_batch(1, even), tau=-100)
    assert float(unweighted["label_loss"]) != pytest.approx(float(ours["label_loss"]), rel=1e-4)
    assert float(unweighted["cycle_loss"]) == float(ours["cycle_loss"])


def test_without_both_parts_it_is_reason2decide(small):
    context = context_of(small[0])
    config = dataclasses.replace(CONFIG, cycle_weight=0.0, adaptive_sampling=False)
    for changed in (config, dataclasses.replace(CONFIG, cycle_weight=0.0, max_sampling_probability=0.0)):
        objective = r2dc_objective(context, changed)
        plain = objectives.stage2_objective(context, changed)
        assert objective.terms.__code__ is plain.terms.__code__
        assert (objective.update_state, objective.init_state()) == (None, ())
    # One part alone: only tau is carried, and the cycle needs the labels drawn before.
    cycle_only = r2dc_objective(context, dataclasses.replace(CONFIG, adaptive_sampling=False))
    assert cycle_only.init_state() == ()
    assert cycle_only.draw is not None
    assert len(r2dc_objective(context, dataclasses.replace(CONFIG, cycle_weight=0.0)).init_state()) == 3


@pytest.mark.parametrize(
    ("changes", "logged"),
    [
        ({}, {"tau", "confidence", "cycle_loss", "cycle_weight", "gumbel_temperature"}),
        ({"cycle_weight": 0.0}, {"tau", "confidence"}),
        ({"adaptive_sampling": False}, {"cycle_loss", "cycle_weight", "gumbel_temperature"}),
        ({"max_sampling_probability": 0.0}, {"cycle_loss", "cycle_weight", "gumbel_temperature"}),
    ],
)
def test_what_is_switched_off_is_neither_computed_nor_logged(small, one_device, changes, logged):
    """Traced, not compiled: both parts, each alone, and the cycle on gold labels."""
    factory, _ = small
    config = dataclasses.replace(CONFIG, **changes)
    objective, step_fn = made(factory, config, one_device)
    optimizer = make_optimizer(config.optimizer, config.max_steps)
    state = abstract_state(factory.abstract_params, optimizer, one_device, objective.init_state)
    after, metrics = jax.eval_shape(step_fn, state, batch_of(random_rows(0)))
    known = {"tau", "confidence", "cycle_loss", "cycle_weight", "gumbel_temperature"}
    assert metrics.keys() & known == logged
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_the_state_is_counted_and_keeps_its_shape(small, one_device):
    """What `r2d compile` and the memory line of a run compile is the state that is trained."""
    factory, _ = small
    objective, step_fn = made(factory, CONFIG, one_device)
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.max_steps)
    abstract = abstract_state(factory.abstract_params, optimizer, one_device, objective.init_state)
    assert [leaf.dtype.name for leaf in abstract.objective_state] == ["float32", "float32", "int32"]
    after, _ = jax.eval_shape(step_fn, abstract, batch_of(random_rows(0)))
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) for state in (after, abstract)]
    assert shapes[0] == shapes[1]


def test_in_bfloat16_losses_and_tau_are_near_those_of_float32(with_dropout, one_device, step_on_one):
    """2**-8 is the step of bfloat16; coins of rows near their probability may fall otherwise, hence warm-up."""
    factory, params = with_dropout
    _, full = one_step(step_on_one, params, one_device, 0, full_batch(0))
    in_half = made(dataclasses.replace(factory, compute_dtype="bfloat16"), ALL_ON, one_device)
    with quick_compiler.quickly():
        state, half = one_step(in_half, params, one_device, 0, full_batch(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    full, half = ({name: float(value) for name, value in told.items()} for told in (full, half))
    for name in ("loss", "label_loss", "rationale_loss", "cycle_loss", "confidence", "tau", "grad_norm"):
        assert half[name] == pytest.approx(full[name], rel=2e-2), name
    assert half["cycle_loss"] != full["cycle_loss"]


def test_no_warm_up_leaves_tau_without_a_value():
    def config(**changes):
        stage = Stage2Config(warmup_fraction=0.0, select_before_transition=True, **changes)
        return Config(method="r2dc", data=DataConfig(source="triage"), stage2=stage)

    with pytest.raises(UserError, match=r"stage2.warmup_fraction: .*tau"):
        check_config(config())
    check_config(config(adaptive_sampling=False))


@pytest.mark.parametrize("objective_of", [objectives.stage2_objective, r2dc_objective])
def test_labels_are_the_same_where_only_the_rows_that_ask_are_encoded(
    objective_of, monkeypatch, with_dropout, one_device
):
    """R2D-C could have encoded the others, and no test would have told."""
    factory, params = with_dropout
    config = dataclasses.replace(HALF, adaptive_sampling=False)
    batch = shard_batch(batch_of(random_rows(3)), one_device) | IN_A_STEP

    def drawn(tokens_at_once):
        monkeypatch.setattr(cpu_parts, "_TOKENS", tokens_at_once)
        draw = objective_of(context_of(factory), config).draw
        labels = jit_on_mesh(lambda params: draw(factory.merge(params), batch, jnp.int32(5), ()), one_device)
        return labels(params)

    all_rows, chosen_rows = drawn(10**6), drawn(1)
    assert 0 < all_rows[objectives.SAMPLED].sum() < ROWS
    for name, value in all_rows.items():
        np.testing.assert_array_equal(chosen_rows[name], value, err_msg=name)

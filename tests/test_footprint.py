"""Bytes per device by hand, the compiler's plan of a step, and what recomputing saves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_steps import LABEL, ROWS, SAMPLING, context_of, one_device, random_rows

from r2d_jax.config import MeshConfig, T5Config
from r2d_jax.data.buckets import Bucket
from r2d_jax.data.features import Shapes
from r2d_jax.model.layer_loop import LayerLoop
from r2d_jax.model.parameters import T5Factory, flatten
from r2d_jax.runtime.mesh import jit_on_mesh, make_mesh
from r2d_jax.training import steps
from r2d_jax.training.footprint import (
    abstract_batch,
    parameter_rows,
    parameter_table,
    program_memory,
)
from r2d_jax.training.objectives import stage2_objective
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.r2dc import r2dc_objective
from r2d_jax.training.state import abstract_state
from r2d_jax.training.steps import make_train_step

# Nearly all of the time goes into compiling, and what is compared was compiled alike.
pytestmark = pytest.mark.usefixtures("compiled_quickly")

__all__ = ["one_device"]

SHAPE = T5Config(
    vocab_size=96,
    d_model=32,
    d_ff=64,
    d_kv=8,
    num_heads=4,
    num_layers=3,
    num_decoder_layers=3,
    dropout_rate=0.1,
)
# For what does not depend on the number of layers, each of which takes time to compile.
SHALLOW = dataclasses.replace(SHAPE, num_layers=1, num_decoder_layers=1)
SHAPES = Shapes(question=32, label=LABEL, rationale=32)


def test_bytes_per_device_by_hand():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rows = {row.name: row for row in parameter_rows(T5Factory(SHAPE).abstract_params, mesh)}
    # 96 x 32 floats over tensor 2 and fsdp 2.
    assert rows["embedding"].device_bytes == 96 * 32 * 4 // 4
    assert rows["embedding"].layout == "tensor fsdp"
    # Scales are whole on every device; a bias table has 4 heads over tensor 2.
    assert rows["encoder/final_norm/scale"].device_bytes == 32 * 4
    assert rows["encoder/relative_bias/table"].device_bytes == 32 * 4 * 4 // 2
    wi = rows["decoder/blocks/2/feed_forward/wi/kernel"]
    assert (wi.shape, wi.layout, wi.device_bytes) == ((32, 64), "fsdp tensor", 32 * 64 * 4 // 4)


def test_the_table_ends_with_the_sum():
    rows = list(parameter_rows(T5Factory(SHAPE).abstract_params, make_mesh(MeshConfig(8, 1, 1))))
    lines = parameter_table(rows).splitlines()
    assert len(lines) == len(rows) + 2
    count = sum(leaf.size for leaf in jax.tree.leaves(T5Factory(SHAPE).init(jax.random.key(0))))
    assert lines[-1].split() == ["all", str(len(rows)), f"{count:,}", f"{4 * count:,}"]


def lowered(context, mesh):
    optimizer = make_optimizer(SAMPLING.optimizer, SAMPLING.max_steps)
    state = abstract_state(context.factory.abstract_params, optimizer, mesh)
    batch = abstract_batch(ROWS, SHAPES, Bucket(32, 32), mesh)
    step = make_train_step(context, stage2_objective(context, SAMPLING), SAMPLING, mesh)
    return step.lower(state, batch)


def plan_of(factory, mesh):
    return program_memory(lowered(context_of(factory), mesh).compile())


@pytest.fixture(scope="module")
def plan(one_device):
    return plan_of(T5Factory(SHALLOW), one_device)


def test_the_plan_counts_state_and_batch(plan):
    """Weights and two moments in float32, and the batch; the state is written over, so it is no output."""
    count = sum(leaf.size for leaf in jax.tree.leaves(T5Factory(SHALLOW).abstract_params))
    batch = ROWS * (32 + LABEL + 32 + 5) * 4
    assert plan.arguments == pytest.approx(3 * 4 * count + batch, rel=0.01)
    assert plan.outputs < 10_000
    assert plan.peak > plan.arguments


def kept_bytes(loss, params):
    """Of what the backward pass is given."""
    backward = jax.eval_shape(lambda weights: jax.vjp(loss, weights)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


LOOPS = {
    "none": LayerLoop(),
    "dots": LayerLoop("dots"),
    "full": LayerLoop("full"),
    "scan": LayerLoop(scan=True),
    "full scan": LayerLoop("full", scan=True),
}


def test_recomputing_keeps_less_and_neither_it_nor_the_layer_loop_changes_a_gradient(one_device):
    kept, temporaries, gradients = {}, {}, {}
    question = jnp.asarray([(row[0] * 6)[:32] for row in random_rows(0)], jnp.int32)
    for name, loop in LOOPS.items():
        factory = T5Factory(SHAPE, loop=loop)

        def loss(params, factory=factory):
            keys = jax.random.split(jax.random.key(1), ROWS)
            model = factory.merge(params)
            mask = jnp.ones_like(question)
            encoded = model.encode(question, mask, keys)
            return jnp.sum(jnp.square(model.decode(question, encoded, mask, keys)))

        kept[name] = kept_bytes(loss, factory.abstract_params)
        params = factory.init(jax.random.key(0))
        gradient = jit_on_mesh(jax.grad(loss), one_device, recomputes=loop.recomputes)
        compiled = gradient.lower(params).compile()
        temporaries[name] = program_memory(compiled).temporaries
        gradients[name] = flatten(compiled(params))
    assert kept["full"] < kept["dots"] < kept["none"]
    assert kept["full"] < 0.4 * kept["none"]
    assert kept["full scan"] < kept["scan"]
    assert temporaries["full"] < 0.7 * temporaries["none"], temporaries
    assert temporaries["dots"] < temporaries["none"]
    for name, value in gradients["none"].items():
        for loop in LOOPS:
            scale = float(np.abs(value).max())
            np.testing.assert_allclose(
                gradients[loop][name], value, atol=2e-6 * scale, err_msg=f"{loop} {name}"
            )


@pytest.mark.parametrize(
    ("remat", "objective", "recomputes"),
    [("none", stage2_objective, False), ("dots", stage2_objective, True), ("none", r2dc_objective, True)],
)
def test_a_step_tells_the_compiler_whether_it_recomputes(
    one_device, monkeypatch, remat, objective, recomputes
):
    told = []
    monkeypatch.setattr(steps, "jit_on_mesh", lambda *_, **options: told.append(options["recomputes"]))
    context = context_of(T5Factory(SHAPE, loop=LayerLoop(remat)))
    make_train_step(context, objective(context, SAMPLING), SAMPLING, one_device)
    assert told == [recomputes]


def test_fully_sharded_state_takes_an_eighth(plan):
    parts = plan_of(T5Factory(SHALLOW), make_mesh(MeshConfig(1, 8, 1)))
    assert parts.arguments < 0.2 * plan.arguments


@pytest.mark.parametrize("donate", [True, False])
def test_a_step_writes_over_its_state_unless_told_not_to(one_device, donate):
    context = dataclasses.replace(context_of(T5Factory(SHALLOW)), donate_state=donate)
    text = lowered(context, one_device).as_text()
    assert ("tf.aliasing_output" in text or "jax.buffer_donor" in text) == donate

"""What a training step changes; in: weights and optimiser, out: TrainState, a plain pytree with shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r2d_jax.runtime.mesh import replicated, tree_shardings, with_shardings


class TrainState(NamedTuple):
    """step: int32 scalar, updates already applied; params: float32 dict; opt_state: of optax.

    seed: int32 scalar, that of the run; checkpoints do not hold it.
    objective_state: what the objective remembers from step to step; for most nothing.
    """

    step: Any
    params: Any
    opt_state: Any
    seed: Any
    objective_state: Any = ()


def seed_key(seed: int | jax.Array) -> jax.Array:
    """The typed key that all randomness of a run comes from, whatever JAX_DEFAULT_PRNG_IMPL says."""
    return jax.random.key(seed, impl="threefry2x32")


def put_count(number: int, mesh: Mesh) -> jax.Array:
    """A step or seed as an int32 scalar that every device holds."""
    return jax.device_put(jnp.int32(number), replicated(mesh))


def nothing() -> tuple[()]:
    """The state of an objective that remembers nothing."""
    return ()


def abstract_state(
    abstract_params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    init_state: Callable[[], Any] = nothing,
) -> TrainState:
    """Shapes of a state with their shardings, to restore, place or compile for; no array is made.

    Args:
        abstract_params: weights or their shapes.
        optimizer: of the stage.
        mesh: devices.
        init_state: of the objective.
    """
    step = jax.ShapeDtypeStruct((), jnp.int32)
    opt_state = jax.eval_shape(optimizer.init, abstract_params)
    state = TrainState(step, abstract_params, opt_state, step, jax.eval_shape(init_state))
    return with_shardings(state, mesh)


def fresh_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    init_state: Callable[[], Any] = nothing,
) -> TrainState:
    """Step 0 with these weights: optimiser, step count, schedules and objective begin again (stage hand-over)."""
    shardings = tree_shardings(abstract_state(params, optimizer, mesh, init_state), mesh)
    # An array that lies elsewhere would cost a second compile at the second step.
    params = jax.device_put(params, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    objective_state = jax.device_put(init_state(), shardings.objective_state)
    return TrainState(put_count(0, mesh), params, opt_state, put_count(seed, mesh), objective_state)

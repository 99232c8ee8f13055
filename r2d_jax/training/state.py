"""What a training step changes; in: weights and optimiser, out: TrainState, a plain pytree with shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r2d_jax.runtime.mesh import tree_shardings, with_shardings


class TrainState(NamedTuple):
    """step: int32 scalar, updates already applied; params: float32 dict; opt_state: of optax.

    objective_state: what the objective remembers from step to step; for most nothing.
    """

    step: Any
    params: Any
    opt_state: Any
    objective_state: Any = ()


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
    return with_shardings(TrainState(step, abstract_params, opt_state, jax.eval_shape(init_state)), mesh)


def fresh_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    init_state: Callable[[], Any] = nothing,
) -> TrainState:
    """Step 0 with these weights: optimiser, step count, schedules and objective begin again (stage hand-over)."""
    shardings = tree_shardings(abstract_state(params, optimizer, mesh, init_state), mesh)
    # An array that lies elsewhere would cost a second compile at the second step.
    params = jax.device_put(params, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    objective_state = jax.device_put(init_state(), shardings.objective_state)
    return TrainState(jax.device_put(jnp.int32(0), shardings.step), params, opt_state, objective_state)

"""What a training step changes; in: weights and optimiser, out: TrainState, a plain pytree with shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from r2d_jax.runtime.mesh import replicated, tree_shardings


class TrainState(NamedTuple):
    """step: int32 scalar, updates already applied; params: float32 dict; opt_state: of optax.

    objective_state: what the objective remembers from step to step; for most nothing.
    """

    step: Any
    params: Any
    opt_state: Any
    objective_state: Any = ()


def abstract_state(
    abstract_params: Any, optimizer: optax.GradientTransformation, init_state: Callable[[], Any] = tuple
) -> TrainState:
    """Shapes of a state, without making an array; `init_state` is that of the objective."""
    return TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        abstract_params,
        jax.eval_shape(optimizer.init, abstract_params),
        jax.eval_shape(init_state),
    )


def abstract_train_state(
    abstract_params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    init_state: Callable[[], Any] = tuple,
) -> TrainState:
    """Shapes of a state with their shardings, to restore or compile for; `init_state` is that of the objective."""
    state = abstract_state(abstract_params, optimizer, init_state)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(state, mesh),
    )


def state_shardings(abstract: TrainState, mesh: Mesh) -> TrainState:
    """A NamedSharding for every leaf."""
    step: NamedSharding = replicated(mesh)
    return TrainState(
        step,
        tree_shardings(abstract.params, mesh),
        tree_shardings(abstract.opt_state, mesh),
        jax.tree.map(lambda _: replicated(mesh), abstract.objective_state),
    )


def fresh_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    init_state: Callable[[], Any] = tuple,
) -> TrainState:
    """Step 0 with these weights: optimiser, step count, schedules and objective begin again (stage hand-over)."""
    shardings = state_shardings(abstract_state(params, optimizer, init_state), mesh)
    # An array that lies elsewhere would cost a second compile at the second step.
    params = jax.device_put(params, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    objective_state = jax.device_put(init_state(), shardings.objective_state)
    return TrainState(jax.device_put(jnp.int32(0), shardings.step), params, opt_state, objective_state)

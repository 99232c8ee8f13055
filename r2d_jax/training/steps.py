"""The jitted training functions; in: state and a global batch, out: the next state and metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r2d_jax.config import StageConfig
from r2d_jax.model.cpu_parts import cpu_parts, cpu_step_parts, scan_unroll, split_rows
from r2d_jax.model.parameters import Params
from r2d_jax.runtime.mesh import batch_sharding, jit_on_mesh, replicated, tree_shardings
from r2d_jax.training.objectives import (
    SEED,
    Batch,
    Metrics,
    Objective,
    StepContext,
    Terms,
    as_denominators,
    target_counts,
)
from r2d_jax.training.optimizer import learning_rate, make_optimizer
from r2d_jax.training.state import TrainState, abstract_state

STOP = "stop_requested"


def make_train_step(
    context: StepContext, objective: Objective, config: StageConfig, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The one training step of every stage: gradients of the objective, clip, AdamW; jitted and sharded.

    A batch, as `shard_batch` puts it, may hold STOP, from `put_flag`; the metrics then hold its maximum.

    The state is donated, unless the context says no. What the objective draws it draws from all rows at once;
    gradients are summed over micro-batches and divided once by the token counts of the global batch.
    """
    optimizer = make_optimizer(config.optimizer, config.max_steps)
    schedule = learning_rate(config.optimizer, config.max_steps)
    abstract = abstract_state(context.factory.abstract_params, optimizer, mesh, objective.init_state)
    shardings = tree_shardings(abstract, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = dict(batch)
        # Whether any process was asked to stop; the answer is the same everywhere, at the same step.
        stop = jnp.max(batch.pop(STOP)) if STOP in batch else jnp.int32(0)
        batch = batch | {"row": jnp.arange(batch["question_length"].shape[0], dtype=jnp.int32)}
        # Apart from the rows, which are split.
        seed = {SEED: state.seed}
        if objective.draw is not None:
            batch |= objective.draw(
                context.factory.merge(state.params), batch | seed, state.step, state.objective_state
            )
        denominators = as_denominators(target_counts(batch)) | {
            "rows": jnp.float32(batch["row"].shape[0]),
            "real_rows": jnp.sum((batch["row_weight"] > 0).astype(jnp.float32)),
        }

        def loss_of(params: Params, rows: Batch) -> tuple[jax.Array, Metrics]:
            sums = objective.terms(context.factory.merge(params), rows | seed, state.step, True)
            return objective.combine(sums, denominators, state.step)

        def gradient_of(params: Params, rows: Batch) -> tuple[Params, Metrics]:
            gradients, metrics = jax.grad(loss_of, has_aux=True)(params, rows)
            # Else every device sums and holds the gradients of all weights, whoever keeps the weight.
            return jax.lax.with_sharding_constraint(gradients, shardings.params), metrics

        width = context.factory.config.d_model
        parts = config.micro_batches or cpu_step_parts(*_rows_and_tokens(batch), width)
        if parts == 1:
            gradients, metrics = gradient_of(state.params, batch)
        else:
            gradients, metrics = _accumulate(gradient_of, state.params, batch, parts, scan_unroll(width))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        objective_state = state.objective_state
        if objective.update_state is not None:
            objective_state, further = objective.update_state(
                objective_state, metrics, denominators, state.step
            )
            metrics |= further
        metrics |= objective.schedule(state.step) | {
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            STOP: stop,
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.seed, objective_state), metrics

    return jit_on_mesh(
        train_step,
        mesh,
        recomputes=objective.recomputes or context.factory.loop.recomputes,
        donate_argnums=(0,) if context.donate_state else (),
        # Of a batch as it lies: STOP lies otherwise than the rows.
        in_shardings=(shardings, None),
        out_shardings=(shardings, replicated(mesh)),
    )


def _rows_and_tokens(batch: Batch) -> tuple[int, int]:
    rows, tokens = batch["question_ids"].shape
    return rows, tokens


def _accumulate(
    gradient_of: Callable[..., Any], params: Params, batch: Batch, parts: int, beside: int
) -> tuple[Params, Metrics]:
    split = split_rows(batch, parts)

    def add(total: Any, rows: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of(params, rows)), None

    first = jax.tree.map(lambda x: x[0], split)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient_of, params, first))
    return jax.lax.scan(add, zeros, split, unroll=beside)[0]


def make_loss_sums(
    context: StepContext, objective: Objective, mesh: Mesh
) -> Callable[[Params, Batch], tuple[Terms, dict[str, jax.Array]]]:
    """Validation: (loss sums, token counts) of a batch, dropout and sampling off; jitted and sharded."""

    def loss_sums(params: Params, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        batch = batch | {"row": jnp.arange(batch["question_length"].shape[0], dtype=jnp.int32)}
        model = context.factory.merge(params)
        parts = cpu_parts(*_rows_and_tokens(batch))
        terms = jax.lax.map(
            lambda rows: objective.terms(model, rows, jnp.int32(0), False), split_rows(batch, parts)
        )
        return jax.tree.map(lambda sums: sums.sum(0), terms), target_counts(batch)

    return jit_on_mesh(
        loss_sums, mesh, in_shardings=(None, batch_sharding(mesh)), out_shardings=replicated(mesh)
    )

"""The jitted training functions; in: state and a global batch, out: the next state and metrics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r2d_jax.config import Stage2Config, StageConfig
from r2d_jax.data.prompts import PromptBuilder
from r2d_jax.model.greedy import greedy_decode
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.model.t5 import T5, shift_right
from r2d_jax.objective.losses import target_mask, token_cross_entropy
from r2d_jax.objective.scheduled_sampling import draw_coins, mix_labels
from r2d_jax.objective.schedules import label_weight, sampling_probability
from r2d_jax.runtime.mesh import batch_sharding, replicated
from r2d_jax.training.optimizer import learning_rate, make_optimizer
from r2d_jax.training.state import TrainState, abstract_state, state_shardings

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Terms = dict[str, jax.Array]

# Purposes of a row's random keys; each has its own stream.
_PREDICT_DROPOUT, _EXPLAIN_DROPOUT, _COIN = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class StepContext:
    """What is fixed while a stage runs.

    Attributes:
        factory: shape and compute dtype of the model.
        prompts: builds encoder inputs on the device.
        vocab_limit: ids from here on are never generated.
        seed: of dropout and coins.
    """

    factory: T5Factory
    prompts: PromptBuilder
    vocab_limit: int
    seed: int


def row_keys(seed: int, stage: int, step: jax.Array, rows: jax.Array, purpose: int) -> jax.Array:
    """Typed keys [B], a function of (seed, stage, step, row of the global batch, purpose) alone."""
    key = jax.random.fold_in(
        jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stage), step), purpose
    )
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def sequence_loss(
    model: T5,
    encoded: jax.Array,
    input_mask: jax.Array,
    target_ids: jax.Array,
    mask: jax.Array,
    keys: jax.Array | None,
) -> jax.Array:
    """Summed cross-entropy of targets int32 [B, T] under mask [B, T], given encoded [B, S, D]."""
    logits = model.decode(shift_right(target_ids), encoded, input_mask, keys)
    return token_cross_entropy(logits, target_ids, mask)[0]


def rationale_terms(context: StepContext, model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
    """Stage 1: the rationale loss sum of `explain: x`, float32 scalar."""
    keys = row_keys(context.seed, 1, step, batch["row"], _EXPLAIN_DROPOUT) if training else None
    ids, mask = context.prompts.explain(batch["question_ids"], batch["question_length"])
    encoded = model.encode(ids, mask, _fold(keys, 0))
    loss = sequence_loss(
        model, encoded, mask, batch["rationale_ids"], _mask(batch, "rationale"), _fold(keys, 1)
    )
    return {"rationale_loss_sum": loss}


def label_and_rationale_terms(
    context: StepContext, config: Stage2Config, model: T5, batch: Batch, step: jax.Array, training: bool
) -> Terms:
    """Stage 2: loss sums of the label and of the rationale given a gold or predicted label.

    The label decode runs with dropout off (unless label_decode_dropout), behind a gradient stop, and
    only where a coin of this batch asks for it.
    """
    question = (batch["question_ids"], batch["question_length"])
    ids, mask = context.prompts.predict(*question)
    keys = row_keys(context.seed, 2, step, batch["row"], _PREDICT_DROPOUT) if training else None
    encoded = model.encode(ids, mask, _fold(keys, 0))
    label_loss = sequence_loss(
        model, encoded, mask, batch["label_ids"], _mask(batch, "label"), _fold(keys, 1)
    )

    gold = (batch["label_ids"], jnp.maximum(batch["label_length"] - 1, 0))
    given, sampled = gold, jnp.zeros(batch["row"].shape, bool)
    if training and config.max_sampling_probability > 0:
        probability = sampling_probability(step, config)
        sampled = draw_coins(row_keys(context.seed, 2, step, batch["row"], _COIN), probability)
        same_encoding = config.label_decode_dropout or context.factory.config.dropout_rate == 0

        def decode() -> tuple[jax.Array, jax.Array]:
            source = encoded if same_encoding else model.encode(ids, mask)
            decoded = greedy_decode(
                model,
                source,
                mask,
                max_tokens=gold[0].shape[1],
                vocab_limit=context.vocab_limit,
                row_keys=_fold(keys, 2) if config.label_decode_dropout else None,
            )
            return decoded.token_ids, decoded.lengths

        predicted = jax.lax.cond(jnp.any(sampled), decode, lambda: gold)
        given = mix_labels(sampled, *gold, *jax.lax.stop_gradient(predicted))

    ids, mask = context.prompts.explain_given_label(*question, *given)
    keys = row_keys(context.seed, 2, step, batch["row"], _EXPLAIN_DROPOUT) if training else None
    encoded = model.encode(ids, mask, _fold(keys, 0))
    rationale_loss = sequence_loss(
        model, encoded, mask, batch["rationale_ids"], _mask(batch, "rationale"), _fold(keys, 1)
    )
    return {
        "label_loss_sum": label_loss,
        "rationale_loss_sum": rationale_loss,
        "sampled_rows": jnp.sum(sampled.astype(jnp.float32)),
    }


def _mask(batch: Batch, name: str) -> jax.Array:
    mask = target_mask(batch[f"{name}_length"], batch[f"{name}_ids"].shape[1])
    return mask & (batch["row_weight"][:, None] > 0)


def _fold(keys: jax.Array | None, part: int) -> jax.Array | None:
    # Encoder (0), decoder (1) and label decode (2) of one pass must not share masks.
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, part)


def _weights(batch: Batch) -> dict[str, jax.Array]:
    return {
        name: jnp.maximum(jnp.sum(_mask(batch, name).astype(jnp.float32)), 1.0)
        for name in ("label", "rationale")
    }


TermsFn = Callable[[T5, Batch, jax.Array, bool], Terms]
ObjectiveFn = Callable[[Terms, dict[str, jax.Array], jax.Array], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a stage or baseline minimises.

    Attributes:
        terms: sums over the rows it is given.
        combine: those sums, the global weights and the step to (loss, metrics); linear in the sums, so
            it may be applied to a micro-batch's sums and added up.
        schedule: metrics that depend on the step only.
    """

    terms: TermsFn
    combine: ObjectiveFn
    schedule: Callable[[jax.Array], Metrics]


def stage1_objective(context: StepContext) -> Objective:
    """-log P(r | explain: x), a mean over the target tokens of the global batch."""

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        return rationale_terms(context, model, batch, step, training)

    def combine(sums: Terms, weights: dict[str, jax.Array], step: jax.Array) -> tuple[jax.Array, Metrics]:
        loss = sums["rationale_loss_sum"] / weights["rationale"]
        return loss, {"loss": loss, "rationale_loss": loss}

    return Objective(terms, combine, lambda step: {})


def stage2_objective(context: StepContext, config: Stage2Config) -> Objective:
    """alpha·L_label + (1 - alpha)·L_rationale with task-level scheduled sampling."""

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        return label_and_rationale_terms(context, config, model, batch, step, training)

    def combine(sums: Terms, weights: dict[str, jax.Array], step: jax.Array) -> tuple[jax.Array, Metrics]:
        alpha = label_weight(step, config)
        label = sums["label_loss_sum"] / weights["label"]
        rationale = sums["rationale_loss_sum"] / weights["rationale"]
        loss = alpha * label + (1.0 - alpha) * rationale
        sampled = sums["sampled_rows"] / weights["rows"]
        return loss, {
            "loss": loss,
            "label_loss": label,
            "rationale_loss": rationale,
            "sampled_fraction": sampled,
        }

    def schedule(step: jax.Array) -> Metrics:
        return {
            "label_weight": label_weight(step, config),
            "sampling_probability": sampling_probability(step, config),
        }

    return Objective(terms, combine, schedule)


def make_train_step(
    context: StepContext, objective: Objective, config: StageConfig, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The one training step of every stage: gradients of the objective, clip, AdamW; jitted and sharded.

    The state is donated. Gradients are summed over micro-batches and divided once by the token counts
    of the global batch.
    """
    optimizer = make_optimizer(config.optimizer, config.max_steps)
    schedule = learning_rate(config.optimizer, config.max_steps)
    shardings = state_shardings(abstract_state(context.factory.abstract_params, optimizer), mesh)
    parts = config.micro_batches

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = batch | {"row": jnp.arange(batch["question_length"].shape[0], dtype=jnp.int32)}
        weights = _weights(batch) | {"rows": jnp.float32(batch["row"].shape[0])}

        def loss_of(params: Params, rows: Batch) -> tuple[jax.Array, Metrics]:
            sums = objective.terms(context.factory.merge(params), rows, state.step, True)
            return objective.combine(sums, weights, state.step)

        gradient_of = jax.grad(loss_of, has_aux=True)
        if parts == 1:
            gradients, metrics = gradient_of(state.params, batch)
        else:
            gradients, metrics = _accumulate(gradient_of, state.params, batch, parts)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics |= objective.schedule(state.step) | {
            "grad_norm": optax.tree.norm(gradients),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )


def _accumulate(
    gradient_of: Callable[..., Any], params: Params, batch: Batch, parts: int
) -> tuple[Params, Metrics]:
    # Each part takes every parts-th row, so that a part is spread over all devices like the whole.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, rows: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of(params, rows)), None

    first = jax.tree.map(lambda x: x[0], split)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient_of, params, first))
    return jax.lax.scan(add, zeros, split)[0]


def make_loss_sums(
    context: StepContext, objective: Objective, mesh: Mesh
) -> Callable[[Params, Batch], tuple[Terms, dict[str, jax.Array]]]:
    """Validation: (loss sums, token counts) of a batch, dropout and sampling off; jitted and sharded."""

    def loss_sums(params: Params, batch: Batch) -> tuple[Terms, dict[str, jax.Array]]:
        batch = batch | {"row": jnp.arange(batch["question_length"].shape[0], dtype=jnp.int32)}
        counts = {name: jnp.sum(_mask(batch, name).astype(jnp.float32)) for name in ("label", "rationale")}
        return objective.terms(context.factory.merge(params), batch, jnp.int32(0), False), counts

    return jax.jit(loss_sums, in_shardings=(None, batch_sharding(mesh)), out_shardings=replicated(mesh))

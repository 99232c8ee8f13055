"""What R2D-C minimises (Hasan et al., 2026); in: StepContext and config, out: an Objective whose state is tau."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from r2d_jax.config import Stage2Config
from r2d_jax.model.t5 import T5, shift_right
from r2d_jax.objective.confidence import Threshold, init_threshold, update_threshold, use_probability
from r2d_jax.objective.cycle import soft_predict, soft_tokens, word_count
from r2d_jax.objective.losses import token_cross_entropy
from r2d_jax.objective.scheduled_sampling import sample_mask
from r2d_jax.objective.schedules import cycle_weight, gumbel_temperature, sampling_probability
from r2d_jax.training.objectives import (
    GIVEN_IDS,
    STAGE2,
    Batch,
    Denominators,
    KeyPart,
    Metrics,
    Objective,
    StepContext,
    Stream,
    Terms,
    decode_labels,
    dropout_keys,
    explain_given,
    fold_keys,
    given_labels,
    given_mask,
    gold_labels,
    label_pass,
    question_of,
    row_keys,
    sampled_labels,
    stage2_objective,
)

CONFIDENCE = "confidence"
"""Of a batch, once labels are decoded, float32 [B]: exp of the mean log-probability of the label's tokens."""


def r2dc_objective(context: StepContext, config: Stage2Config) -> Objective:
    """alpha·L_label + (1 - alpha)·L_rationale + weight·L_cycle, with confidence-adaptive sampling.

    Either part can be switched off; without both this is Reason2Decide itself.
    """
    sampling = config.max_sampling_probability > 0
    adaptive, cycle = config.adaptive_sampling and sampling, config.cycle_weight > 0
    base = stage2_objective(context, config)
    if not (adaptive or cycle):
        return base

    def draw(model: T5, batch: Batch, step: jax.Array, objective_state: Any) -> Batch:
        def encode(wanted: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
            prompt = context.prompts.predict(*question_of(batch))
            if not config.label_decode_dropout:
                return model.encode(*prompt, wanted=wanted), None
            keys = dropout_keys(batch, STAGE2, step, Stream.PREDICT_DROPOUT, True)
            encoded = model.encode(*prompt, fold_keys(keys, KeyPart.ENCODER))
            return encoded, fold_keys(keys, KeyPart.LABEL_DECODE)

        if not sampling:
            return given_labels(batch, jnp.zeros(batch["row"].shape, bool), gold_labels(batch))
        if not adaptive:
            return sampled_labels(context, config, model, batch, step, encode)
        # In warm-up too: tau is made of what is seen there.
        decoded = decode_labels(context, model, batch, encode)
        confidence = jnp.exp(decoded.mean_log_prob)
        probability = use_probability(sampling_probability(step, config), confidence, objective_state.tau)
        sampled = sample_mask(row_keys(batch, STAGE2, step, Stream.COIN), probability)
        given = given_labels(batch, sampled, (decoded.token_ids, decoded.lengths))
        return given | {CONFIDENCE: confidence}

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        keys = dropout_keys(batch, STAGE2, step, Stream.PREDICT_DROPOUT, training)
        sums = {"label_loss_sum": label_pass(context, model, batch, keys).loss_sum}
        explained, logits = explain_given(context, model, batch, step, training)
        sums |= explained
        if training and adaptive:
            real = batch["row_weight"] > 0
            sums["confidence_sum"] = jnp.sum(jnp.where(real, batch[CONFIDENCE], 0.0))
        if training and cycle:
            sums["cycle_loss_sum"] = cycle_loss_sum(context, config, model, batch, step, logits)
        return sums

    def combine(sums: Terms, denominators: Denominators, step: jax.Array) -> tuple[jax.Array, Metrics]:
        loss, metrics = base.combine(sums, denominators, step)
        if adaptive:
            metrics["confidence"] = sums["confidence_sum"] / jnp.maximum(denominators["real_rows"], 1.0)
        if cycle:
            metrics["cycle_loss"] = sums["cycle_loss_sum"] / denominators["given"]
            loss += cycle_weight(step, config) * metrics["cycle_loss"]
        return loss, metrics | {"loss": loss}

    def schedule(step: jax.Array) -> Metrics:
        if not cycle:
            return base.schedule(step)
        temperature = gumbel_temperature(step, config)
        further = {"cycle_weight": cycle_weight(step, config), "gumbel_temperature": temperature}
        return base.schedule(step) | further

    def update_state(
        threshold: Threshold, metrics: Metrics, denominators: Denominators, step: jax.Array
    ) -> tuple[Threshold, Metrics]:
        rows = denominators["real_rows"]
        confidence_sum = metrics["confidence"] * rows
        threshold = update_threshold(threshold, confidence_sum, rows.astype(jnp.int32), step, config)
        return threshold, {"tau": threshold.tau}

    objective = Objective(terms, combine, schedule, draw, recomputes=cycle)
    if not adaptive:
        return objective
    return dataclasses.replace(objective, init_state=init_threshold, update_state=update_state)


def cycle_loss_sum(
    context: StepContext, config: Stage2Config, model: T5, batch: Batch, step: jax.Array, logits: jax.Array
) -> jax.Array:
    """Summed loss of reading the given label from the rationale that was generated for it, float32 scalar.

    The gradient flows through the mixed embeddings into the rationale pass, and into the weights that read. The
    label is data.

    Args:
        context: of the stage.
        config: of the stage.
        model: T5.
        batch: rows with the labels that were given.
        step: int32 scalar.
        logits: of the rationale pass, float32 [B, T, V].
    """
    noise_keys = row_keys(batch, STAGE2, step, Stream.GUMBEL)
    words = word_count(batch["rationale_ids"], batch["rationale_length"])

    # The shares are as large as the logits: computed again, they are not held beside them for the backward pass.
    @jax.checkpoint
    def embedded(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        temperature = gumbel_temperature(step, config)
        shares = soft_tokens(logits, noise_keys, temperature, context.vocab_limit)
        return soft_predict(model, context.prompts, shares, words)

    keys = dropout_keys(batch, STAGE2, step, Stream.CYCLE_DROPOUT, True)
    soft, mask = embedded(logits)
    encoded = model.encode_embedded(soft, mask, fold_keys(keys, KeyPart.ENCODER))
    given = batch[GIVEN_IDS]
    read = model.decode(shift_right(given), encoded, mask, fold_keys(keys, KeyPart.DECODER))
    return token_cross_entropy(read, given, given_mask(batch))

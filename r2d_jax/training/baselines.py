"""What the methods that Reason2Decide is compared with minimise; in: StepContext and config, out: an Objective."""

import jax
import jax.numpy as jnp

from r2d_jax.config import Stage2Config
from r2d_jax.model.t5 import T5
from r2d_jax.training.objectives import (
    STAGE2,
    Batch,
    Denominators,
    Metrics,
    Objective,
    StepContext,
    Stream,
    Terms,
    dropout_keys,
    label_pass,
    question_of,
    target_pass,
    weighted_loss,
)


def _label_loss_sum(
    context: StepContext, model: T5, batch: Batch, step: jax.Array, training: bool
) -> jax.Array:
    keys = dropout_keys(batch, STAGE2, step, Stream.PREDICT_DROPOUT, training)
    return label_pass(context, model, batch, keys).loss_sum


def sft_objective(context: StepContext, config: Stage2Config) -> Objective:
    """Supervised fine-tuning: -log P(y | predict: x), a mean over the label tokens of the global batch."""

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        return {"label_loss_sum": _label_loss_sum(context, model, batch, step, training)}

    def combine(sums: Terms, denominators: Denominators, step: jax.Array) -> tuple[jax.Array, Metrics]:
        loss = sums["label_loss_sum"] / denominators["label"]
        return loss, {"loss": loss, "label_loss": loss}

    return Objective(terms, combine, lambda step: {})


def dss_objective(context: StepContext, config: Stage2Config) -> Objective:
    """Distilling step-by-step (Hsieh et al., 2023): label, and rationale that is given no label.

    The weights are fixed: config.label_weight for the label, the rest for the rationale. At 0.5 this is
    the published sum of both losses, halved.
    """

    def terms(model: T5, batch: Batch, step: jax.Array, training: bool) -> Terms:
        keys = dropout_keys(batch, STAGE2, step, Stream.EXPLAIN_DROPOUT, training)
        prompt = context.prompts.explain(*question_of(batch))
        return {
            "label_loss_sum": _label_loss_sum(context, model, batch, step, training),
            "rationale_loss_sum": target_pass(model, batch, "rationale", prompt, keys).loss_sum,
        }

    def combine(sums: Terms, denominators: Denominators, step: jax.Array) -> tuple[jax.Array, Metrics]:
        return weighted_loss(sums, denominators, config.label_weight)

    return Objective(terms, combine, lambda step: {"label_weight": jnp.float32(config.label_weight)})

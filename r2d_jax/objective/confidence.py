"""Confidence-adaptive sampling (R2D-C); in: confidences of decoded labels, out: how likely each is used, and tau."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2d_jax.config import Stage2Config
from r2d_jax.objective.schedules import warmup_end_step

SHARPNESS = 10.0
"""How fast the probability of use rises with confidence: by 0.25 x pi x SHARPNESS for each unit, at tau."""


class Threshold(NamedTuple):
    """tau, and what its next value is made of; scalars.

    Attributes:
        tau: float32; a label of this confidence is used with half of pi. 0 before the first step.
        window_sum: float32; sum of the confidences of the window that is not complete yet.
        window_rows: int32; how many they are.
    """

    tau: jax.Array
    window_sum: jax.Array
    window_rows: jax.Array


def init_threshold() -> Threshold:
    """Before the first step."""
    return Threshold(jnp.float32(0.0), jnp.float32(0.0), jnp.int32(0))


def use_probability(probability: jax.Array, confidence: jax.Array, tau: jax.Array) -> jax.Array:
    """How likely each predicted label is used (Hasan et al., 2026): pi·sigmoid(10·(c - tau)).

    Args:
        probability: pi, float32 scalar.
        confidence: c, float32 [B]; exp of the mean log-probability of the label's tokens.
        tau: float32 scalar.

    Returns:
        float32 [B].
    """
    return probability * jax.nn.sigmoid(SHARPNESS * (confidence - tau))


def update_threshold(
    threshold: Threshold, confidence_sum: jax.Array, rows: jax.Array, step: jax.Array, config: Stage2Config
) -> Threshold:
    """The threshold after a step.

    In warm-up tau is the mean of all confidences so far, so at its end that of warm-up. From there on windows of
    config.tau_window_steps follow each other, and the last step of each makes its mean the new tau.

    Args:
        threshold: before the step.
        confidence_sum: of the real rows of the global batch, float32 scalar.
        rows: how many they are, int32 scalar.
        step: int32 scalar, updates before this one.
        config: of the stage.
    """
    total, count = threshold.window_sum + confidence_sum, threshold.window_rows + rows
    since_warmup = step + 1 - warmup_end_step(config)
    ends = (since_warmup >= 0) & (since_warmup % config.tau_window_steps == 0)
    mean = total / jnp.maximum(count, 1).astype(jnp.float32)
    return Threshold(
        jnp.where((ends | (since_warmup < 0)) & (count > 0), mean, threshold.tau),
        jnp.where(ends, 0.0, total),
        jnp.where(ends, 0, count),
    )

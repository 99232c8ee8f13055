"""Schedules of stage 2; in: a traced step, out: alpha, pi and, for R2D-C, two more as float32 scalars."""

import math

import jax
import jax.numpy as jnp

from r2d_jax.config import Stage2Config


def label_weight(step: jax.Array, config: Stage2Config) -> jax.Array:
    """alpha(t): 0 at step 0, linear to config.label_weight at the end of warm-up, then constant.

    Args:
        step: int32 scalar, updates already applied.
        config: warmup_fraction and max_steps give the warm-up (Reason2Decide, section on the stage-2 loss).

    Returns:
        float32 scalar.
    """
    warmup = config.warmup_fraction * config.max_steps
    progress = jnp.minimum(step.astype(jnp.float32) / max(warmup, 1e-9), 1.0)
    return jnp.float32(config.label_weight) * (progress if warmup > 0 else jnp.float32(1.0))


def sampling_probability(step: jax.Array, config: Stage2Config) -> jax.Array:
    """pi(t): 0 until the end of warm-up, then linear with slope 1 / transition steps, capped.

    Args:
        step: int32 scalar, updates already applied.
        config: warmup_fraction, transition_fraction, max_sampling_probability and max_steps.

    Returns:
        float32 scalar.
    """
    since_warmup = step.astype(jnp.float32) - config.warmup_fraction * config.max_steps
    slope = 1.0 / (config.transition_fraction * config.max_steps)
    return jnp.clip(since_warmup * slope, 0.0, config.max_sampling_probability)


def warmup_end_step(config: Stage2Config) -> int:
    """First step after warm-up."""
    # Rounded first: 0.07 x 100 is a little above 7.
    return math.ceil(round(config.warmup_fraction * config.max_steps, 6))


def cycle_weight(step: jax.Array, config: Stage2Config) -> jax.Array:
    """Weight of the cycle loss (R2D-C): 0 in warm-up, then config.cycle_weight; float32 of an int32 scalar."""
    return jnp.where(step >= warmup_end_step(config), jnp.float32(config.cycle_weight), 0.0)


def gumbel_temperature(step: jax.Array, config: Stage2Config) -> jax.Array:
    """Temperature of the soft rationale (R2D-C): from start to end over max_steps by equal factors per step.

    Args:
        step: int32 scalar, updates already applied.
        config: gumbel_start_temperature, gumbel_end_temperature and max_steps.

    Returns:
        float32 scalar.
    """
    fall = math.log(config.gumbel_end_temperature / config.gumbel_start_temperature) / config.max_steps
    return jnp.float32(config.gumbel_start_temperature) * jnp.exp(fall * step.astype(jnp.float32))


def transition_end_step(config: Stage2Config) -> int:
    """The first step after warm-up and transition; from here on evaluations count for selection."""
    # Sums of fractions such as 0.1 + 0.2 come out a little too large.
    end = round((config.warmup_fraction + config.transition_fraction) * config.max_steps, 6)
    return min(math.ceil(end), config.max_steps)

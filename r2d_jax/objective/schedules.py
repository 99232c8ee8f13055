"""The two schedules of stage 2; in: a traced step, out: alpha and pi as float32 scalars."""

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


def transition_end_step(config: Stage2Config) -> int:
    """First step after warm-up and transition; from here on evaluations count for selection."""
    return min(
        round((config.warmup_fraction + config.transition_fraction) * config.max_steps), config.max_steps
    )

"""AdamW with clipping and linear decay; in: OptimizerConfig and max_steps, out: an optax transformation."""

import optax

from r2d_jax.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, max_steps: int) -> optax.Schedule:
    """Rate of update k (0-based): optional linear warm-up, then linear from the peak to 0 at max_steps."""
    decay = optax.linear_schedule(config.learning_rate, 0.0, max_steps - config.warmup_steps)
    if config.warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, max_steps: int) -> optax.GradientTransformation:
    """Clip the global gradient norm, then AdamW (Loshchilov & Hutter, 2019), moments in float32."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, max_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
        ),
    )

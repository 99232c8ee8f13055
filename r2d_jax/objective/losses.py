"""Token-weighted cross-entropy; in: logits and targets, out: a loss sum, still to be divided by a token count."""

import jax
import jax.numpy as jnp
import optax


def target_mask(length: jax.Array, width: int) -> jax.Array:
    """Mask bool [B, T] of the first `length` int32 [B] positions."""
    return jnp.arange(width, dtype=jnp.int32)[None, :] < length[:, None]


def token_cross_entropy(
    logits: jax.Array, target_ids: jax.Array, mask: jax.Array, row_weight: jax.Array | None = None
) -> jax.Array:
    """Summed negative log-likelihood of the target tokens.

    Sums are returned, not means, so that devices and micro-batches can be added before the one
    division by the tokens of the global batch.

    Args:
        logits: float32 [B, T, V].
        target_ids: int32 [B, T]; where the mask is False any value is allowed.
        mask: bool [B, T].
        row_weight: float32 [B], how much the tokens of a row count; None: 1.

    Returns:
        float32 scalar.
    """
    # Selecting before the gather and after the log keeps ids such as -100 out of the index and NaN out of the sum.
    safe_ids = jnp.where(mask, target_ids, 0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, safe_ids)
    weights = mask.astype(jnp.float32)
    if row_weight is not None:
        weights *= row_weight[:, None]
    return jnp.sum(jnp.where(mask, loss * weights, 0.0))

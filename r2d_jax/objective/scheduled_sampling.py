"""Task-level scheduled sampling; in: row keys, gold and predicted labels, out: the label of each rationale prompt."""

import jax
import jax.numpy as jnp


def sample_mask(row_keys: jax.Array, probability: jax.Array) -> jax.Array:
    """Whether each row is given its predicted label: True with this probability.

    Args:
        row_keys: typed PRNG keys [B], one per row of the global batch.
        probability: float32 scalar, or [B] for each row; 0 gives only False, 1 only True.

    Returns:
        bool [B].
    """
    return jax.vmap(jax.random.uniform)(row_keys) < probability


def mix_labels(
    sampled: jax.Array,
    gold_ids: jax.Array,
    gold_length: jax.Array,
    predicted_ids: jax.Array,
    predicted_length: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Predicted label where `sampled`, gold elsewhere, per row.

    Args:
        sampled: bool [B].
        gold_ids: int32 [B, L].
        gold_length: int32 [B], without the end token.
        predicted_ids: int32 [B, L].
        predicted_length: int32 [B], without the end token.

    Returns:
        mixed ids int32 [B, L] and lengths int32 [B].
    """
    return (
        jnp.where(sampled[:, None], predicted_ids, gold_ids),
        jnp.where(sampled, predicted_length, gold_length),
    )

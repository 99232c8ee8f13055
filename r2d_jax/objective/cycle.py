"""The cycle of R2D-C; in: rationale logits, out: `predict: {rationale}` as an encoder input that has a gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from r2d_jax.data.prompts import END_ID, PAD_ID, PromptBuilder
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.t5 import T5
from r2d_jax.objective.losses import target_mask


def gumbel_noise(row_keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws from the standard Gumbel distribution, each a function of its row's key and its place alone.

    Args:
        row_keys: typed PRNG keys [B], one per row of the global batch.
        shape: of one row.

    Returns:
        float32 [B, *shape], computed elementwise, so that it need not be held; from -2.8 to 16.6.
    """
    bits = RowDropout.of(row_keys, 0.0).bits(shape)
    # Of 23 bits and a half float32 holds every value, so that none is rounded to 0 or 1.
    uniform = ((bits >> np.uint32(9)).astype(jnp.float32) + 0.5) * np.float32(2**-23)
    return -jnp.log(-jnp.log(uniform))


def soft_tokens(
    logits: jax.Array, row_keys: jax.Array, temperature: jax.Array, vocab_limit: int
) -> jax.Array:
    """Gumbel-softmax (Jang et al., 2017): a random token at every place, blurred so that it has a gradient.

    Ids from vocab_limit on, pad and the end token get nothing: none of them stands inside a text.

    Args:
        logits: float32 [B, T, V].
        row_keys: typed PRNG keys [B] of the noise.
        temperature: float32 scalar.
        vocab_limit: ids from here on are never generated.

    Returns:
        float32 [B, T, V], the sum over V is 1.
    """
    ids = np.arange(logits.shape[-1])
    allowed = (ids < vocab_limit) & (ids != PAD_ID) & (ids != END_ID)
    noisy = (logits + gumbel_noise(row_keys, logits.shape[1:])) / temperature
    return jax.nn.softmax(jnp.where(allowed[None, None, :], noisy, -jnp.inf), axis=-1)


def word_count(rationale_ids: jax.Array, rationale_length: jax.Array) -> jax.Array:
    """Tokens of each rationale without its end token, which a rationale that was cut has not; int32 [B]."""
    inside = target_mask(rationale_length, rationale_ids.shape[1])
    return jnp.sum(inside & (rationale_ids != END_ID), axis=1, dtype=jnp.int32)


def soft_predict(
    model: T5, prompts: PromptBuilder, shares: jax.Array, words: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The input `predict: {rationale}` with its end token, where the rationale is mixtures of tokens.

    Args:
        model: whose embeddings are mixed.
        prompts: lays out the input as that of any text.
        shares: float32 [B, T, V], from `soft_tokens`.
        words: int32 [B]; positions after them are left out.

    Returns:
        embeddings [B, S, D] in the compute dtype and mask int32 [B, S].
    """
    batch, width = shares.shape[:2]
    ids, mask = prompts.predict(jnp.full((batch, width), PAD_ID, jnp.int32), words)
    before = len(prompts.tokens.predict)
    place = jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :] - before
    inside = (place >= 0) & (place < words[:, None])
    mixed = jnp.pad(model.embed_mixture(shares), ((0, 0), (before, ids.shape[1] - before - width), (0, 0)))
    return jnp.where(inside[:, :, None], mixed, model.embed(ids)), mask

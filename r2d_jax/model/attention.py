"""Multi-head attention of T5; in: queries' source, keys and values, a bias, out: what is attended to [B, T, D]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from r2d_jax.config import T5Config
from r2d_jax.model.dropout import RowDropout, before_dropout
from r2d_jax.model.half_precision import dropped_softmax, wide_product
from r2d_jax.model.layers import linear, precision_of


class AttentionBias(NamedTuple):
    """What is added to the scores before the softmax, in parts: their sum would be of the size of the scores.

    Attributes:
        position: float32 [1, H, T, S]; None: nothing.
        keys: float32 [B, 1, 1, S], by row; None: nothing.
    """

    position: jax.Array | None
    keys: jax.Array | None


class Attention(nnx.Module):
    """Multi-head attention without scaling by sqrt(K), as in T5."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        d_model, inner = config.d_model, config.num_heads * config.d_kv
        self.q = linear(d_model, inner, (d_model * config.d_kv) ** -0.5, dtype=dtype, rngs=rngs)
        self.k = linear(d_model, inner, d_model**-0.5, dtype=dtype, rngs=rngs)
        self.v = linear(d_model, inner, d_model**-0.5, dtype=dtype, rngs=rngs)
        self.o = linear(inner, d_model, inner**-0.5, dtype=dtype, rngs=rngs)
        self.num_heads = config.num_heads
        self.precision = precision_of(dtype)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, H, S, K] of x [B, S, D]."""
        return self._heads(self.k(x)), self._heads(self.v(x))

    def __call__(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, bias: AttentionBias, dropout: RowDropout
    ) -> jax.Array:
        """Attend from x [B, T, D] to keys and values [B, H, S, K].

        Args:
            x: queries' source.
            keys: from `keys_values`.
            values: from `keys_values`.
            bias: of positions and of masked keys.
            dropout: applied to the attention weights.

        Returns:
            [B, T, D] in the compute dtype; the softmax is float32.
        """
        queries = self._heads(self.q(x))
        return self._joined(mix(queries, keys, values, bias, dropout, self.precision))

    def cached_keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same as `keys_values`, with the positions last: [B, H, K, S], as `attend_cached` wants them."""
        keys, values = self.keys_values(x)
        return keys.swapaxes(2, 3), values.swapaxes(2, 3)

    def attend_cached(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, bias: AttentionBias, dropout: RowDropout
    ) -> jax.Array:
        """Attend from one position x [B, 1, D] to keys and values [B, H, K, S]; as calling it, [B, 1, D].

        A decode step does little but read these two, and positions side by side are read fastest: on CPU as in
        the tiles of a TPU, which a last axis of 64 fills by half.
        """
        queries = self._heads(self.q(x))
        scores = jnp.einsum(
            "bhtk,bhks->bhts", queries, keys, precision=self.precision, preferred_element_type=jnp.float32
        )
        weights = _weights(scores, bias).astype(values.dtype)
        return self._joined(jnp.einsum("bhts,bhks->bhtk", dropout(weights), values, precision=self.precision))

    def _joined(self, mixed: jax.Array) -> jax.Array:
        batch, _, length, _ = mixed.shape
        return self.o(mixed.swapaxes(1, 2).reshape(batch, length, -1))


def _weights(scores: jax.Array, bias: AttentionBias) -> jax.Array:
    return jax.nn.softmax(_biased(scores, bias), axis=-1)


def _biased(scores: jax.Array, bias: AttentionBias) -> jax.Array:
    for part in bias:
        scores = scores if part is None else scores + part
    return scores


def mix(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    bias: AttentionBias,
    dropout: RowDropout,
    precision: jax.lax.Precision | None,
) -> jax.Array:
    """softmax(queries·keys + bias)·values: [B, H, T, K] of queries [B, H, T, K], keys and values [B, H, S, K]."""
    if values.dtype != jnp.float32:
        scores = wide_product("bhtk,bhsk->bhts", queries, keys)
        weights = dropped_softmax(_biased(scores, bias), *dropout.kept(scores.shape[1:]), values.dtype)
        return jnp.einsum("bhts,bhsk->bhtk", weights, values)
    scores = jnp.einsum("bhtk,bhsk->bhts", queries, keys, precision=precision)
    weights = _weights(scores, bias)
    weights = weights if dropout.words is None else dropout(before_dropout(weights))
    return jnp.einsum("bhts,bhsk->bhtk", weights, values, precision=precision)

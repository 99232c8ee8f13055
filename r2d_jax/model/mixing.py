"""Dot-product attention without projections; in: queries, keys, values and a bias, out: weighted values per head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2d_jax.model.dropout import RowDropout, before_dropout
from r2d_jax.model.half_precision import dropped_softmax, wide_product
from r2d_jax.model.layers import einsum
from r2d_jax.runtime.mesh import cache_sharded, on_one_cpu

# XLA:CPU runs one reduction on one core; this many partial sums use several.
_PARTS = 4


class AttentionBias(NamedTuple):
    """What is added to the scores before the softmax, in parts: their sum would be of the size of the scores.

    Attributes:
        position: float32 [1, H, T, S]; None: nothing.
        keys: float32 [B, 1, 1, S], by row; None: nothing.
    """

    position: jax.Array | None
    keys: jax.Array | None


def _weights(scores: jax.Array, bias: AttentionBias) -> jax.Array:
    return jax.nn.softmax(_biased(scores, bias), axis=-1)


def _biased(scores: jax.Array, bias: AttentionBias) -> jax.Array:
    for part in bias:
        scores = scores if part is None else scores + part
    return scores


def attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, bias: AttentionBias, dropout: RowDropout
) -> jax.Array:
    """softmax(queries·keys + bias)·values: [B, H, T, K] of queries [B, H, T, K], keys and values [B, H, S, K]."""
    if values.dtype != jnp.float32:
        scores = wide_product("bhtk,bhsk->bhts", queries, keys)
        weights = dropped_softmax(_biased(scores, bias), *dropout.kept(scores.shape[1:]), values.dtype)
        return einsum("bhts,bhsk->bhtk", weights, values)
    scores = einsum("bhtk,bhsk->bhts", queries, keys)
    weights = _weights(scores, bias)
    weights = weights if dropout.words is None else dropout(before_dropout(weights))
    return einsum("bhts,bhsk->bhtk", weights, values)


class KVCache(NamedTuple):
    """One attention's keys and values while decoding.

    A decode step does little but read these two, and positions side by side are read fastest: on CPU as in the tiles
    of a TPU, which a last axis of 64 fills by half. Only a single CPU wants values with the positions first.

    Attributes:
        keys: [B, H, K, S].
        values: [B, H, K, S]; on a single CPU [B, H, S, K].
    """

    keys: jax.Array
    values: jax.Array

    @classmethod
    def of(cls, keys: jax.Array, values: jax.Array) -> "KVCache":
        """Of keys and values [B, H, S, K]."""
        return cls(keys.swapaxes(2, 3), values if on_one_cpu() else values.swapaxes(2, 3))

    def sharded(self) -> "KVCache":
        """The same, kept spread over the devices."""
        return KVCache(*map(cache_sharded, self))

    def empty(self, positions: int) -> "KVCache":
        """Zeros for so many positions of the same rows."""
        rows, heads, size, _ = self.keys.shape
        zeros = jnp.zeros((rows, heads, positions, size), self.keys.dtype)
        return KVCache.of(zeros, zeros).sharded()

    def updated(self, position: jax.Array, new: "KVCache") -> "KVCache":
        """With those of one position, [B, H, K, 1] or as values are, at int32 `position`."""
        write = jax.lax.dynamic_update_slice_in_dim
        axis = 2 if on_one_cpu() else 3
        return KVCache(
            write(self.keys, new.keys, position, axis=3), write(self.values, new.values, position, axis=axis)
        )

    def attend(self, queries: jax.Array, bias: AttentionBias, dropout: RowDropout) -> jax.Array:
        """As the function `attend`: [B, H, T, K] of queries [B, H, T, K]."""
        if on_one_cpu() and queries.shape[2] == 1:
            return self._attend_by_sums(queries, bias, dropout)
        scores = einsum("bhtk,bhks->bhts", queries, self.keys, preferred_element_type=jnp.float32)
        weights = dropout(_weights(scores, bias).astype(self.values.dtype))
        by_layout = "bhts,bhsk->bhtk" if on_one_cpu() else "bhts,bhks->bhtk"
        return einsum(by_layout, weights, self.values)

    def _attend_by_sums(self, queries: jax.Array, bias: AttentionBias, dropout: RowDropout) -> jax.Array:
        """The same for one position: products of a vector with a matrix take a single core of a CPU, sums all."""
        wide = jnp.float32
        scores = jnp.sum(queries.swapaxes(2, 3).astype(wide) * self.keys.astype(wide), axis=2, keepdims=True)
        weights = dropout(_weights(scores, bias).astype(self.values.dtype))
        rows, heads, positions, size = self.values.shape
        parts = _PARTS if positions % _PARTS == 0 else 1
        weights = weights.reshape(rows, heads, parts, positions // parts, 1).astype(wide)
        values = self.values.reshape(rows, heads, parts, positions // parts, size).astype(wide)
        of_parts = jnp.sum(weights * values, axis=3)
        return jnp.sum(of_parts, axis=2, keepdims=True).astype(self.values.dtype)

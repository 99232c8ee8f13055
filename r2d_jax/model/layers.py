"""The parts of a T5 block in Flax NNX; in: activations [B, T, D], out: activations of the same shape."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r2d_jax.config import T5Config

_DROPOUT_LEVELS = 1 << 16


@dataclasses.dataclass(frozen=True)
class RowDropout:
    """Dropout whose mask is a function of the row's own key and the place in the network only.

    A mask therefore does not depend on the batch a row travels in, on the device layout or on how a
    batch is divided into micro-batches.

    Attributes:
        row_keys: typed PRNG keys [B]; None switches dropout off.
        rate: share of elements set to 0; realised in steps of 2**-16.
    """

    row_keys: jax.Array | None
    rate: float

    def at(self, site: int | jax.Array) -> "RowDropout":
        """The dropout of a place inside this one; `site` is a number unique among its siblings."""
        if self.row_keys is None:
            return self
        return RowDropout(jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.row_keys, site), self.rate)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Drop elements of x [B, ...] and scale the others up; same shape and dtype."""
        threshold = round(self.rate * _DROPOUT_LEVELS)
        if self.row_keys is None or threshold == 0:
            return x
        last = x.shape[-1]
        # Two 16-bit draws from each 32-bit word: threefry is the main cost of dropout on CPU. The halves lie side
        # by side, for a TPU would fill up an axis of 2 to 128.
        shape = (*x.shape[1:-1], -(-last // 2))
        words = jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(self.row_keys)
        halves = words.astype(jnp.uint16), (words >> 16).astype(jnp.uint16)
        keep = jnp.concatenate(halves, axis=-1)[..., :last] >= np.uint16(threshold)
        scale = np.float32(_DROPOUT_LEVELS / (_DROPOUT_LEVELS - threshold)).astype(x.dtype)
        return jnp.where(keep, x * scale, jnp.zeros_like(x))


def precision_of(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """Matmul precision: real float32 where float32 was asked for (TPU and GPU would round it)."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def linear(in_size: int, out_size: int, std: float, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A bias-free projection with float32 weights [in_size, out_size] ~ N(0, std²)."""
    init = nnx.initializers.normal(std)
    return nnx.Linear(
        in_size,
        out_size,
        use_bias=False,
        dtype=dtype,
        param_dtype=jnp.float32,
        precision=precision_of(dtype),
        kernel_init=init,
        rngs=rngs,
    )


class RMSNorm(nnx.Module):
    """T5's layer norm: no mean, no bias, statistics in float32 (Zhang & Sennrich, 2019)."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((config.d_model,), jnp.float32))
        self.epsilon = config.layer_norm_epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise x [B, T, D] over D; same shape, compute dtype."""
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return (x32 * inverse * self.scale[...][None, None, :]).astype(self.dtype)


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
        self, x: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array, dropout: RowDropout
    ) -> jax.Array:
        """Attend from x [B, T, D] to keys and values [B, H, S, K].

        Args:
            x: queries' source.
            keys: from `keys_values`.
            values: from `keys_values`.
            bias: float32, broadcastable to [B, H, T, S]; position bias plus mask.
            dropout: applied to the attention weights.

        Returns:
            [B, T, D] in the compute dtype; the softmax is float32.
        """
        queries = self._heads(self.q(x))
        scores = jnp.einsum(
            "bhtk,bhsk->bhts",
            queries,
            keys,
            precision=self.precision,
            preferred_element_type=jnp.float32,
        )
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(values.dtype)
        mixed = jnp.einsum("bhts,bhsk->bhtk", dropout(weights), values, precision=self.precision)
        return self.o(mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    """relu(x·wi)·wo (T5 1.0) or gelu(x·wi_gate)·(x·wi)·wo (T5 1.1, Flan; tanh GELU)."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        d_model, d_ff = config.d_model, config.d_ff
        self.gated = config.feed_forward_proj == "gated-gelu"
        self.wi = linear(d_model, d_ff, d_model**-0.5, dtype=dtype, rngs=rngs)
        if self.gated:
            self.wi_gate = linear(d_model, d_ff, d_model**-0.5, dtype=dtype, rngs=rngs)
        self.wo = linear(d_ff, d_model, d_ff**-0.5, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, dropout: RowDropout) -> jax.Array:
        """[B, T, D] to [B, T, D]; dropout acts on the hidden layer."""
        hidden = (
            jax.nn.gelu(self.wi_gate(x), approximate=True) * self.wi(x)
            if self.gated
            else jax.nn.relu(self.wi(x))
        )
        return self.wo(dropout(hidden))


def relative_position_buckets(
    query_length: int, key_length: int, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Bucket of each (query, key) distance, int32 [query_length, key_length] (Raffel et al., 2020, 2.1).

    Half of the buckets hold exact small distances, the others grow logarithmically up to
    max_distance; beyond it all distances share the last one.
    """
    distance = np.arange(key_length)[None, :] - np.arange(query_length)[:, None]
    offset = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distance > 0, num_buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = num_buckets // 2
    # float32 throughout: at powers of two the bucket border depends on the rounding of the reference.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    large = exact + (
        ratio / np.float32(math.log(max_distance / exact)) * np.float32(num_buckets - exact)
    ).astype(np.int32)
    return (offset + np.where(distance < exact, distance, np.minimum(large, num_buckets - 1))).astype(
        np.int32
    )


class RelativeBias(nnx.Module):
    """Learned bias per head and distance bucket; one table per stack, shared by its layers."""

    def __init__(self, config: T5Config, *, bidirectional: bool, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.d_model**-0.5)
        shape = (config.relative_attention_num_buckets, config.num_heads)
        self.table = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bidirectional = bidirectional
        self.max_distance = config.relative_attention_max_distance

    def __call__(self, query_length: int, key_length: int) -> jax.Array:
        """Bias float32 [1, H, query_length, key_length]."""
        buckets = relative_position_buckets(
            query_length,
            key_length,
            bidirectional=self.bidirectional,
            num_buckets=self.table.shape[0],
            max_distance=self.max_distance,
        )
        return self.table[...][buckets].transpose(2, 0, 1)[None]

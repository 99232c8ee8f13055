"""The parts of a T5 block in Flax NNX; in: activations [B, T, D], out: activations of the same shape."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r2d_jax.config import T5Config
from r2d_jax.model.cpu_products import rows_times_matrix, table_times_rows
from r2d_jax.model.dropout import RowDropout
from r2d_jax.runtime.mesh import on_one_cpu


def precision_of(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """Matmul precision: real float32 where float32 was asked for (TPU and GPU would round it)."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def einsum(subscripts: str, *operands: jax.Array, **options: Any) -> jax.Array:
    """jnp.einsum of operands of one dtype, at the precision of this dtype; `options` are those of jnp.einsum."""
    return jnp.einsum(subscripts, *operands, precision=precision_of(operands[0].dtype), **options)


class Projection(nnx.Linear):
    """x·kernel without bias; the kernel is [in, out], and [out, in] once it is transposed."""

    transposed = False

    def __init__(self, in_size: int, out_size: int, std: float, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Float32 weights [in_size, out_size] ~ N(0, std²), computing in `dtype`."""
        super().__init__(
            in_size,
            out_size,
            use_bias=False,
            dtype=dtype,
            param_dtype=jnp.float32,
            precision=precision_of(dtype),
            kernel_init=nnx.initializers.normal(std),
            rngs=rngs,
        )

    def transpose(self) -> None:
        """Store the kernel transposed, for inputs of a few rows each on a CPU (`table_times_rows`)."""
        # Behind the barrier it is written once, and not read across by every product.
        self.kernel = nnx.Param(jax.lax.optimization_barrier(self.kernel[...].T))
        self.transposed = True

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """[..., in] to [..., out]."""
        if not self.transposed and not (on_one_cpu() and self.dtype == jnp.float32):
            return super().__call__(inputs, out_sharding)
        rows, kernel = inputs.reshape(-1, inputs.shape[-1]), self.kernel[...]
        product = table_times_rows(kernel, rows) if self.transposed else rows_times_matrix(rows, kernel)
        return product.reshape(*inputs.shape[:-1], -1)


class RMSNorm(nnx.Module):
    """T5's layer norm: no mean, no bias, statistics in float32 (Zhang & Sennrich, 2019).

    Not nnx.RMSNorm: that promotes the scale to the compute dtype, so it would be rounded to bfloat16.
    """

    def __init__(self, config: T5Config, *, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones((config.d_model,), jnp.float32))
        self.epsilon = config.layer_norm_epsilon
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise x [B, T, D] over D; same shape, compute dtype."""
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return (x32 * inverse * self.scale[...][None, None, :]).astype(self.dtype)


class FeedForward(nnx.Module):
    """relu(x·wi)·wo (T5 1.0) or gelu(x·wi_gate)·(x·wi)·wo (T5 1.1, Flan; tanh GELU)."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        d_model, d_ff = config.d_model, config.d_ff
        self.gated = config.feed_forward_proj == "gated-gelu"
        self.wi = Projection(d_model, d_ff, d_model**-0.5, dtype=dtype, rngs=rngs)
        if self.gated:
            self.wi_gate = Projection(d_model, d_ff, d_model**-0.5, dtype=dtype, rngs=rngs)
        self.wo = Projection(d_ff, d_model, d_ff**-0.5, dtype=dtype, rngs=rngs)

    def projections(self) -> list[Projection]:
        """All of them."""
        return [self.wi, self.wo, *([self.wi_gate] if self.gated else [])]

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

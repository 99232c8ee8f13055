"""Multi-head attention of T5; in: queries' source, keys and values, a bias, out: attention output [B, T, D]."""

import jax
import jax.numpy as jnp
from flax import nnx

from r2d_jax.config import T5Config
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.layers import Projection
from r2d_jax.model.mixing import AttentionBias, KVCache, attend


class Attention(nnx.Module):
    """Multi-head attention without scaling by sqrt(K), as in T5.

    Not nnx.MultiHeadAttention, whose dropout takes one key for the whole batch and not one for each row, and not
    jax.nn.dot_product_attention, which has no dropout.
    """

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        d_model, inner = config.d_model, config.num_heads * config.d_kv
        self.q = Projection(d_model, inner, (d_model * config.d_kv) ** -0.5, dtype=dtype, rngs=rngs)
        self.k = Projection(d_model, inner, d_model**-0.5, dtype=dtype, rngs=rngs)
        self.v = Projection(d_model, inner, d_model**-0.5, dtype=dtype, rngs=rngs)
        self.o = Projection(inner, d_model, inner**-0.5, dtype=dtype, rngs=rngs)
        self.num_heads = config.num_heads

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, H, S, K] of x [B, S, D]."""
        return self._heads(self.k(x)), self._heads(self.v(x))

    def __call__(
        self,
        x: jax.Array,
        kv: tuple[jax.Array, jax.Array] | KVCache,
        bias: AttentionBias,
        dropout: RowDropout,
    ) -> jax.Array:
        """Attend from x [B, T, D] to keys and values.

        Args:
            x: queries' source.
            kv: keys and values [B, H, S, K] from `keys_values`, or those of a cache.
            bias: of positions and of masked keys.
            dropout: applied to the attention weights.

        Returns:
            [B, T, D] in the compute dtype; the softmax is float32.
        """
        queries = self._heads(self.q(x))
        attended = (
            kv.attend(queries, bias, dropout)
            if isinstance(kv, KVCache)
            else attend(queries, *kv, bias, dropout)
        )
        batch, _, length, _ = attended.shape
        return self.o(attended.swapaxes(1, 2).reshape(batch, length, -1))

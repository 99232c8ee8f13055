"""T5 encoder-decoder in Flax NNX; in: token ids or mixtures and masks, out: encodings, logits, or one decode step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from r2d_jax.config import T5Config
from r2d_jax.data.prompts import round_up
from r2d_jax.model.attention import Attention
from r2d_jax.model.cpu_parts import cpu_parts, map_rows, scan_unroll
from r2d_jax.model.cpu_products import table_times_rows
from r2d_jax.model.dropout import DecoderSite, EncoderSite, RowDropout, StackSite, scaled
from r2d_jax.model.flat_state import ModuleDef, flat_params
from r2d_jax.model.half_precision import wide_product
from r2d_jax.model.layer_loop import PLAIN_LOOP, LayerLoop, traced_once
from r2d_jax.model.layers import FeedForward, RelativeBias, RMSNorm, einsum
from r2d_jax.model.mixing import AttentionBias, KVCache
from r2d_jax.runtime.mesh import (
    logits_sharded,
    on_one_cpu,
    params_gathered,
    rows_looked_up,
    rows_sharded,
)

# Added to a score to forbid it; finite, so that a row whose every key is masked gives no NaN.
MASKED = jnp.finfo(jnp.float32).min / 2

# Transposing a matrix costs about what a few decode steps save.
_TRANSPOSE_FROM_STEPS = 8


class LayerCache(NamedTuple):
    """One decoder layer's keys and values while decoding: of the T positions of the target, of the S of the input."""

    self_kv: KVCache
    cross_kv: KVCache


class DecodeCache(NamedTuple):
    """All that a decode step needs besides the token: layers, and biases of T positions and of masked keys."""

    layers: tuple[LayerCache, ...]
    self_bias: jax.Array
    cross_bias: AttentionBias

    def take_rows(self, rows: jax.Array) -> "DecodeCache":
        """That of int32 rows [N] alone; biases of positions are those of all rows."""
        layers, keys = jax.tree.map(lambda leaf: leaf[rows], (self.layers, self.cross_bias.keys))
        return self._replace(layers=layers, cross_bias=self.cross_bias._replace(keys=keys))


def _key_bias(mask: jax.Array) -> jax.Array:
    return jnp.where(mask[:, None, None, :] > 0, 0.0, MASKED).astype(jnp.float32)


class EncoderBlock(nnx.Module):
    """Self-attention, then feed-forward, each with pre-norm and residual."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config, dtype=dtype)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config, dtype=dtype)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, bias: AttentionBias, dropout: RowDropout) -> jax.Array:
        """[B, S, D] to [B, S, D]."""
        normed = self.attention_norm(x)
        kv = self.attention.keys_values(normed)
        attended = self.attention(normed, kv, bias, dropout.at(EncoderSite.ATTENTION_WEIGHTS))
        x = x + dropout.at(EncoderSite.ATTENTION)(attended)
        forwarded = self.feed_forward(self.feed_forward_norm(x), dropout.at(EncoderSite.HIDDEN))
        return x + dropout.at(EncoderSite.FEED_FORWARD)(forwarded)


class DecoderBlock(nnx.Module):
    """Causal self-attention, cross-attention, feed-forward, each with pre-norm and residual."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.self_norm = RMSNorm(config, dtype=dtype)
        self.self_attention = Attention(config, dtype=dtype, rngs=rngs)
        self.cross_norm = RMSNorm(config, dtype=dtype)
        self.cross_attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config, dtype=dtype)
        self.feed_forward = FeedForward(config, dtype=dtype, rngs=rngs)

    def transpose(self) -> None:
        """Transpose the matrices that a decode step multiplies with."""
        within, across = self.self_attention, self.cross_attention
        of_attention = (within.q, within.k, within.v, within.o, across.q, across.o)
        for projection in (*of_attention, *self.feed_forward.projections()):
            projection.transpose()

    def __call__(
        self,
        x: jax.Array,
        self_kv: tuple[jax.Array, jax.Array] | KVCache,
        self_bias: AttentionBias,
        cross_kv: tuple[jax.Array, jax.Array] | KVCache,
        cross_bias: AttentionBias,
        dropout: RowDropout,
    ) -> jax.Array:
        """[B, T, D] to [B, T, D], with keys and values of the target (`self_kv`) and of the input (`cross_kv`)."""
        normed = self.self_norm(x)
        attended = self.self_attention(normed, self_kv, self_bias, dropout.at(DecoderSite.SELF_WEIGHTS))
        x = x + dropout.at(DecoderSite.SELF_ATTENTION)(attended)
        normed = self.cross_norm(x)
        attended = self.cross_attention(normed, cross_kv, cross_bias, dropout.at(DecoderSite.CROSS_WEIGHTS))
        x = x + dropout.at(DecoderSite.CROSS_ATTENTION)(attended)
        forwarded = self.feed_forward(self.feed_forward_norm(x), dropout.at(DecoderSite.HIDDEN))
        return x + dropout.at(DecoderSite.FEED_FORWARD)(forwarded)


class Encoder(nnx.Module):
    """The encoder stack."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs, loop: LayerLoop):
        self.loop = loop
        self.relative_bias = RelativeBias(config, bidirectional=True, rngs=rngs)
        self.blocks = nnx.List(
            [EncoderBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.final_norm = RMSNorm(config, dtype=dtype)

    def __call__(self, embedded: jax.Array, mask: jax.Array, dropout: RowDropout) -> jax.Array:
        """Encode embedded [B, S, D] under mask [B, S]."""
        length = embedded.shape[1]
        bias = AttentionBias(self.relative_bias(length, length), _key_bias(mask))

        def run(block: EncoderBlock, inner: RowDropout, x: jax.Array) -> jax.Array:
            return block(x, bias, inner)

        x = self.loop(self.blocks, run, dropout, dropout.at(StackSite.EMBEDDED)(embedded))
        return dropout.at(StackSite.OUTPUT)(self.final_norm(x))


class Decoder(nnx.Module):
    """The decoder stack, for whole targets and for one cached step."""

    def __init__(self, config: T5Config, *, dtype: jnp.dtype, rngs: nnx.Rngs, loop: LayerLoop):
        self.loop = loop
        self.relative_bias = RelativeBias(config, bidirectional=False, rngs=rngs)
        self.blocks = nnx.List(
            [DecoderBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.num_decoder_layers)]
        )
        self.final_norm = RMSNorm(config, dtype=dtype)

    def causal_bias(self, length: int) -> jax.Array:
        """Position bias plus causal mask, float32 [1, H, length, length]."""
        allowed = jnp.tril(jnp.ones((length, length), bool))
        return (
            self.relative_bias(length, length)
            + jnp.where(allowed, 0.0, MASKED).astype(jnp.float32)[None, None]
        )

    def __call__(
        self, embedded: jax.Array, encoded: jax.Array, input_mask: jax.Array, dropout: RowDropout
    ) -> jax.Array:
        """Decode embedded targets [B, T, D] against encoded [B, S, D]."""
        self_bias = AttentionBias(self.causal_bias(embedded.shape[1]), None)
        cross_bias = AttentionBias(None, _key_bias(input_mask))

        def run(block: DecoderBlock, inner: RowDropout, x: jax.Array) -> jax.Array:
            self_kv = block.self_attention.keys_values(block.self_norm(x))
            cross_kv = block.cross_attention.keys_values(encoded)
            return block(x, self_kv, self_bias, cross_kv, cross_bias, inner)

        x = self.loop(self.blocks, run, dropout, dropout.at(StackSite.EMBEDDED)(embedded))
        return dropout.at(StackSite.OUTPUT)(self.final_norm(x))

    def start_cache(self, encoded: jax.Array, input_mask: jax.Array, max_tokens: int) -> DecodeCache:
        """Empty self-attention cache for max_tokens, and the cross keys and values, computed once."""
        positions, layers = round_up(max_tokens), []
        for block in self.blocks:
            cross_kv = KVCache.of(*block.cross_attention.keys_values(encoded)).sharded()
            layers.append(LayerCache(cross_kv.empty(positions), cross_kv))
        cross_bias = AttentionBias(None, _key_bias(input_mask))
        return DecodeCache(tuple(layers), self.causal_bias(positions), cross_bias)

    def step(
        self, embedded: jax.Array, position: jax.Array, cache: DecodeCache, dropout: RowDropout
    ) -> tuple[jax.Array, DecodeCache]:
        """One position: embedded [B, 1, D] at scalar int32 `position`; returns ([B, 1, D], new cache)."""
        of_position = jax.lax.dynamic_slice_in_dim(cache.self_bias, position, 1, axis=2)
        self_bias = AttentionBias(of_position, None)

        def once(
            block: DecoderBlock, dropout: RowDropout, layer: LayerCache, x: jax.Array
        ) -> tuple[jax.Array, LayerCache]:
            new = KVCache.of(*block.self_attention.keys_values(block.self_norm(x)))
            self_kv = layer.self_kv.updated(position, new)
            x = block(x, self_kv, self_bias, layer.cross_kv, cache.cross_bias, dropout)
            return x, layer._replace(self_kv=self_kv)

        x, layers = dropout.at(StackSite.EMBEDDED)(embedded), []
        once = traced_once(once, self.blocks, x)
        for index, (block, layer) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            x, layer = once(block, dropout.at(StackSite.FIRST_BLOCK + index), layer, x)
            layers.append(layer)
        return dropout.at(StackSite.OUTPUT)(self.final_norm(x)), cache._replace(layers=tuple(layers))


class T5(nnx.Module):
    """T5 1.0, 1.1 or Flan (Raffel et al., 2020; Shazeer, 2020), weights float32, computing in `dtype`."""

    def __init__(
        self,
        config: T5Config,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        loop: LayerLoop = PLAIN_LOOP,
    ):
        self.embedding = nnx.Param(
            nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, config.d_model), jnp.float32)
        )
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs, loop=loop)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs, loop=loop)
        if not config.tie_word_embeddings:
            init = nnx.initializers.normal(config.d_model**-0.5)
            self.head = nnx.Param(init(rngs.params(), (config.vocab_size, config.d_model), jnp.float32))
        self.config = config
        self.dtype = dtype

    def for_decoding(self, steps: int = 1) -> "T5":
        """The same model, its matrices cast and gathered over the devices once, before a loop of decode steps.

        On a single CPU those that each step multiplies with are transposed as well, where `steps` repay it.
        """
        matrices = ("kernel", "embedding", "head")
        params = {
            name: weight.astype(self.dtype) if name.endswith(matrices) else weight
            for name, weight in flat_params(self).items()
        }
        model = ModuleDef.of(self).merge(params_gathered(params))
        if on_one_cpu() and self.dtype == jnp.float32 and steps >= _TRANSPOSE_FROM_STEPS:
            for block in model.decoder.blocks:
                block.transpose()
        return model

    def embed(self, ids: jax.Array) -> jax.Array:
        """Embeddings [B, T, D] of int32 ids [B, T], in the compute dtype."""
        return rows_looked_up(self.embedding[...], ids, self.dtype)

    def embed_mixture(self, shares: jax.Array) -> jax.Array:
        """Mean embeddings [B, T, D], in the compute dtype, of float32 shares [B, T, V] that sum to 1 over V."""
        table = self.embedding[...].astype(self.dtype)
        mean = einsum("btv,vd->btd", shares.astype(self.dtype), table, preferred_element_type=jnp.float32)
        return rows_sharded(mean.astype(self.dtype))

    def _dropout(self, row_keys: jax.Array | None) -> RowDropout:
        return RowDropout.of(row_keys, self.config.dropout_rate)

    def encode(
        self,
        input_ids: jax.Array,
        input_mask: jax.Array,
        row_keys: jax.Array | None = None,
        *,
        wanted: jax.Array | None = None,
    ) -> jax.Array:
        """Encode int32 input_ids [B, S] under input_mask [B, S] (1 = real); row_keys [B] turn dropout on.

        Rows that are not `wanted`, bool [B], may come back as 0.

        Returns:
            [B, S, D] in the compute dtype.
        """
        rows, tokens = input_ids.shape
        dropout = self._dropout(row_keys)

        def encoded(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            return self.encoder(self.embed(part[0]), part[1], dropout)

        # With dropout comes a backward pass, whose batches are cut before.
        parts = cpu_parts(rows, tokens) if row_keys is None else 1
        return map_rows(encoded, (input_ids, input_mask), parts, scan_unroll(self.config.d_model), wanted)

    def encode_embedded(
        self, embedded: jax.Array, input_mask: jax.Array, row_keys: jax.Array | None = None
    ) -> jax.Array:
        """As `encode`, of embeddings [B, S, D] in place of ids."""
        return self.encoder(embedded, input_mask, self._dropout(row_keys))

    def decode(
        self,
        decoder_input_ids: jax.Array,
        encoded: jax.Array,
        input_mask: jax.Array,
        row_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher-forced logits, float32 [B, T, V], of int32 decoder_input_ids [B, T]."""
        embedded = self.embed(decoder_input_ids)
        return self.logits(self.decoder(embedded, encoded, input_mask, self._dropout(row_keys)))

    def start_cache(self, encoded: jax.Array, input_mask: jax.Array, max_tokens: int) -> DecodeCache:
        """Cache for decoding at most max_tokens tokens from encoded [B, S, D]."""
        return self.decoder.start_cache(encoded, input_mask, max_tokens)

    def decode_step(
        self, token_ids: jax.Array, position: jax.Array, cache: DecodeCache, row_keys: jax.Array | None = None
    ) -> tuple[jax.Array, DecodeCache]:
        """Float32 logits [B, V] after int32 token_ids [B] at scalar `position`, and the new cache.

        row_keys [B] turn dropout on, with masks of their own at every position.
        """
        dropout = self._dropout(row_keys).at(position)
        x, cache = self.decoder.step(self.embed(token_ids[:, None]), position, cache, dropout)
        return self._logits_of_position(x[:, 0]), cache

    def logits(self, x: jax.Array) -> jax.Array:
        """Float32 logits [B, T, V] of x [B, T, D]; only a tied head is scaled by d_model**-0.5."""
        x, table = self._head(x)
        product = einsum if self.dtype == jnp.float32 else wide_product
        return logits_sharded(product("btd,vd->btv", x, table))

    def _logits_of_position(self, x: jax.Array) -> jax.Array:
        if not on_one_cpu():
            return self.logits(x[:, None])[:, 0]
        x, table = self._head(x)
        return table_times_rows(table, x)

    def _head(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        tied = self.config.tie_word_embeddings
        table = self.embedding[...] if tied else self.head[...]
        return scaled(x, self.config.d_model**-0.5) if tied else x, table.astype(self.dtype)


def shift_right(target_ids: jax.Array) -> jax.Array:
    """Decoder inputs [pad, t1, ..., t(n-1)] for int32 targets [B, T]; the only shift in the project."""
    return jnp.pad(target_ids[:, :-1], ((0, 0), (1, 0)))

"""16-bit products and softmax; in: random operands, out: values and gradients against float32 autodiff and by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from r2d_jax.config import T5Config
from r2d_jax.model.dropout import RowDropout
from r2d_jax.model.half_precision import dropped_softmax, wide_product
from r2d_jax.model.layers import RMSNorm
from r2d_jax.model.mixing import AttentionBias, KVCache, attend
from r2d_jax.model.t5 import T5

B, H, T, S, K = 2, 3, 5, 7, 8


def _drawn(*shape: int, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def _queries_keys_values() -> list[jax.Array]:
    return [_drawn(B, H, n, K, seed=seed).astype(jnp.bfloat16) for seed, n in enumerate((T, S, S))]


def test_in_float32_the_gradients_are_those_of_autodiff() -> None:
    """The rule itself, without rounding."""
    left, right, weight = _drawn(B, T, K, seed=0), _drawn(S, K, seed=1), _drawn(B, T, S, seed=2)

    def loss(product, left, right):
        return jnp.sum(weight * jnp.tanh(product("btd,vd->btv", left, right)))

    found = jax.grad(lambda *x: loss(wide_product, *x), argnums=(0, 1))(left, right)
    expected = jax.grad(lambda *x: loss(jnp.einsum, *x), argnums=(0, 1))(left, right)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    scores, factors = _drawn(B, T, S, seed=3), _drawn(B, T, S, seed=4)
    keep = jax.random.bernoulli(jax.random.key(5), 0.7, scores.shape)

    def plain(scores):
        weights = jax.nn.softmax(scores, axis=-1)
        return jnp.sum(factors * jnp.where(keep, weights / 0.7, 0.0) ** 2)

    def ours_of(scores):
        return jnp.sum(factors * dropped_softmax(scores, keep, 1 / 0.7, jnp.dtype("float32")) ** 2)

    np.testing.assert_allclose(ours_of(scores), plain(scores), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours_of)(scores), jax.grad(plain)(scores), rtol=1e-4, atol=1e-6)


def test_half_precision_products_have_half_precision_gradients() -> None:
    """No float32 operand reaches a product, forwards or backwards, of the head and of attention."""
    queries, keys, values = _queries_keys_values()
    words = jax.random.key_data(jax.random.split(jax.random.key(9), B))
    position = _drawn(1, H, T, S, seed=6)

    def loss(queries, keys, values, position):
        bias = AttentionBias(position, None)
        return jnp.sum(attend(queries, keys, values, bias, RowDropout(words, 0.1)).astype(jnp.float32))

    def head(x, table):
        return jnp.sum(wide_product("btd,vd->btv", x, table) ** 2)

    attention = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2, 3)))(queries, keys, values, position)
    of_head = jax.make_jaxpr(jax.grad(head, argnums=(0, 1)))(queries[:, 0], keys[0, 0])
    products = _products(attention.jaxpr) + _products(of_head.jaxpr)
    assert len(products) == 6 + 3
    assert {dtype for operands in products for dtype in operands} == {"bfloat16"}


def _products(jaxpr) -> list[tuple[str, ...]]:
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(tuple(str(operand.aval.dtype) for operand in equation.invars))
        for inner in jaxprs_in_params(equation.params):
            found += _products(inner)
    return found


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_half_precision_attention_is_near_float32(rate: float) -> None:
    """Values and gradients, dropout included: 2**-8 is the step of bfloat16."""
    arrays = _queries_keys_values()
    position, cotangent = _drawn(1, H, T, S, seed=6), _drawn(B, H, T, K, seed=7)
    keys_bias = jnp.where(jnp.arange(S)[None] < jnp.array([[S], [4]]), 0.0, -1e30)[:, None, None, :]
    dropout = RowDropout(jax.random.key_data(jax.random.split(jax.random.key(9), B)), rate)

    def loss(queries, keys, values, position):
        attended = attend(queries, keys, values, AttentionBias(position, keys_bias), dropout)
        return jnp.sum(attended.astype(jnp.float32) * cotangent), attended

    def of(dtype):
        gradient = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        gradients, attended = gradient(*(x.astype(dtype) for x in arrays), position)
        return [np.asarray(x, np.float64) for x in (attended, *gradients)]

    for half, full in zip(of(jnp.bfloat16), of(jnp.float32), strict=True):
        assert np.abs(half - full).max() < 3 * 2**-8 * np.abs(full).max()
    assert not np.asarray(of(jnp.bfloat16)[2])[1, :, 4:].any()


def _config(**changes: Any) -> T5Config:
    sizes = {"vocab_size": 64, "d_model": 48, "d_ff": 8, "d_kv": 4, "num_heads": 2}
    return T5Config(**sizes | changes, num_layers=1, num_decoder_layers=1)


def _off(found: jax.Array, expected: jax.Array) -> float:
    """Largest error relative to each number."""
    ours, theirs = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float((np.abs(ours - theirs) / np.abs(theirs)).max())


def test_norms_softmax_and_logits_are_float32_inside() -> None:
    """B032: only what goes in and what comes out is rounded, once; logits are not rounded at all."""
    half, once = jnp.dtype("bfloat16"), 2**-8
    x = _drawn(4, T, 512, seed=1).astype(half)
    halved, full = (RMSNorm(_config(d_model=512), dtype=y.dtype)(y) for y in (x, x.astype(jnp.float32)))
    assert halved.dtype == half
    assert _off(halved, full) <= once
    scores = 10 * _drawn(64, 32, seed=3)
    assert _off(dropped_softmax(scores, None, 1.0, half), jax.nn.softmax(scores, axis=-1)) <= once

    model = T5(_config(tie_word_embeddings=False), rngs=nnx.Rngs(0), dtype=half)
    states, head = x[..., :48], model.head[...].astype(half)
    expected = jnp.einsum("btd,vd->btv", *(part.astype(jnp.float32) for part in (states, head)))
    np.testing.assert_allclose(model.logits(states), expected, atol=1e-5)


@pytest.mark.parametrize(("length", "cached"), [(1, True), (T, True), (T, False)])
def test_attention_has_float32_scores(length: int, cached: bool) -> None:
    """B032: scores near 64 that differ by little, of which bfloat16 would hold every fourth of one."""
    queries, keys, values = _queries_keys_values()
    queries, keys = (part.at[..., 0].set(8) for part in (queries[:, :, :length], keys))
    bias, off = AttentionBias(None, None), RowDropout(None, 0.0)

    def of(dtype: str) -> np.ndarray:
        one, two, three = (part.astype(dtype) for part in (queries, keys, values))
        cache = KVCache.of(two, three)
        attended = cache.attend(one, bias, off) if cached else attend(one, two, three, bias, off)
        return np.asarray(attended, np.float64)

    half, full = of("bfloat16"), of("float32")
    assert np.abs(half - full).max() < 3 * 2**-8 * np.abs(full).max()


def test_no_factor_is_rounded_to_bfloat16_before_it_multiplies() -> None:
    """Otherwise all weights that are kept, or all logits of a tied head, are off alike: here by 0.16 % and 0.13 %."""
    scores = _drawn(64, 64, 64, seed=3)
    keep = jax.random.bernoulli(jax.random.key(5), 0.9, scores.shape)
    weights = dropped_softmax(scores, keep, 1 / 0.9, jnp.dtype("bfloat16"))
    expected = jnp.where(keep, jax.nn.softmax(scores, axis=-1) / 0.9, 0.0)
    assert _slope(weights, expected) == pytest.approx(1, abs=2e-4)

    model = T5(_config(), rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    x, table = _drawn(64, 16, 48, seed=4).astype(jnp.bfloat16), model.embedding[...].astype(jnp.bfloat16)
    expected = jnp.einsum("btd,vd->btv", x.astype(jnp.float32), table.astype(jnp.float32)) * 48**-0.5
    assert _slope(model.logits(x), expected) == pytest.approx(1, abs=2e-4)


def _slope(found: jax.Array, expected: jax.Array) -> float:
    """Of the line through 0 that is nearest to what was found."""
    ours, theirs = np.asarray(found, np.float64).ravel(), np.asarray(expected, np.float64).ravel()
    return float(ours @ theirs / (theirs @ theirs))

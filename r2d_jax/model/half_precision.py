"""Products and softmax in a 16-bit compute type; in: operands, out: results whose gradients are 16-bit as well.

Plain autodiff of a float32 result keeps float32 cotangents, so the backward matmuls run in float32, and stores 7 bytes
per attention weight instead of 2.
"""

import functools

import jax
import jax.numpy as jnp

from r2d_jax.model.dropout import before_dropout, scaled


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def wide_product(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """float32 jnp.einsum of two arrays of one dtype; the cotangent is rounded to it for the products of the gradient.

    Args:
        subscripts: two operands and a result in which every letter stands twice or more, as in "btd,vd->btv".
        left: any shape.
        right: any shape.
    """
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _product_forward(
    subscripts: str, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return wide_product(subscripts, left, right), (left, right)


def _product_backward(
    subscripts: str, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = kept
    operands, result = subscripts.split("->")
    first, second = operands.split(",")
    narrow = cotangent.astype(left.dtype)
    return (
        jnp.einsum(f"{result},{second}->{first}", narrow, right),
        jnp.einsum(f"{result},{first}->{second}", narrow, left),
    )


wide_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dropped_softmax(scores: jax.Array, keep: jax.Array | None, scale: float, dtype: jnp.dtype) -> jax.Array:
    """Softmax over the last axis, then dropout; kept for the gradient are two bytes an element.

    Args:
        scores: float32.
        keep: bool of the same shape, false where a weight is dropped; None: no dropout.
        scale: of the weights that are kept.
        dtype: of the result and of what is kept, a floating type.

    Returns:
        `dtype`, of the same shape.
    """
    return _dropped(_signed(scores, keep, dtype), scale)


def _signed(scores: jax.Array, keep: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
    if keep is None:
        return weights
    weights = before_dropout(weights)
    # A weight is never negative: its sign tells that it was dropped.
    return jnp.where(keep, weights, -weights)


def _dropped(signed: jax.Array, scale: float) -> jax.Array:
    return scaled(jnp.maximum(signed, 0), scale)


def _softmax_forward(
    scores: jax.Array, keep: jax.Array | None, scale: float, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    signed = _signed(scores, keep, dtype)
    return _dropped(signed, scale), signed


def _softmax_backward(
    scale: float, dtype: jnp.dtype, signed: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, None]:
    kept = jnp.maximum(signed, 0).astype(jnp.float32) * scale * cotangent.astype(jnp.float32)
    weights = jnp.abs(signed).astype(jnp.float32)
    return kept - weights * jnp.sum(kept, axis=-1, keepdims=True), None


dropped_softmax.defvjp(_softmax_forward, _softmax_backward)

"""Rows that a CPU computes at once; in: rows of a batch and tokens of each, out: equal parts, and how many at once."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2d_jax.runtime.mesh import on_one_cpu

# About this many tokens per part keep activations in cache and matmuls efficient. Measured, as the two below:
# docs/performance.md.
_TOKENS, _LEAST_PARTS = 320, 4
# Every part of a step also adds its gradients to those of all weights, and multiplies its few rationale tokens by the
# whole head: in a wide model that costs more than what the cache saves with half of the tokens.
_STEP_TOKENS, _LEAST_STEP_PARTS = 640, 2
# The width from which on a model is wide.
_WIDE = 256


def cpu_parts(rows: int, tokens: int) -> int:
    """Into how many equal parts a forward pass is best cut: `rows` of `tokens` tokens; 1 but on a single CPU."""
    return _parts(rows, tokens, _TOKENS, _LEAST_PARTS)


def cpu_step_parts(rows: int, tokens: int, d_model: int) -> int:
    """As `cpu_parts`, of a training step of a model of width `d_model`."""
    if d_model < _WIDE:
        return cpu_parts(rows, tokens)
    return _parts(rows, tokens, _STEP_TOKENS, _LEAST_STEP_PARTS)


def _parts(rows: int, tokens: int, least_tokens: int, least_parts: int) -> int:
    if not on_one_cpu():
        return 1
    counts = (parts for parts in range(rows, least_parts - 1, -1) if rows % parts == 0)
    return next((parts for parts in counts if rows // parts * tokens >= least_tokens), 1)


def scan_unroll(d_model: int) -> int:
    """Iterations of a loop over parts that are compiled side by side: independent work, so that no core waits.

    1 but on a single CPU. The products of a wide model keep two cores busy by themselves, and each further iteration
    makes the program longer by as much: its memory, and the time to compile it or to read it from the cache.
    """
    if not on_one_cpu():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    return max(min(cores // 2 if d_model >= _WIDE else cores, 4), 1)


def split_rows(tree: Any, parts: int) -> Any:
    """Arrays [B, ...] to [parts, B / parts, ...]; part p has the rows p, p + parts, p + 2·parts ...

    So a part is spread over all devices like the whole.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def map_rows(
    function: Callable[[Any], jax.Array], tree: Any, parts: int, beside: int, wanted: jax.Array | None = None
) -> jax.Array:
    """function(tree), [B, ...] of arrays [B, ...], one part of the rows after the other, `beside` of them at once.

    Where only the rows `wanted`, bool [B], are asked for, parts without any are left out: these rows may be 0.
    """
    if parts == 1:
        return function(tree)
    if wanted is not None:
        return _map_wanted(function, tree, parts, beside, wanted)
    split = split_rows(tree, parts)
    done = jax.lax.scan(lambda _, rows: (None, function(rows)), None, split, unroll=beside)[1]
    return done.swapaxes(0, 1).reshape(-1, *done.shape[2:])


def _map_wanted(
    function: Callable[[Any], jax.Array], tree: Any, parts: int, beside: int, wanted: jax.Array
) -> jax.Array:
    """As `map_rows`: the wanted rows first, until the last of them is done; the rows' own order at the end."""
    size, count = len(wanted) // parts, jnp.sum(wanted)
    iterations = -(-parts // beside)
    order = jnp.argsort(~wanted, stable=True)
    # The last iteration may have room for more rows than there are: the last row is repeated.
    padded = jnp.pad(order, (0, iterations * beside * size - len(wanted)), mode="edge")

    def of_place(place: jax.Array | int) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(padded, place, size)
        return function(jax.tree.map(lambda x: x[rows], tree))

    def going(loop: tuple[jax.Array, jax.Array]) -> jax.Array:
        # The first condition is true wherever the second is; `training.work.trip_count` reads from it how much the
        # program computes at most.
        return (loop[0] < iterations) & (loop[0] * beside * size < count)

    def body(loop: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        number, done = loop
        first = number * beside * size
        rows = jnp.concatenate([of_place(first + place * size) for place in range(beside)])
        return number + 1, jax.lax.dynamic_update_slice_in_dim(done, rows, first, 0)

    like = jax.eval_shape(of_place, 0)
    nothing = jnp.zeros((len(padded), *like.shape[1:]), like.dtype)
    return jax.lax.while_loop(going, body, (jnp.int32(0), nothing))[1][jnp.argsort(order)]

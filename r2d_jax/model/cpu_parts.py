"""Rows that a CPU computes at once; in: rows of a batch and tokens of each, out: the number of equal parts."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2d_jax.runtime.mesh import on_one_cpu

# Activations of so many tokens stay in a CPU's cache from one layer to the next, and its matrix products are
# large enough still; fewer parts than this gain nothing. Measured: docs/performance.md.
_TOKENS, _LEAST_PARTS = 320, 4


def cpu_parts(rows: int, tokens: int) -> int:
    """Into how many equal parts a batch of `rows` rows of `tokens` tokens is best cut; 1 but on a single CPU."""
    if not on_one_cpu():
        return 1
    counts = (parts for parts in range(rows, _LEAST_PARTS - 1, -1) if rows % parts == 0)
    return next((parts for parts in counts if rows // parts * tokens >= _TOKENS), 1)


def at_once() -> int:
    """Turns of a loop over parts that are compiled side by side: independent work, so that no core waits."""
    return min(len(os.sched_getaffinity(0)), 4) if hasattr(os, "sched_getaffinity") else 2


def split_rows(tree: Any, parts: int) -> Any:
    """Arrays [B, ...] to [parts, B / parts, ...]; part p has the rows p, p + parts, p + 2·parts ...

    So a part is spread over all devices like the whole.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def map_rows(
    function: Callable[[Any], jax.Array], tree: Any, parts: int, wanted: jax.Array | None = None
) -> jax.Array:
    """function(tree), [B, ...] of arrays [B, ...], one part of the rows after the other.

    Where only the rows `wanted`, bool [B], are asked for, parts without any are left out: these rows may be 0.
    """
    if parts == 1:
        return function(tree)
    if wanted is not None:
        return _map_wanted(function, tree, parts, wanted)
    split = split_rows(tree, parts)
    done = jax.lax.scan(lambda _, rows: (None, function(rows)), None, split, unroll=at_once())[1]
    return done.swapaxes(0, 1).reshape(-1, *done.shape[2:])


def _map_wanted(function: Callable[[Any], jax.Array], tree: Any, parts: int, wanted: jax.Array) -> jax.Array:
    size, beside = len(wanted) // parts, at_once()
    order = jnp.argsort(~wanted, stable=True)
    ordered = jax.tree.map(lambda x: x[order], tree)

    def of_part(start: jax.Array | int) -> jax.Array:
        return function(jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), ordered))

    def turn(number: jax.Array, done: jax.Array) -> jax.Array:
        # Parts past the last one are the last one once more.
        starts = [jnp.minimum(number * beside + place, parts - 1) * size for place in range(beside)]
        for start, rows in [(start, of_part(start)) for start in starts]:
            done = jax.lax.dynamic_update_slice_in_dim(done, rows, start, 0)
        return done

    shape = jax.eval_shape(of_part, 0)
    nothing = jnp.zeros((len(wanted), *shape.shape[1:]), shape.dtype)
    turns = -(-jnp.sum(wanted) // (size * beside))
    return jax.lax.fori_loop(0, turns, turn, nothing)[jnp.argsort(order)]

"""Products of matrices as a CPU is fast at them; in: rows and a matrix of weights, out: float32 products.

The compiler leaves it to a library that is quick only where a matrix is read as it lies. Measured: docs/performance.md.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

KEPT = "rows_times_matrix"
"""Name of its results for policies of what a backward pass keeps: they do not see the product inside."""

_EXACT = jax.lax.Precision.HIGHEST


def _product(left: jax.Array, right: jax.Array, *, over: tuple[int, int]) -> jax.Array:
    """The product of two matrices, a sum over one axis of each. Traced sooner than jnp.einsum."""
    axes = ((over[:1], over[1:]), ((), ()))
    return jax.lax.dot_general(left, right, axes, precision=_EXACT, preferred_element_type=jnp.float32)


def table_times_rows(table: jax.Array, rows: jax.Array) -> jax.Array:
    """float32 [N, V] of rows [N, D] and a table [V, D], with the table to the left in the product.

    Four to a hundred rows are multiplied up to three times as fast: the table is read as it lies, and not written anew
    in another order for every product.
    """
    # Without the barrier the compiler turns the product round again.
    return jax.lax.optimization_barrier(_product(table, rows, over=(1, 1))).T


def rows_times_matrix(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    """float32 [N, F] of float32 rows [N, D] and a matrix [D, F], with gradients in an order that suits a CPU."""
    return checkpoint_name(_rows_times_matrix(rows, matrix), KEPT)


@jax.custom_vjp
def _rows_times_matrix(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    return _product(rows, matrix, over=(1, 0))


def _forward(rows: jax.Array, matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _rows_times_matrix(rows, matrix), (rows, matrix)


def _backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, matrix = kept
    # Without this barrier what made the cotangent is computed once more, column by column, for the second product.
    cotangent = jax.lax.optimization_barrier(cotangent)
    of_rows = _product(cotangent, matrix, over=(1, 1))
    # The sum over all rows wants one side transposed: the smaller one.
    if matrix.shape[0] <= matrix.shape[1]:
        return of_rows, _product(jax.lax.optimization_barrier(rows.T), cotangent, over=(1, 0))
    return of_rows, _product(jax.lax.optimization_barrier(cotangent.T), rows, over=(1, 0)).T


_rows_times_matrix.defvjp(_forward, _backward)

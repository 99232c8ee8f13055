"""How much a program computes; in: a traceable function and shapes, out: operations of its matrix products."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal


class Products(NamedTuple):
    """Floating-point operations of matrix products, a multiplication and an addition each.

    Attributes:
        batched: of products with batch axes: two activations, row by row and head by head, as in attention.
        plain: of all others, which are of an activation with weights.
    """

    batched: float
    plain: float


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of all matrix products in one call; see `count_products`.

    Not cost_analysis() of the compiled program: it counts the body of a loop once.

    Args:
        function: jitted or not.
        arguments: arrays or their shapes.
    """
    return sum(count_products(jax.make_jaxpr(function)(*arguments).jaxpr))


def count_products(jaxpr: Any) -> Products:
    """Count the matrix products of a traced program, padding included.

    Recomputation (rematerialisation) is in, and the layout of devices does not matter: divide by their number. A
    branch counts as its dearest side, a loop as `trip_count` says: so of a decode that leaves ended rows behind, which
    is up to three loops, each counts whole. Everything that is no matrix product (norms, softmax, the optimiser) is
    left out.
    """
    total = Products(0.0, 0.0)
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        inner = [count_products(part) for part in _inner(equation.params)]
        if kind == "dot_general":
            found = _dot_flops(equation)
        elif kind == "cond":
            found = max(inner, key=sum, default=Products(0.0, 0.0))
        else:
            trips = trip_count(equation)
            found = Products(*(trips * sum(part[index] for part in inner) for index in range(2)))
        total = Products(total.batched + found.batched, total.plain + found.plain)
    return total


def trip_count(equation: Any) -> int:
    """How often the body of a traced equation runs: 1 where it is no loop.

    Of a `while` it is the constant below which its condition keeps an integer of the loop: a decode's limit of
    tokens, for a count that starts at 0. Without one it is 1.
    """
    kind = equation.primitive.name
    if kind == "scan":
        return equation.params["length"]
    if kind != "while":
        return 1
    condition = equation.params["cond_jaxpr"].jaxpr
    compared = (equation.invars for equation in condition.eqns if equation.primitive.name == "lt")
    # What is computed from the loop's values (how many rows still run) is no count of iterations.
    limits = [
        int(limit.val)
        for count, limit in compared
        if count in condition.invars and isinstance(limit, Literal) and count.aval.dtype.kind in "iu"
    ]
    return min(limits, default=1)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _dot_flops(equation: Any) -> Products:
    (contracted, _), (batch_axes, _) = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    flops = 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    return Products(flops, 0.0) if batch_axes else Products(0.0, flops)

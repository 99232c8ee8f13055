"""How much a program computes; in: a traceable function and shapes, out: operations of its matrix products."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Floating-point operations of all matrix products in one call, a multiplication and an addition each.

    Counted from the traced program, so recomputation (rematerialisation) is in, and the layout of devices does
    not matter: divide by their number. A branch counts as its dearest side, a loop as `turns_of` says. Everything
    that is no matrix product (norms, softmax, the optimiser) is left out.

    Args:
        function: jitted or not.
        arguments: arrays or their shapes.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def turns_of(equation: Any) -> int:
    """How often the body of a traced equation runs: 1 where it is no loop.

    Of a `while` it is the constant that its condition compares an integer with (a decode's limit of tokens); without
    one it is 1.
    """
    kind = equation.primitive.name
    if kind == "scan":
        return equation.params["length"]
    if kind != "while":
        return 1
    condition = equation.params["cond_jaxpr"].jaxpr
    limits = [
        int(limit.val)
        for compared in condition.eqns
        if compared.primitive.name == "lt"
        for limit in compared.invars[1:]
        if isinstance(limit, Literal) and np.asarray(limit.val).dtype.kind in "iu"
    ]
    return min(limits, default=1)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        inner = [_flops(part) for part in _inner(equation.params)]
        if kind == "dot_general":
            total += _dot_flops(equation)
        elif kind == "cond":
            total += max(inner, default=0.0)
        else:
            total += turns_of(equation) * sum(inner)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)

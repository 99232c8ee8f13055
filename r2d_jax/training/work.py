"""How much a program computes; in: a traceable function and shapes, out: operations of its matrix products."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matmul_flops(function: Callable[..., Any], *arguments: Any, loop_steps: int = 1) -> float:
    """Floating-point operations of all matrix products in one call, a multiplication and an addition each.

    Counted from the traced program, so recomputation (rematerialisation) is in, and the layout of devices does
    not matter: divide by their number. A branch counts as its dearest side. Everything that is no matrix
    product (norms, softmax, the optimiser) is left out.

    Args:
        function: jitted or not.
        arguments: arrays or their shapes.
        loop_steps: how often the body of a loop of unknown length counts.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr, loop_steps)


def _flops(jaxpr: Any, loop_steps: int) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        inner = [_flops(part, loop_steps) for part in _inner(equation.params)]
        if kind == "dot_general":
            total += _dot_flops(equation)
        elif kind == "scan":
            total += equation.params["length"] * sum(inner)
        elif kind == "while":
            total += loop_steps * sum(inner)
        elif kind == "cond":
            total += max(inner, default=0.0)
        else:
            total += sum(inner)
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

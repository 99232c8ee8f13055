"""Modules as flat dicts of weights; in: an NNX module, out: weights by path, and the module with other weights."""

from typing import Any, NamedTuple

import jax
from flax import nnx


def flat_params(module: Any) -> dict[str, Any]:
    """Arrays of all weights, by path such as "attention/q/kernel"."""
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


class ModuleDef(NamedTuple):
    """A module without its weights."""

    graphdef: Any
    state: Any

    @classmethod
    def of(cls, module: Any) -> "ModuleDef":
        """The definition of a module, whose weights may be shapes only."""
        return cls(*nnx.split(module, nnx.Param))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the weights, by the paths of `flat_params`."""
        values = ((path, leaf.get_value()) for path, leaf in nnx.to_flat_state(self.state))
        return {_name(path): jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in values}

    def merge(self, params: dict[str, Any]) -> Any:
        """The module with these weights, by the paths of `flat_params`."""
        # Not nnx.merge of this dict itself: it pairs values with the module by the order of sorted paths, and among
        # strings "10" comes before "2", so that layers would be swapped silently.
        flat = [(path, leaf.replace(params[_name(path)])) for path, leaf in nnx.to_flat_state(self.state)]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))

"""Weights as a plain nested dict; in: a T5Config or a dict of arrays, out: abstract or real weights, or a T5."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from r2d_jax.config import ModelConfig, T5Config
from r2d_jax.errors import UserError
from r2d_jax.model.flat_state import ModuleDef, flat_params
from r2d_jax.model.layer_loop import PLAIN_LOOP, LayerLoop
from r2d_jax.model.t5 import T5

Params = dict[str, Any]


def flatten(params: Params) -> dict[str, Any]:
    """Nested dict to {"encoder/blocks/0/attention/q/kernel": leaf}, in a fixed (sorted) order."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: flat[name] for name in sorted(flat)}


def unflatten(flat: dict[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def require_finite(where: str, name: str, array: np.ndarray) -> np.ndarray:
    """The array, of any float type, of a weight of this name.

    Raises:
        UserError: it holds NaN or infinity, with which a model gives some label and no probability.
    """
    if not np.isfinite(array).all():
        raise UserError(
            where,
            f"{name} holds NaN or infinity",
            "Fetch the file again, or take weights of a training that went well.",
        )
    return array


@dataclasses.dataclass(frozen=True)
class T5Factory:
    """Makes weights of a shape and turns weights back into a callable T5.

    Every weight, the tied embedding and the two bias tables included, stands once in the dict, so
    gradients are never split and buffers can be donated.
    """

    config: T5Config
    compute_dtype: str = "float32"
    loop: LayerLoop = PLAIN_LOOP

    def _build(self, rngs: nnx.Rngs) -> T5:
        return T5(self.config, rngs=rngs, dtype=jnp.dtype(self.compute_dtype), loop=self.loop)

    @classmethod
    def configured(cls, shape: T5Config, model: ModelConfig) -> "T5Factory":
        """For a shape, with the precision and layer loop of a config."""
        return cls(shape, model.compute_dtype, LayerLoop(model.remat, model.scan_layers))

    @functools.cached_property
    def _module_def(self) -> ModuleDef:
        return ModuleDef.of(nnx.eval_shape(lambda: self._build(nnx.Rngs(0))))

    def init(self, key: jax.Array) -> Params:
        """Random float32 weights from a typed key; a pure function, may be jitted with out_shardings."""
        return unflatten(flat_params(self._build(nnx.Rngs(key))))

    @functools.cached_property
    def abstract_params(self) -> Params:
        """Shapes and dtypes of the weights, as jax.ShapeDtypeStruct."""
        return unflatten(self._module_def.shapes())

    def merge(self, params: Params) -> T5:
        """A T5 that computes with these weights."""
        return self._module_def.merge(flatten(params))

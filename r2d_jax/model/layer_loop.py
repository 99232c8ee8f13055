"""A stack of like blocks, run and differentiated; in: blocks and activations [B, T, D], out: the same of the last."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from r2d_jax.model.cpu_products import KEPT
from r2d_jax.model.dropout import RowDropout, StackSite
from r2d_jax.model.flat_state import ModuleDef, flat_params
from r2d_jax.runtime.mesh import params_sharded, rows_sharded

BlockFn = Callable[[Any, RowDropout, jax.Array], jax.Array]
_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(KEPT),
    ),
}


def traced_once(function: Callable[..., Any], blocks: nnx.List, x: jax.Array) -> Callable[..., Any]:
    """Jit function(block, ...) once, so that identical blocks share one trace and one gradient.

    Outside a trace, as x tells, return it unchanged, or jit would compile at every call.
    """
    if not isinstance(x, jax.core.Tracer):
        return function
    module_def = ModuleDef.of(blocks[0])
    with_params = jax.jit(lambda params, *arguments: function(module_def.merge(params), *arguments))
    return lambda block, *arguments: with_params(flat_params(block), *arguments)


@dataclasses.dataclass(frozen=True)
class LayerLoop:
    """How a stack of like blocks is run and differentiated; results do not depend on it.

    Attributes:
        remat: what the backward pass computes again, as in ModelConfig.
        scan: one compiled block in a loop over stacked weights, in place of all blocks one after the other.
    """

    remat: str = "none"
    scan: bool = False

    @property
    def recomputes(self) -> bool:
        """Whether the backward pass computes anything again."""
        return self.remat != "none"

    def __call__(self, blocks: nnx.List, run: BlockFn, dropout: RowDropout, x: jax.Array) -> jax.Array:
        """Send x [B, T, D] through all blocks by run(block, dropout of the block, x)."""

        def once(block: Any, dropout: RowDropout, x: jax.Array) -> jax.Array:
            inner = functools.partial(run, block, dropout)
            # The backward pass of `inner` starts from x alone.
            return rows_sharded(
                jax.checkpoint(inner, policy=_POLICIES[self.remat])(x) if self.recomputes else inner(x)
            )

        if not self.scan:
            once = traced_once(once, blocks, x)
            for index, block in enumerate(blocks):
                x = once(block, dropout.at(StackSite.FIRST_BLOCK + index), x)
            return x
        module_def = ModuleDef.of(blocks[0])
        stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *map(flat_params, blocks))

        def body(x: jax.Array, layer: tuple[dict[str, jax.Array], jax.Array]) -> tuple[jax.Array, None]:
            params, site = layer
            return once(module_def.merge(params_sharded(params)), dropout.at(site), x), None

        return jax.lax.scan(body, x, (stacked, jnp.arange(len(blocks)) + int(StackSite.FIRST_BLOCK)))[0]


PLAIN_LOOP = LayerLoop()
"""All blocks one after the other, nothing computed again."""

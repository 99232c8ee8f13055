"""Names, shapes and types of all that a checkpoint holds; in: small shapes, out: what tests/golden has, for ever.

A weight under another name is written and read alike, so no other test sees it, and yet no checkpoint of any user can
be read any more. The golden files change only together with code that still reads what the old names have stored.
"""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from t5_cases import SHAPES

from r2d_jax.config import MeshConfig, OptimizerConfig
from r2d_jax.model.layer_loop import LayerLoop
from r2d_jax.model.parameters import T5Factory, flatten
from r2d_jax.objective.confidence import init_threshold
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.training.optimizer import make_optimizer
from r2d_jax.training.state import abstract_state

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(name: str) -> list[str]:
    return (GOLDEN / f"parameters_{name}.txt").read_text(encoding="utf-8").splitlines()


def described(params: dict) -> list[str]:
    return [f"{name} {leaf.dtype}{list(leaf.shape)}" for name, leaf in flatten(params).items()]


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("loop", [LayerLoop(), LayerLoop("full", scan=True)], ids=["plain", "scanned"])
def test_weights_have_the_names_that_checkpoints_have(name: str, loop: LayerLoop) -> None:
    """T5 1.0 (tied_relu), 1.1 and Flan (untied_gated); a run may go on with another loop."""
    assert described(T5Factory(SHAPES[name], loop=loop).abstract_params) == golden(name)


def test_the_state_has_the_places_that_checkpoints_have() -> None:
    """Checksums are over these paths, so that another one is taken for damage."""
    weight = {"a": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    for config in (OptimizerConfig(), OptimizerConfig(warmup_steps=4, weight_decay=0.1)):
        optimizer = make_optimizer(config, 10)
        state = abstract_state(weight, optimizer, make_mesh(MeshConfig()), init_threshold)
        found = {
            jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        assert found == {
            ".step": "int32[]",
            ".params['a']['kernel']": "float32[2, 3]",
            ".opt_state[1][0].count": "int32[]",
            ".opt_state[1][0].mu['a']['kernel']": "float32[2, 3]",
            ".opt_state[1][0].nu['a']['kernel']": "float32[2, 3]",
            ".opt_state[1][2].count": "int32[]",
            ".seed": "int32[]",
            ".objective_state.tau": "float32[]",
            ".objective_state.window_sum": "float32[]",
            ".objective_state.window_rows": "int32[]",
        }


@pytest.mark.parametrize("name", list(SHAPES))
def test_abstract_weights_are_those_that_init_makes(name: str) -> None:
    factory = T5Factory(SHAPES[name])
    assert factory.abstract_params == jax.eval_shape(factory.init, jax.random.key(0))

"""Products in the order a CPU likes; in: random matrices, out: values and gradients against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d_jax.config import MeshConfig, T5Config
from r2d_jax.model.cpu_products import rows_times_matrix, table_times_rows
from r2d_jax.model.parameters import T5Factory, flatten
from r2d_jax.runtime.mesh import _on_mesh, make_mesh

draw = np.random.default_rng(0)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_table_times_rows(rows: int) -> None:
    table, x = (draw.normal(size=(n, 16)) for n in (70, rows))
    found = jax.jit(table_times_rows)(jnp.float32(table), jnp.float32(x))
    np.testing.assert_allclose(found, x @ table.T, atol=2e-5)


@pytest.mark.parametrize(
    ("width", "outputs"), [(16, 48), (48, 16), (16, 16)], ids=["wide", "narrow", "square"]
)
def test_rows_times_a_matrix_with_both_gradients(width: int, outputs: int) -> None:
    """With more outputs than inputs the rows are transposed for the second gradient, otherwise the cotangent."""
    x, matrix, cotangent = (draw.normal(size=size) for size in ((9, width), (width, outputs), (9, outputs)))

    def pulled(x: jax.Array, matrix: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        product, pull = jax.vjp(rows_times_matrix, x, matrix)
        return (product, *pull(cotangent))

    found = jax.jit(pulled)(*map(jnp.float32, (x, matrix, cotangent)))
    for one, expected in zip(found, (x @ matrix, cotangent @ matrix.T, x.T @ cotangent), strict=True):
        np.testing.assert_allclose(one, expected, atol=2e-5)


def test_a_model_has_the_gradients_of_other_devices() -> None:
    """Two devices take the products as flax writes them."""
    config = T5Config(
        vocab_size=48, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=4
    )
    factory = T5Factory(config)
    params = factory.init(jax.random.key(0))
    ids = jnp.asarray(draw.integers(2, 48, size=(2, 8)), jnp.int32)

    def loss(params):
        model = factory.merge(params)
        mask = jnp.ones_like(ids)
        return jnp.mean(jnp.square(model.decode(ids, model.encode(ids, mask), mask)))

    def gradients(devices: int):
        traced = _on_mesh(jax.grad(loss), make_mesh(MeshConfig(), jax.devices()[:devices]))
        text = str(jax.make_jaxpr(traced)(params))
        return flatten(jax.jit(traced)(params)), text.count("optimization_barrier")

    one, barriers = gradients(1)
    two, none = gradients(2)
    assert barriers > 0 == none
    for name, expected in two.items():
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(one[name], expected, atol=2e-5 * max(scale, 1e-3), err_msg=name)

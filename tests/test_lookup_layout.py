"""The embedding lookup on meshes of several axes: nothing of the whole batch, and the numbers of one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d_jax.config import MeshConfig, T5Config
from r2d_jax.model.parameters import T5Factory
from r2d_jax.runtime import mesh as meshes

ROWS, TOKENS = 16, 24
SHAPE = T5Config(vocab_size=96, d_model=64, d_ff=16, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=1)


def gradient_on(mesh, shape=SHAPE):
    """Jitted: embeddings of ids [ROWS, TOKENS] and the gradients of all weights by them."""
    factory = T5Factory(shape)
    shardings = meshes.tree_shardings(factory.abstract_params, mesh)

    def loss(params, ids):
        embedded = factory.merge(params).embed(ids)
        return jnp.sum(jnp.sin(embedded) * jnp.linspace(1, 2, embedded.shape[-1])[None, None]), embedded

    return factory, meshes.jit_on_mesh(
        jax.grad(loss, has_aux=True),
        mesh,
        in_shardings=(shardings, meshes.batch_sharding(mesh)),
        out_shardings=(shardings, meshes.batch_sharding(mesh)),
    )


@pytest.mark.parametrize("axes", [(2, 4, 1), (4, 2, 1), (2, 2, 2)])
def test_no_device_makes_the_rows_of_the_whole_batch(axes):
    factory, gradient = gradient_on(meshes.make_mesh(MeshConfig(*axes)))
    ids = jax.ShapeDtypeStruct((ROWS, TOKENS), np.int32)
    program = gradient.lower(factory.abstract_params, ids).compile().as_text()
    assert not re.findall(rf"f32\[{ROWS},{TOKENS},\d+\]", program)
    # The gradient of the table is summed over groups by the part of it that a device keeps.
    summed = re.findall(r"= f32\[(\d+),(\d+)\]\S* all-reduce", program)
    assert summed == [(str(96 // axes[2]), str(64 // axes[1]))]


@pytest.mark.parametrize("width", [64, 36])
@pytest.mark.parametrize("axes", [(1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)])
def test_embeddings_and_gradients_are_those_of_one_device(axes, width):
    """A width of 36 does not divide by eight."""
    shape = T5Config(**{**vars(SHAPE), "d_model": width})
    ids = np.random.default_rng(0).integers(0, 96, (ROWS, TOKENS)).astype(np.int32)
    found = []
    for mesh in (
        meshes.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]),
        meshes.make_mesh(MeshConfig(*axes)),
    ):
        factory, gradient = gradient_on(mesh, shape)
        params = jax.device_put(
            factory.init(jax.random.key(0)), meshes.tree_shardings(factory.abstract_params, mesh)
        )
        found.append(jax.tree.map(np.asarray, gradient(params, meshes.put(ids, meshes.batch_sharding(mesh)))))
    (of_one, embedded_by_one), (of_all, embedded) = found
    np.testing.assert_array_equal(embedded, embedded_by_one)
    for one, other in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_all), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)

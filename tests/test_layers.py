"""Parts of the T5; in: distances and keys, out: torch's buckets and dropout masks that obey their rules."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5_cases import strict_and_single_threaded

from r2d_jax.model.layers import RowDropout, relative_position_buckets


@pytest.fixture(scope="module", autouse=True)
def _strict() -> Iterator[None]:
    with strict_and_single_threaded():
        yield


def _keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(9), count)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("buckets", "largest"), [(32, 128), (16, 64), (8, 20), (64, 256), (32, 1024), (32, 33)]
)
def test_position_buckets_equal_torch(bidirectional: bool, buckets: int, largest: int) -> None:
    torch = pytest.importorskip("torch")
    T5Attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    positions = torch.arange(601)
    theirs = T5Attention._relative_position_bucket(
        positions[None, :] - positions[:, None],
        bidirectional=bidirectional,
        num_buckets=buckets,
        max_distance=largest,
    )
    ours = relative_position_buckets(
        601, 601, bidirectional=bidirectional, num_buckets=buckets, max_distance=largest
    )
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_a_rows_dropout_mask_depends_on_its_key_alone() -> None:
    keys, x = _keys(5), jnp.ones((5, 7, 9))
    together = np.asarray(RowDropout(keys, 0.3).at(2)(x))
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_array_equal(RowDropout(keys[order], 0.3).at(2)(x), together[order])
    for row in range(5):
        alone = RowDropout(keys[row : row + 1], 0.3).at(2)(x[:1])
        np.testing.assert_array_equal(alone[0], together[row])
    assert len({row.tobytes() for row in together}) == 5


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    out = np.asarray(RowDropout(_keys(8), rate)(jnp.ones((8, 251, 101))))
    five_sigma = 5 * np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < five_sigma + 2**-16
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=1e-3)
    assert abs(out.mean() - 1) < five_sigma / (1 - rate) + 1e-3
    # The two halves of a random word must have independent fates, and so must neighbours.
    dropped = out == 0
    for one, other in (
        (dropped[..., :50], dropped[..., 51:]),
        (dropped[..., :-1:2], dropped[..., 1::2]),
        (dropped[:, :-1], dropped[:, 1:]),
    ):
        both = (one & other).mean()
        assert abs(both - rate**2) < 5 * np.sqrt(rate**2 * (1 - rate**2) / one.size) + 1e-4


def test_dropout_off_is_the_identity() -> None:
    x = jnp.arange(6, dtype=jnp.bfloat16).reshape(1, 2, 3)
    for dropout in (RowDropout(_keys(1), 0.0), RowDropout(None, 0.5), RowDropout(None, 0.5).at(3)):
        np.testing.assert_array_equal(np.asarray(dropout(x), np.float32), np.asarray(x, np.float32))
        assert dropout(x).dtype == x.dtype


def test_dropout_places_differ() -> None:
    top, x = RowDropout(_keys(2), 0.5), jnp.ones((2, 40))
    places = [top, top.at(0), top.at(1), top.at(0).at(1), top.at(1).at(0)]
    assert len({np.asarray(place(x)).tobytes() for place in places}) == len(places)


def test_gradient_through_dropout_is_the_scaled_mask() -> None:
    dropout, x = RowDropout(_keys(3), 0.25), jax.random.normal(jax.random.key(1), (3, 31))
    gradient = np.asarray(jax.grad(lambda x: dropout(x).sum())(x))
    kept = np.asarray(dropout(jnp.ones_like(x))) != 0
    np.testing.assert_allclose(gradient, np.where(kept, 4 / 3, 0.0), rtol=1e-6)
    assert 0 < kept.mean() < 1

"""Dropout masks; in: keys of rows, out: masks that depend on the row alone, with the statistics of fair draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from r2d_jax.model.dropout import RowDropout

WORD = 2**32


def _dropout(count: int, rate: float, seed: int = 9) -> RowDropout:
    return RowDropout.of(jax.random.split(jax.random.key(seed), count), rate)


def _by_hand(counter: int, first: int, second: int) -> int:
    """One word of bits, with Python's whole numbers."""
    x = (counter * 0x9E3779B9 + first) % WORD
    x = (x ^ (x >> 16)) * 0xED5AD4BB % WORD
    x = (x ^ (x >> 15) ^ second) * 0xAC4C1B51 % WORD
    x = (x ^ (x >> 15)) * 0x31848BAB % WORD
    return x ^ (x >> 14)


def test_bits_are_the_hash_of_their_place() -> None:
    dropout = RowDropout(jnp.array([[3, 0xFFFFFFFF], [0x80000000, 7]], jnp.uint32), 0.1)
    bits = np.asarray(dropout.bits((2, 3, 5)))
    assert bits.dtype == np.uint32
    for row, words in enumerate([(3, 0xFFFFFFFF), (0x80000000, 7)]):
        assert bits[row].ravel().tolist() == [_by_hand(place, *words) for place in range(30)]
    # A place inside is a hash of the same kind, of both words.
    inside = np.asarray(dropout.at(4).words)
    step = 5 * 0x9E3779B9 % WORD
    for row, (first, second) in enumerate([(3, 0xFFFFFFFF), (0x80000000, 7)]):
        low = _by_hand(0, (first + step) % WORD, second)
        assert inside[row].tolist() == [low, _by_hand(0, second ^ step, low)]


def test_a_rows_mask_depends_on_its_key_alone() -> None:
    dropout, x = _dropout(5, 0.3), jnp.ones((5, 7, 9))
    together = np.asarray(dropout.at(2)(x))
    order = np.array([3, 0, 4, 1, 2])
    np.testing.assert_array_equal(RowDropout(dropout.words[order], 0.3).at(2)(x), together[order])
    for row in range(5):
        alone = RowDropout(dropout.words[row : row + 1], 0.3).at(2)(x[:1])
        np.testing.assert_array_equal(alone[0], together[row])
    assert len({row.tobytes() for row in together}) == 5


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    out = np.asarray(_dropout(8, rate)(jnp.ones((8, 251, 101))))
    five_sigma = 5 * np.sqrt(rate * (1 - rate) / out.size)
    assert abs((out == 0).mean() - rate) < five_sigma
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=1e-6)
    assert abs(out.mean() - 1) < five_sigma / (1 - rate)
    dropped = out == 0
    for one, other in ((dropped[..., :-1], dropped[..., 1:]), (dropped[:, :-1], dropped[:, 1:])):
        both = (one & other).mean()
        assert abs(both - rate**2) < 5 * np.sqrt(rate**2 * (1 - rate**2) / one.size) + 1e-4


def test_in_bfloat16_what_is_kept_is_scaled_by_the_factor_itself() -> None:
    """1 / 0.9 rounded to bfloat16 first is 0.16 % too small, for all elements alike."""
    x = jax.random.uniform(jax.random.key(3), (8, 4096), minval=1.0, maxval=2.0).astype(jnp.bfloat16)
    out = np.asarray(_dropout(8, 0.1)(x), np.float64)
    kept = out != 0
    assert out[kept].sum() / np.asarray(x, np.float64)[kept].sum() == pytest.approx(1 / 0.9, rel=2e-4)


_ROWS = 128


def _of_words(first: np.ndarray, second: np.ndarray) -> RowDropout:
    return RowDropout(jnp.stack([jnp.asarray(part, jnp.uint32) for part in (first, second)], -1), 0.1)


def _rows(count: int) -> RowDropout:
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(0), jnp.arange(count))
    return RowDropout.of(keys, 0.1)


def _places_of_a_row() -> RowDropout:
    one = _rows(1)
    return RowDropout(jnp.concatenate([one.at(place).words for place in range(_ROWS)]), 0.1)


_COUNTED, _ZEROS = np.arange(_ROWS), np.zeros(_ROWS)
# Rows whose words are as alike as they get in use. Made within a test: while the workers of pytest collect, both would
# compile the same.
_FAMILIES: dict[str, Callable[[], RowDropout]] = {
    "rows of a batch": lambda: _rows(_ROWS),
    "places of a row": _places_of_a_row,
    "counted first words": lambda: _of_words(_COUNTED, _ZEROS),
    "counted second words": lambda: _of_words(_ZEROS, _COUNTED),
    # Their counts run over the same hashed numbers: the second word alone must part them.
    "same first word": lambda: _of_words(_ZEROS, np.random.default_rng(5).integers(0, WORD, _ROWS)),
    "a place of counted words": lambda: _of_words(_ZEROS, _COUNTED).at(0),
}


@pytest.mark.parametrize("family", _FAMILIES)
def test_masks_pass_for_fair_draws(family: str) -> None:
    size = 1 << 14
    bits = np.asarray(_FAMILIES[family]().bits((size,)))
    rows = len(bits)
    kept = (bits >= round(0.1 * WORD)).astype(np.float64)
    fair = (kept - 0.9) / 0.3
    # Rows and columns: sums of independent draws are normal with known variance.
    for axis, count in ((1, size), (0, rows)):
        sums = fair.sum(axis) / np.sqrt(count)
        assert abs(sums.mean()) < 5 / np.sqrt(len(sums))
        assert abs(sums.std() - 1) < 5 / np.sqrt(2 * len(sums))
    pairs = (fair @ fair.T / np.sqrt(size))[np.triu_indices(rows, 1)]
    assert np.abs(pairs).max() < 6
    assert abs(pairs.std() - 1) < 0.06
    for lag in (1, 2, 3, 8, 64, 128, 400, 512, 4096):
        assert abs((fair[:, :-lag] * fair[:, lag:]).sum()) / np.sqrt(rows * (size - lag)) < 5
    # All 256 values of the upper and of the lower byte are as frequent.
    for byte in (bits >> 24, bits & 255):
        found = scipy.stats.chisquare(np.bincount(byte.ravel(), minlength=256))
        assert 1e-5 < found.pvalue < 1 - 1e-5


def test_dropout_off_is_the_identity() -> None:
    x = jnp.arange(6, dtype=jnp.bfloat16).reshape(1, 2, 3)
    for dropout in (_dropout(1, 0.0), RowDropout.of(None, 0.5), RowDropout(None, 0.5).at(3)):
        np.testing.assert_array_equal(np.asarray(dropout(x), np.float32), np.asarray(x, np.float32))
        assert dropout(x).dtype == x.dtype


def test_dropout_places_differ() -> None:
    top, x = _dropout(2, 0.5), jnp.ones((2, 40))
    places = [top, top.at(0), top.at(1), top.at(0).at(1), top.at(1).at(0)]
    assert len({np.asarray(place(x)).tobytes() for place in places}) == len(places)
    traced = jax.jit(lambda site: top.at(site)(x))(1)
    np.testing.assert_array_equal(traced, top.at(1)(x))


def test_gradient_through_dropout_is_the_scaled_mask() -> None:
    dropout, x = _dropout(3, 0.25), jax.random.normal(jax.random.key(1), (3, 31))
    gradient = np.asarray(jax.grad(lambda x: dropout(x).sum())(x))
    kept = np.asarray(dropout(jnp.ones_like(x))) != 0
    np.testing.assert_allclose(gradient, np.where(kept, 4 / 3, 0.0), rtol=1e-6)
    assert 0 < kept.mean() < 1

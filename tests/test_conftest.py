"""What conftest.py sets for all tests; in: arrays of different types or ranks, out: an error, in every thread."""

import concurrent.futures

import jax.numpy as jnp
import pytest


def types_meet() -> None:
    jnp.ones(2, jnp.int32) + jnp.ones(2, jnp.float32)


def ranks_meet() -> None:
    jnp.ones((3, 2)) + jnp.ones(2)


@pytest.mark.parametrize("meet", [types_meet, ranks_meet])
def test_nothing_is_promoted_silently(meet) -> None:
    with pytest.raises(Exception, match=r"jax_numpy_(dtype|rank)_promotion"):
        meet()
    # A server computes in a thread of its own.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert "promotion" in str(pool.submit(meet).exception())

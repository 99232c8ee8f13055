"""What conftest.py sets for all tests: no silent promotion, in any thread, and no slow test where time is over."""

import concurrent.futures
import time

import conftest
import jax.numpy as jnp
import pytest
from time_left import UNTIL


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


@pytest.mark.parametrize("seconds", [-1, 60, None])
def test_slow_tests_are_skipped_once_time_is_over_and_no_others(request, monkeypatch, seconds) -> None:
    monkeypatch.delenv(UNTIL, raising=False)
    if seconds is not None:
        monkeypatch.setenv(UNTIL, str(int(time.time()) + seconds))
    conftest.pytest_runtest_setup(request.node)
    request.node.add_marker("slow")
    skipped = False
    try:
        conftest.pytest_runtest_setup(request.node)
    except pytest.skip.Exception as reason:
        skipped = "OUT OF TIME" in str(reason)
    assert skipped == (seconds == -1)


def test_files_with_slow_tests_come_last(request) -> None:
    class Item:
        def __init__(self, name: str, slow: bool) -> None:
            self.path, self.slow = request.path.parent / f"test_{name}.py", slow

        def get_closest_marker(self, _: str) -> bool:
            return self.slow

    items = [Item("kills", True), Item("config", False), Item("kills", False), Item("steps", False)]
    conftest.pytest_collection_modifyitems(items)
    assert [(item.path.stem, item.slow) for item in items] == [
        ("test_steps", False),
        ("test_config", False),
        ("test_kills", True),
        ("test_kills", False),
    ]

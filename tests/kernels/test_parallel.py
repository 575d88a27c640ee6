"""Parts of a loop's work on threads: every item once, results in order, and nothing still runs behind an error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.kernels.parallel import run_parts, split_range


@given(st.integers(0, 50), st.integers(1, 7), st.booleans())
def test_every_item_once_and_in_order(count: int, parts: int, given_pool: bool) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = run_parts(
            lambda first, last: list(range(first, last)), split_range(count, parts), pool if given_pool else None
        )
    assert len(found) == parts
    assert [item for part in found for item in part] == list(range(count))
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("bad", [0, 1])
def test_all_parts_have_ended_when_one_fails(bad: int) -> None:
    ended = threading.Event()

    def run(first: int, last: int) -> None:
        if first == bad:
            raise ValueError(f"part {bad}")
        threading.Event().wait(0.05)
        ended.set()

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match=f"part {bad}"):
            run_parts(run, [0, 1, 2], pool)
        assert ended.is_set()

"""Compiled loops over parts of their work on Python threads: they release the GIL, and each part is a call of its
own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import TypeVar

ResultT = TypeVar("ResultT")


def edges_of(count: int, parts: int) -> list[int]:
    """Return the edges of nearly equal consecutive parts of ``count`` items, from 0 to ``count``."""
    return [count * part // parts for part in range(parts + 1)]


def over_parts(run: Callable[[int, int], ResultT], edges: Sequence[int], pool: Executor | None) -> list[ResultT]:
    """Call ``run(first, last)`` for each two neighboring edges, the first part on the calling thread, and return what
    each gave.

    ``pool`` has the threads for the others; made for the call when not given. All parts have ended when this returns or
    raises.
    """
    own, *others = pairwise(edges)
    with ExitStack() as stack:
        waiting = []
        if others:
            hands = pool or stack.enter_context(ThreadPoolExecutor(len(others)))
            for part in others:
                waiting.append(hands.submit(run, *part))
                stack.callback(waiting[-1].exception)  # waits
        first = run(*own)
        return [first, *(one.result() for one in waiting)]

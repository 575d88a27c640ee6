"""Cores and memory: how many cores this process may use, and whether an error means that memory ran out.

Torch is not imported here: the command needs both before torch is loaded.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

ALLOCATOR_ERRORS = (  # torch's allocators: CPU, Windows, CUDA
    "can't allocate memory",
    "not enough memory",
    "out of memory",
)


def count_cores() -> int:
    """Return how many processors this process may use: its affinity, cut to its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: Python's own, or a RuntimeError of torch's allocators."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATOR_ERRORS)
    )

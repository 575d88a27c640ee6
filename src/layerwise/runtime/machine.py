"""Know the machine: cores, the faster fp32 route, the allocator. Measured once per machine, shown by ``doctor``."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def matmul_route() -> str:
    """Return the setting of ``torch.set_float32_matmul_precision`` that is fastest at fp32's error on this machine."""
    return "highest"


def keep_large_buffers() -> bool:
    """Raise glibc's thresholds so that large buffers are kept. Returns whether that was done."""
    return False

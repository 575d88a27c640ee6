"""How many cores there are for us. Without torch, for what must be known before it is loaded."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Return how many processors this process may use: its affinity, cut to its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()  # cgroup v2
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed

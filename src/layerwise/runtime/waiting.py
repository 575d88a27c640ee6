"""How long kernel threads that wait for each other look before they sleep. Without torch, as it must be said before libgomp is loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path

SPINS = "GOMP_SPINCOUNT"
TURNS = 1000  # a few microseconds; libgomp's own 300,000 are about a millisecond
ASKED = (SPINS, "OMP_WAIT_POLICY")
LOAD = Path("/proc/loadavg")
LOOKS, PAUSE = 5, 0.002  # seconds


def wait_briefly() -> None:
    """Let the threads of GNU OpenMP, which torch's CPU kernels use, sleep soon when they wait, if other programs keep our cores busy.

    A thread that spins uses up the time that it is then refused when its work comes: beside a neighbour on one of two cores a small
    network trained at a half to a thirtieth of its speed. Alone, sleeping would cost more than spinning (``layerwise bench neighbour``
    measures both). What the environment says already stands. Linux only.
    """
    if crowded() and not any(name in os.environ for name in ASKED):
        os.environ[SPINS] = str(TURNS)


def crowded() -> bool:
    """Whether other programs leave fewer cores free than we may use, at each of a few looks within ten milliseconds."""
    try:
        others = []
        for _ in range(LOOKS):
            others.append(int(LOAD.read_text().split()[3].partition("/")[0]) - 1)  # those that run now, without us
            time.sleep(PAUSE)
        return (os.cpu_count() or 1) - min(others) < len(os.sched_getaffinity(0))
    except (OSError, AttributeError, ValueError, IndexError):
        return False

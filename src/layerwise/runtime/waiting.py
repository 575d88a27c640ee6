"""How long kernel threads that wait for each other look before they sleep. Without torch, as it must be said before
libgomp is loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path

from layerwise.runtime.cores import cores

SPINS = "GOMP_SPINCOUNT"
TURNS = 1000  # a few microseconds; libgomp's own 300,000 are about a millisecond
ASKED = (SPINS, "OMP_WAIT_POLICY")
LOAD = Path("/proc/loadavg")
LOOKS, PAUSE = 5, 0.002  # seconds


def wait_briefly() -> None:
    """Let the threads of GNU OpenMP, which torch's CPU kernels use, sleep soon when they wait, if other programs keep
    our cores busy.

    A thread that spins uses up the time that it is then refused when its work comes: beside a neighbor on one of two
    cores a small network trained at half its speed (``layerwise bench neighbor``). Alone, spinning is right: the next
    kernel comes at once. What the environment says already stands. Linux only.
    """
    if not any(name in os.environ for name in ASKED) and crowded():
        os.environ[SPINS] = str(TURNS)


def crowded() -> bool:
    """Whether other programs leave fewer cores free than we may use, at each of a few looks within ten milliseconds."""
    try:
        for look in range(LOOKS):
            time.sleep(PAUSE if look else 0)
            running = int(LOAD.read_text().split()[3].partition("/")[0])  # now, with us
            if (os.cpu_count() or 1) - (running - 1) >= cores():
                return False
    except (OSError, ValueError, IndexError):
        return False
    return True

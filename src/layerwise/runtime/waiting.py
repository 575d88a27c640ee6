"""How long kernel threads that wait for each other look before they sleep. Without torch, as it must be said before libgomp is loaded."""

from __future__ import annotations

import os

SPINS = "GOMP_SPINCOUNT"
TURNS = 1000  # a few microseconds; libgomp's own 300,000 are about a millisecond
ASKED = (SPINS, "OMP_WAIT_POLICY")


def wait_briefly() -> None:
    """Let the threads of GNU OpenMP, which torch's CPU kernels use, sleep soon when they wait, unless the environment says otherwise.

    A thread that spins uses up the processor time that it is then refused when its work comes. Alone on the machine nothing is lost or
    gained; beside another program on one of the cores small kernels are faster by an order of magnitude (``layerwise bench neighbour``).
    """
    if not any(name in os.environ for name in ASKED):
        os.environ[SPINS] = str(TURNS)

"""SplitMix64's output for compiled loops (Steele, Lea, Flood 2014): a state grows by `GOLDEN` for each draw."""

from __future__ import annotations

import numpy as np

from layerwise.kernels.compiling import compiled
from layerwise.runtime.rng import GOLDEN

__all__ = ["GOLDEN", "mix"]


def _mixed(z: np.uint64) -> np.uint64:
    """Return SplitMix64's output for a state."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


mix = compiled(_mixed, inline=True)

"""What numbers are scaled by, and which of them can be: in 64 bits, before they become float32.

Scales are relative: the same column in nanometers or in light-years becomes the same numbers. ``N`` values.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from layerwise.data.source import FLOAT32_MAX, Array

EPS = float(np.finfo(np.float64).eps)
ROUNDED = 10.0  # units in the last place of the largest value by which equal values may differ once they were computed


def standard_scale(values: Array) -> tuple[float, float]:
    """Return the mean and the standard deviation of finite values (N,); the deviation is 1 where they differ by
    rounding alone.

    Rounding alone is σ² ≤ N·ε·σ² + (N·μ·ε)², the bound for sums of N values in float64 by T. F. Chan, G. H. Golub and
    R. J. LeVeque (The American Statistician 37, 1983), as scikit-learn's StandardScaler has it.
    """
    if not len(values):
        return 0.0, 1.0
    known, exponent = _scale_near_one(values)
    mean, variance, count = float(known.mean()), float(known.var()), len(known)
    constant = variance <= count * EPS * variance + (count * mean * EPS) ** 2
    return float(np.ldexp(mean, exponent)), 1.0 if constant else float(np.ldexp(np.sqrt(variance), exponent))


def range_scale(values: Array) -> tuple[float, float]:
    """Return the least of finite values (N,) and their range; the range is 1 where they differ by rounding alone."""
    if not len(values):
        return 0.0, 1.0
    least, most = float(values.min()), float(values.max())
    constant = most - least <= ROUNDED * EPS * max(abs(least), abs(most))
    return least, 1.0 if constant else most - least


def is_out_of_range(values: Array, *, shift: float = 0.0, spread: float = 1.0) -> Array:
    """Return which values (N,) float32 cannot hold, as they are or as (x − shift) / spread. NaN, a missing value, can
    be held."""
    with np.errstate(over="ignore"):
        scaled = (values - shift) / spread
    return (np.abs(values) > FLOAT32_MAX) | (np.abs(scaled) > FLOAT32_MAX)


def _scale_near_one(values: Array) -> tuple[Array, int]:
    """Return values (N,) times a power of two, so that the largest is near 1 and no square over- or underflows, and its
    exponent."""
    exponent = int(np.frexp(np.abs(values).max())[1])
    return np.ldexp(values.astype(np.float64), -exponent), exponent


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cached tensors serve training too
def get_constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a cached tensor, (len(values),), that must not be changed.

    A new tensor in every step would be copied to the device, and the step would wait for the copy, behind all the work
    that the device has still to do.
    """
    return torch.tensor(values, dtype=dtype, device=device)

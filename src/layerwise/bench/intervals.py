"""Intervals of means, and the machine's facts beside every result."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean, variance
from typing import Any, NamedTuple

CONFIDENCE = 0.95
PACKAGES = ("layerwise", "torch", "numpy", "scikit-learn", "numba")


class Interval(NamedTuple):
    """A mean and its 95 % t-interval; None on both ends where one value allows none."""

    mean: float
    low: float | None
    high: float | None


def compute_interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least one value with Student's interval."""
    mean, count = fmean(values), len(values)
    if count < 2:
        return Interval(mean, None, None)
    half = _find_t_quantile(count - 1) * math.sqrt(variance(values) / count)
    return Interval(mean, mean - half, mean + half)


def compute_difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return mean(ours) − mean(theirs) with Welch's interval."""
    gap = fmean(ours) - fmean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return Interval(gap, None, None)
    a, b = variance(ours) / len(ours), variance(theirs) / len(theirs)
    if a + b == 0:
        return Interval(gap, gap, gap)
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    half = _find_t_quantile(freedom) * math.sqrt(a + b)
    return Interval(gap, gap - half, gap + half)


def _find_t_quantile(freedom: float) -> float:
    """Return the two-sided 95 % quantile of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def collect_versions() -> dict[str, Any]:
    """Return the facts that the numbers depend on: processor, cores, system, versions, date."""
    from layerwise.runtime import machine, resources  # machine imports torch, so only when something was measured

    return {
        "cpu": machine.get_cpu_model(),
        "cores": resources.count_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "threads_set": {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
        "date": time.strftime("%Y-%m-%d"),
    }

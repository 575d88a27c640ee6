"""Learning-rate schedules: pure functions of progress p in [0, 1] to a factor of the rate."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "step", "cosine", "one-cycle", "exponential"]


def compute_lr_factor(
    schedule: Schedule,
    progress: float,
    *,
    warmup: float = 0.0,
    final_lr_ratio: float = 0.0,
    milestones: tuple[float, ...] = (0.5, 0.75),
    gamma: float = 0.1,
) -> float:
    """Return the factor of the learning rate at a progress.

    Over the first ``warmup`` part it rises linearly from 0; after it, with q the progress through the rest and
    r = ``final_lr_ratio``:

    - constant: 1
    - step: γ^(milestones passed), milestones in terms of p
    - cosine: r + (1 − r)·(1 + cos πq)/2 (Loshchilov & Hutter 2017)
    - exponential: r^q, evenly in the logarithm; with r above 1 the rate rises, as a range test does (Smith 2017)
    - one-cycle: rises by a half cosine from 1/25 to 1 over the first ``warmup`` part (0.3 if none is given) and falls
      to r (Smith & Topin 2018)
    """
    if schedule == "one-cycle":
        rise = warmup or 0.3
        if progress < rise:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / rise)) / 2
        return _cosine((progress - rise) / (1 - rise), final_lr_ratio)
    if progress < warmup:
        return progress / warmup
    if schedule == "step":
        return float(gamma ** sum(progress >= m for m in milestones))
    if schedule == "exponential":
        return float(final_lr_ratio ** ((progress - warmup) / (1 - warmup)))
    if schedule == "cosine":
        return _cosine((progress - warmup) / (1 - warmup), final_lr_ratio)
    return 1.0


def _cosine(q: float, final_lr_ratio: float) -> float:
    """Return half a cosine from 1 at q = 0 to ``final_lr_ratio`` at q = 1."""
    return final_lr_ratio + (1 - final_lr_ratio) * (1 + math.cos(math.pi * q)) / 2

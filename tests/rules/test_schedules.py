"""Schedules are pure functions of progress with closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.rules.schedules import compute_lr_factor

UNIT = st.floats(0, 1, allow_nan=False)
PART = st.floats(0.01, 0.9)


@pytest.mark.parametrize(
    ("schedule", "progress", "keys", "value"),
    [
        ("constant", 0.0, {}, 1.0),
        ("constant", 1.0, {}, 1.0),
        ("constant", 0.0, {"warmup": 0.2}, 0.0),
        ("constant", 0.05, {"warmup": 0.2}, 0.25),
        ("constant", 0.2, {"warmup": 0.2}, 1.0),
        ("step", 0.0, {}, 1.0),
        ("step", 0.499, {}, 1.0),
        ("step", 0.5, {}, 0.1),
        ("step", 0.75, {}, 0.01),
        ("step", 1.0, {"milestones": (0.2, 0.4, 0.6), "gamma": 0.5}, 0.125),
        ("cosine", 0.0, {}, 1.0),
        ("cosine", 0.5, {}, 0.5),
        ("cosine", 1.0, {}, 0.0),
        ("cosine", 1.0, {"final_lr_ratio": 0.02}, 0.02),
        ("cosine", 1 / 3, {}, 0.75),
        ("cosine", 0.0, {"warmup": 0.1}, 0.0),
        ("cosine", 0.1, {"warmup": 0.1}, 1.0),
        ("cosine", 0.55, {"warmup": 0.1, "final_lr_ratio": 0.2}, 0.6),
        ("one-cycle", 0.0, {}, 0.04),
        ("one-cycle", 0.15, {}, 0.52),
        ("one-cycle", 0.3, {}, 1.0),
        ("one-cycle", 1.0, {}, 0.0),
        ("one-cycle", 0.2, {"warmup": 0.2}, 1.0),
        ("one-cycle", 0.6, {"warmup": 0.2, "final_lr_ratio": 0.1}, 0.55),
        ("exponential", 0.0, {"final_lr_ratio": 0.01}, 1.0),
        ("exponential", 0.5, {"final_lr_ratio": 0.01}, 0.1),
        ("exponential", 0.6, {"warmup": 0.2, "final_lr_ratio": 0.01}, 0.1),
        ("exponential", 0.5, {"final_lr_ratio": 1e4}, 100.0),
    ],
)
def test_closed_forms(schedule: str, progress: float, keys: dict[str, float], value: float) -> None:
    assert compute_lr_factor(schedule, progress, **keys) == pytest.approx(value, abs=1e-12)  # type: ignore[arg-type]


@given(UNIT, UNIT, PART, st.sampled_from(["constant", "step", "cosine", "one-cycle"]))
def test_rises_through_the_warmup_and_falls_after_it(a: float, b: float, warmup: float, schedule: str) -> None:
    a, b = sorted((a, b))
    one, two = (compute_lr_factor(schedule, p, warmup=warmup, milestones=(0.95, 0.97)) for p in (a, b))  # type: ignore[arg-type]
    assert 0 <= one <= 1
    if b < warmup:
        assert one <= two + 1e-12
    if a >= warmup:
        assert one >= two - 1e-12


def test_an_exponential_schedule_needs_somewhere_to_go() -> None:
    from rule_fixtures import context, net

    from layerwise.errors import UsageError
    from layerwise.rules.backprop import Backprop, BackpropOptions

    with pytest.raises(UsageError, match=r"rule\.final_lr_ratio above 0"):
        Backprop(context(net(), batch_size=4), BackpropOptions(schedule="exponential"))


@given(UNIT)
def test_one_cycle_agrees_with_torch(progress: float) -> None:
    """torch's OneCycleLR with its own defaults (cosine annealing), evaluated at the same place."""
    import torch

    total = 1000
    step = round(progress * (total - 1))
    p = step / (total - 1)
    start, peak, last = 1 / 25, 1.0, 1 / 25e4
    cut = 0.3 * total - 1
    cosine = torch.optim.lr_scheduler.OneCycleLR._annealing_cos
    wanted = cosine(start, peak, step / cut) if step <= cut else cosine(peak, last, (step - cut) / (total - 1 - cut))
    ours = compute_lr_factor("one-cycle", p, warmup=cut / (total - 1), final_lr_ratio=last)
    assert math.isclose(ours, wanted, abs_tol=1e-9)

"""C08: dead is what the gradient says it is, and the verdict flips when nothing is flat or no step is large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from layerwise.labs import base
from layerwise.labs import dying_relu as lab
from layerwise.labs.training import load_batches, train_steps
from layerwise.training.loop import Event

SMALL = lab.Plan("digits", 3, (lab.USUAL, lab.LARGE, lab.HUGE), 2, 2)


@pytest.mark.parametrize("activation", ["leaky-relu", "softplus"])
def test_with_a_slope_everywhere_no_unit_dies(activation: str) -> None:
    findings = lab.measure("quick", activation=activation, plan=SMALL)
    assert not base.is_held(findings)
    assert findings.margins == (0, 0, 0)


def test_with_small_steps_no_unit_dies() -> None:
    findings = lab.measure("quick", plan=replace(SMALL, rates=(0.01, lab.USUAL, lab.HUGE), large=0.01))
    assert not base.is_held(findings)
    assert max(findings.margins) < lab.FEW


def test_dead_units_are_those_without_a_gradient() -> None:
    """The oracle: each example's gradient by hand, ∂L/∂w_h = (softmax(z₂) − onehot)·v_h · [z_h > 0] · x, in a loop in
    float64."""
    data = load_batches("digits", seed=1)
    net = lab.build_network(64, 10, activation="relu", seed=1)
    lab.train_network(net, data, rate=lab.LARGE, epochs=1, seed=1)
    net.double()
    x, y = data.train.inputs.flatten(1).double(), data.train.targets
    assert y is not None
    first, last = net[1], net[3]
    reached = torch.zeros(lab.HIDDEN, dtype=torch.bool)
    with torch.no_grad():
        for row, answer in zip(x, y, strict=True):
            z = first.weight @ row + first.bias  # type: ignore[operator]
            p = (last.weight @ z.clamp_min(0) + last.bias).softmax(0)  # type: ignore[operator]
            p[answer] -= 1
            delta = (last.weight.T @ p) * (z > 0)  # type: ignore[operator]
            reached |= delta != 0
    dead = lab.find_dead_units(net, x)
    assert 0 < int(dead.sum()) < lab.HIDDEN
    assert torch.equal(dead, ~reached)


def test_a_network_of_dead_units_does_not_move() -> None:
    data = load_batches("digits", seed=0)
    leaky, relu = (lab.build_network(64, 10, activation=name, seed=0) for name in ("leaky-relu", "relu"))
    for net in (leaky, relu):
        with torch.no_grad():
            net[1].bias.fill_(-100)  # type: ignore[union-attr, operator]
    assert not lab.find_dead_units(leaky, data.train.inputs).any()
    history = lab.train_network(relu, data, rate=1.0, epochs=2, seed=0)
    assert history.dead == (1, 1, 1)
    assert (history.returned, history.moved, history.off) == (0, 0, 1)


def test_units_that_are_woken_or_moved_do_not_count_as_dead_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sabotage: a learner that pushes the biases after each step, as weights below or momentum would."""

    def push_biases(net: Any, *args: Any, **more: Any) -> Iterator[Event]:
        for event in train_steps(net, *args, **more):
            with torch.no_grad():
                net[1].bias.add_(0.02)
            yield event

    monkeypatch.setattr(lab, "train_steps", push_biases)
    findings = lab.measure("quick", plan=replace(SMALL, seeds=2))
    assert not base.is_held(findings)
    assert not findings.checks[0].passed


def test_a_training_that_breaks_off_keeps_its_length() -> None:
    data = load_batches("digits", seed=0)
    net = lab.build_network(64, 10, activation="linear", seed=0)
    history = lab.train_network(net, data, rate=1e6, epochs=3, seed=0)
    assert len(history.dead) == len(history.accuracy) == 4
    assert history.dead == (0, 0, 0, 0)

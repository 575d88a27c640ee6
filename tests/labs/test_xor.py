"""C04: the verdict flips when the mechanism is taken away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from layerwise.labs import base, xor


def test_without_a_nonlinearity_the_hidden_layer_does_not_help() -> None:
    findings = xor.measure("quick", activation="linear", seeds=3)
    assert not base.is_held(findings)
    assert [check.passed for check in findings.checks] == [True, True, False]


def test_where_a_line_separates_the_claim_does_not_hold() -> None:
    findings = xor.measure("quick", gate="and", seeds=3)
    assert not base.is_held(findings)
    assert max(findings.margins) == 0  # the perceptron gets them all, too
    assert not findings.checks[0].passed


def test_separable_agrees_with_trying_every_line() -> None:
    """The oracle: every way in which a line can part the four corners, from a fine grid of lines through the square."""
    corners = torch.from_numpy(xor.POINTS)
    angles = torch.linspace(0, 2 * torch.pi, 73, dtype=torch.float64)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()], 1)  # (lines, 2)
    offsets = torch.linspace(-2.03, 2.03, 81, dtype=torch.float64)
    sides = (directions @ corners.T)[:, None, :] > offsets[None, :, None]  # (directions, offsets, 4)
    possible = {tuple(side) for side in sides.reshape(-1, 4).int().tolist()}
    for labels in itertools.product((0, 1), repeat=4):
        assert xor.is_separable(xor.POINTS, labels) is (labels in possible), labels
    assert xor.count_separable_functions() == len(possible) == 14


@pytest.mark.parametrize(("gate", "share"), [("xor", 0.75), ("and", 1.0), ("or", 1.0)])
def test_the_best_that_a_line_can_do(gate: xor.Gate, share: float) -> None:
    assert xor.find_best_accuracy(gate) == share


def test_a_trial_is_the_same_each_time_and_moves_no_random_state() -> None:
    before = torch.get_rng_state()
    grid = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 2))).float()
    for train in (xor.train_perceptron, xor.train_mlp):
        one, two = train("xor", 3), train("xor", 3)
        assert one.accuracy == two.accuracy
        assert torch.equal(one.scores(grid), two.scores(grid))
        assert not torch.equal(one.scores(grid), train("xor", 4).scores(grid))
    assert torch.equal(torch.get_rng_state(), before)

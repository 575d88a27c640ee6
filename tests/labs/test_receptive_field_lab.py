"""C14: with 1×1 kernels nothing grows; the measured fields are those counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from layerwise.labs import base
from layerwise.labs import receptive_field as lab

SMALL = lab.Plan(seeds=3, networks=2, plain=(1, 2, 4, 8), doubling=(1, 2, 3))


def test_the_small_plan_holds() -> None:
    assert base.is_held(lab.measure("quick", plan=SMALL))


def test_with_kernels_of_one_pixel_nothing_grows() -> None:
    findings = lab.measure("quick", kernel=1, plan=lab.Plan(2, 1, (1, 2, 4), (1, 2)))
    assert set(findings.margins) == {0}
    assert not base.is_held(findings)


@pytest.mark.parametrize(
    ("kind", "depth", "side"), [("plain", 16, 33), ("dilated", 4, 31), ("pooled", 3, 22), ("pooled", 4, 46)]
)
def test_the_formula_counted_by_hand(kind: str, depth: int, side: int) -> None:
    """3 + 2 + 2 …; 1 + 2·(1 + 2 + 4 + 8); pooled: 2 for the kernel and 1 for the pool, times the jump."""
    assert lab.compute_formula_side(lab.build_stack(kind, depth, kernel=3, seed=(0,))) == side


def test_the_predicted_side_is_the_walk_done_pixel_by_pixel() -> None:
    """The oracle: convolve the even windows' distributions in one dimension."""
    for kind, windows in (("plain", [3] * 5), ("dilated", [3, 3, 3]), ("pooled", [3, 2, 3, 2])):
        walk, jump = torch.ones(1, dtype=torch.float64), 1
        for number, window in enumerate(windows):
            apart = 2**number if kind == "dilated" else jump
            spread = torch.zeros(len(walk) + apart * (window - 1), dtype=torch.float64)
            for step in range(window):
                spread[step * apart : step * apart + len(walk)] += walk / window
            walk = spread
            jump *= 2 if kind == "pooled" and window == 2 else 1
        at = torch.arange(len(walk), dtype=torch.float64)
        variance = float((walk * at**2).sum() - (walk * at).sum() ** 2)
        depth = len(windows) // (2 if kind == "pooled" else 1)
        assert lab.predict_side(kind, depth) == pytest.approx(math.sqrt(1 + 12 * variance))


def test_an_even_square_has_its_own_side() -> None:
    for side in (1, 2, 5):
        square = torch.zeros(9, 9, dtype=torch.float64)
        square[1 : 1 + side, 2 : 2 + side] = 0.3
        assert lab.compute_effective_side(square) == pytest.approx(side)


def test_squared_gradients_are_those_of_a_linear_layer() -> None:
    """One convolution, no ReLU: the expected square is Σ w² over maps; the support leaves out what no weight reads."""
    net = nn.Sequential(nn.Conv2d(1, lab.MAPS, 3, bias=False)).double()
    with torch.no_grad():
        net[0].weight[:, :, 0] = 0  # type: ignore[index, operator]
    gradient = torch.stack(
        [lab.compute_squared_gradient(net, torch.rand(2, 1, 3, 3, dtype=torch.float64), s)[0] for s in range(60)]
    ).mean(0)
    squares = net[0].weight.detach().square().sum((0, 1))  # type: ignore[union-attr, operator]
    assert torch.allclose(gradient / gradient.sum(), squares / squares.sum(), atol=0.03)
    assert lab.compute_squared_gradient(net, torch.rand(1, 1, 3, 3, dtype=torch.float64), 0)[1] == (2, 3)

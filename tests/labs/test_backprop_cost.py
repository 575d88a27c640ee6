"""C05: the counts are right, and the verdict flips when the gradient is found otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layerwise.labs import backprop_cost as lab
from layerwise.labs import base

SMALL = lab.Plan(seeds=3, sizes=(60, 90), differences_up_to=60, repeats=1)


def differentiate_half(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """As cheap as it should be, but of half the examples."""
    return lab.compute_gradient(net, x[: len(x) // 2], y[: len(y) // 2])


def differentiate_by_layer(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """The right gradient, by one pass for each parameter tensor."""
    return [torch.autograd.grad(lab.compute_loss(net, x, y), [parameter])[0] for parameter in net.parameters()]


def test_a_gradient_that_nudges_each_weight_does_not_hold() -> None:
    findings = lab.measure("quick", gradient=lab.compute_differences, plan=SMALL)
    assert not base.is_held(findings)
    assert max(findings.margins) < -50
    assert [check.passed for check in findings.checks] == [False, False, True, True]


def test_a_gradient_that_runs_once_for_each_layer_does_not_hold() -> None:
    assert not base.is_held(lab.measure("quick", gradient=differentiate_by_layer, plan=SMALL))


def test_a_cheap_but_wrong_gradient_does_not_hold() -> None:
    findings = lab.measure("quick", gradient=differentiate_half, plan=SMALL)
    assert not base.is_held(findings)
    assert [check.passed for check in findings.checks] == [True, True, True, False]


@pytest.mark.parametrize("seed", range(3))
def test_counts_agree_with_torch_and_with_pencil_and_paper(seed: int) -> None:
    net, features = lab.build_network(500, seed)
    x, y = lab.make_examples(features, seed)
    shapes = [p.shape for p in net.parameters() if p.ndim == 2]
    products = [lab.EXAMPLES * rows * columns for rows, columns in shapes]
    forward = lab.count_operations(lambda: lab.compute_loss(net, x, y))
    assert forward == sum(products)
    whole = lab.count_operations(lambda: lab.compute_gradient(net, x, y))
    assert whole == 3 * forward - products[0]  # the first layer's inputs need no gradient
    torchs = FlopCounterMode(display=False)
    with torchs:
        lab.compute_gradient(net, x, y)
    assert torchs.get_total_flops() == 2 * whole


@pytest.mark.parametrize(("scheme", "passes"), [("forward", lambda p: p + 1), ("central", lambda p: 2 * p)])
def test_differences_cost_what_the_formula_says(scheme: lab.Scheme, passes: object) -> None:
    net, features = lab.build_network(80, 0)
    x, y = lab.make_examples(features, 0)
    before = [p.detach().clone() for p in net.parameters()]
    weights = sum(p.numel() for p in net.parameters())
    count = lab.count_operations(lambda: lab.compute_differences(net, x, y, scheme))
    assert callable(passes)
    assert count == passes(weights) * lab.count_operations(lambda: lab.compute_loss(net, x, y))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))  # each nudge was taken back


def test_networks_have_the_size_asked_for_and_one_shape_for_each_seed() -> None:
    for size in (1_000, 100_000):
        net, _ = lab.build_network(size, 1)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(size, rel=0.1)
    depths = {
        sum(isinstance(m, nn.Linear) for m in lab.build_network(size, 1)[0].modules()) for size in (1_000, 10_000)
    }
    assert len(depths) == 1

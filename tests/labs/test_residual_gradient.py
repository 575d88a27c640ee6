"""C29: what is measured is right, and the margin is gone when the sums are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise.labs import base
from layerwise.labs import residual_gradient as lab

SMALL = lab.Plan(seeds=3, depths=(56,), examples=16, width=4)


def test_residual_nets_are_more_even_by_more_than_the_bound() -> None:
    findings = lab.measure("quick", plan=SMALL)
    assert base.compute_interval(findings.margins).low > findings.bound


def test_without_the_sums_nothing_is_gained() -> None:
    findings = lab.measure("quick", kinds={"plain": False, "residual": False}, plan=SMALL)
    assert not base.is_held(findings)
    assert findings.margins == (0.0, 0.0, 0.0)
    assert not all(check.passed for check in findings.checks)


def test_the_start_is_changed_as_it_says() -> None:
    nets = {start: lab.build_network(True, start, 8, width=4, seed=0) for start in lab.STARTS}
    weights = {start: net.get_submodule("layer1.0.conv1").weight for start, net in nets.items()}
    assert torch.equal(weights[lab.HALVED], weights[lab.BARE] / 2)
    assert torch.equal(weights[lab.NORMED], weights[lab.BARE])
    norms = {start: sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for start, net in nets.items()}
    assert norms == {lab.NORMED: 7, lab.HALVED: 0, lab.BARE: 0}


def test_norms_are_those_of_finite_differences() -> None:
    """The oracle: each value behind the last block moved up and down, and the loss taken by what follows."""
    net = lab.build_network(True, lab.BARE, 8, width=2, seed=1)
    task, batch = lab.load_digits(2, 1)
    assert batch.targets is not None
    with torch.no_grad():
        x = net.relu(net.bn1(net.conv1(batch.inputs)))
        behind = [x := stage(x) for stage in (net.layer1, net.layer2, net.layer3)][-1]
        slopes = []
        for at in range(behind.numel()):
            ends = []
            for step in (1e-6, -1e-6):
                moved = behind.clone(memory_format=torch.contiguous_format)
                moved.view(-1)[at] += step
                logits = net.linear(net.avgpool(moved).flatten(1))
                ends.append(float(nn.functional.cross_entropy(logits, batch.targets)))
            slopes.append((ends[0] - ends[1]) / 2e-6)
    norms = lab.measure_gradient_profile(net, task, batch)
    assert len(norms) == 3
    assert norms[-1] == pytest.approx(float(torch.tensor(slopes).norm()), rel=1e-4)
    assert lab.compute_decades((0.001, 5.0, 1.0)) == pytest.approx(-3)

"""C12: what the neurons receive is batch norm's formula, and the verdict flips when it does not normalize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.labs import base
from layerwise.labs import batch_norm as lab
from layerwise.labs.training import load_batches

SMALL = lab.Plan("digits", 3, (lab.USUAL, 0.3, 1.0), 3)


def test_without_the_normalization_the_claim_does_not_hold() -> None:
    findings = lab.measure("quick", normalize=False, plan=SMALL)
    assert not base.is_held(findings)
    assert base.compute_interval(findings.margins).low <= findings.bound
    assert not findings.checks[0].passed


def test_without_larger_steps_the_claim_does_not_hold() -> None:
    findings = lab.measure("quick", plan=lab.Plan("digits", 2, (lab.USUAL,), 3))
    assert max(findings.margins) == 0
    assert not base.is_held(findings)


def test_the_neurons_receive_what_the_formula_says() -> None:
    """The oracle: ẑ = (z − μ)/√(σ² + ε), γẑ + β in float64 with NumPy, layer by layer, with the running statistics."""
    data = load_batches("digits", seed=0)
    net = lab.build_network(data, batch_norm=True, normalize=True, seed=0).double()
    x = data.test.inputs.double()
    with torch.no_grad():
        for _ in range(20):
            net(data.train.inputs.double())  # moves the running statistics
        for module in net:
            if isinstance(module, nn.BatchNorm1d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-1, 1)
    preactivations = lab.collect_preactivations(net, x)
    assert net.training
    a = x.flatten(1).numpy()
    for number, z in enumerate(preactivations):
        linear, norm = net[1 + 3 * number], net[2 + 3 * number]
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        w, b, gamma, beta, mu, var = (
            t.detach().numpy()
            for t in (linear.weight, linear.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
            if t is not None
        )
        by_hand = gamma * (a @ w.T + b - mu) / np.sqrt(var + norm.eps) + beta
        assert np.allclose(z.numpy(), by_hand)
        a = np.maximum(by_hand, 0)
    assert len(preactivations) == len(lab.HIDDEN)


def test_both_networks_start_from_the_same_weights() -> None:
    data = load_batches("digits", seed=0)
    plain, normed, spoilt = (
        [m.weight for m in lab.build_network(data, batch_norm=n, normalize=s, seed=2) if isinstance(m, nn.Linear)]
        for n, s in ((False, True), (True, True), (True, False))
    )
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(plain, normed, spoilt, strict=True))


@pytest.mark.parametrize(
    ("mean", "deviation", "near"), [(0, 1, 1), (0.6, 1, 0), (0, 2.5, 0), (-0.4, 0.6, 1), (0, 0.4, 0)]
)
def test_near_is_what_it_says(mean: float, deviation: float, near: float) -> None:
    assert lab.TrainedNetwork(1.0, np.array([mean]), np.array([deviation])).near == near

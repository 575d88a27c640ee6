"""C22: nets without their sums gain nothing; what is counted is counted right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerwise.labs import base
from layerwise.labs import residual_depth as lab
from layerwise.labs.training import load_batches

SMALL = lab.Plan("digits", 50, 3, 1, 50, 2)


@pytest.mark.usefixtures("one_thread")
def test_without_the_sums_the_margin_is_nothing() -> None:
    findings = lab.measure("quick", kinds={"plain": False, "residual": False}, plan=SMALL)
    assert findings.margins == (0.0, 0.0, 0.0)
    assert not base.is_held(findings)


def test_the_margin_and_the_checks_by_hand() -> None:
    def make_scores(**of: tuple[float, float]) -> lab.Scores:
        pairs = {(kind, depth): value for kind, both in of.items() for depth, value in zip((20, 56), both, strict=True)}
        return {key: [lab.Score(value + 0.001 * n, 0.5) for n in range(3)] for key, value in pairs.items()}

    for plain, residual, want in (
        ((0.9, 0.6), (0.9, 0.95), [True, True]),
        ((0.9, 0.9), (0.9, 0.95), [False, True]),
        ((0.9, 0.6), (0.9, 0.85), [True, False]),
    ):
        scores = make_scores(plain=plain, residual=residual)
        assert lab.compute_drop(scores, "plain") == pytest.approx([plain[0] - plain[1]] * 3)
        assert [check.passed for check in lab._build_checks(scores)] == want


def test_statistics_are_those_of_the_training_part() -> None:
    data = load_batches("digits", seed=0, examples=60)
    net = lab.build_network(True, 8, data, width=2, seed=0)
    lab.update_batch_norm(net, data.train)
    z = nn.functional.conv2d(data.train.inputs, net.get_submodule("conv1").weight, padding=1).detach()
    torch.testing.assert_close(net.get_submodule("bn1").running_mean, z.mean((0, 2, 3)))
    torch.testing.assert_close(net.get_submodule("bn1").running_var, z.transpose(0, 1).flatten(1).var(1))
    net.eval()
    right = (net(data.train.inputs).argmax(1) == data.train.targets).double().mean()
    assert lab.compute_accuracy(net, data, data.train) == pytest.approx(float(right))
    plain = lab.build_network(False, 8, data, width=2, seed=0)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in net.parameters())

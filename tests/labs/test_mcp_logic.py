"""C01: the verdict flips when the step gets a slope or the perceptron loses its rule."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from layerwise.labs import base
from layerwise.labs import mcp_logic as lab


def test_a_neuron_with_a_slope_learns_too() -> None:
    findings = lab.measure("quick", unit=lab.sigmoid_unit, seeds=2)
    assert not base.is_held(findings)
    assert [check.passed for check in findings.checks] == [True, True, False, True]


def test_without_its_rule_the_perceptron_learns_no_more_than_the_neuron() -> None:
    findings = lab.measure("quick", rate=0.0, seeds=2)
    assert not base.is_held(findings)
    assert max(findings.margins) == 0


def test_a_net_for_any_table_computes_it() -> None:
    """By hand in Python's whole numbers, for a few functions of four bits."""
    for code in (0, 1, 0x8000, 0x6996, 0xFFFF, 0x1234):
        table = tuple(code >> i & 1 for i in range(16))
        net = lab.build_network(table)
        for row, expected in zip(itertools.product((0, 1), repeat=4), table, strict=True):
            hidden = [
                int(sum(w * x for w, x in zip(n.weights.tolist(), row, strict=True)) >= n.threshold) for n in net.first
            ]
            assert int(sum(hidden) >= 1) == expected
            assert float(net(torch.tensor([row], dtype=torch.float32))) == expected


def test_a_wrong_gate_is_noticed() -> None:
    assert lab.count_wrong_outputs() == 0
    nor = lab.build_gate(gate="nor", inputs=2)
    assert lab._count_wrong_rows(nor, 2, lab.GATES["or"]) == 4


def test_the_slope_is_the_derivative() -> None:
    """Of the sigmoid neuron by its formula; of the step 0."""
    y, weights, threshold = lab.draw_task(3)
    x = lab.enumerate_inputs(lab.INPUTS)
    s = 1 / (1 + np.exp(-(x.numpy() @ weights.numpy() - float(threshold))))
    inner = 2 * (s - y.numpy()) * s * (1 - s)
    by_hand = [*(inner @ x.numpy()), -inner.sum()]
    assert np.allclose(
        lab.compute_numerical_gradient(lab.sigmoid_unit, x, y, weights, threshold).numpy(), by_hand, atol=1e-6
    )
    assert not lab.compute_numerical_gradient(lab.step_unit, x, y, weights, threshold).any()


def test_every_task_can_be_learned_and_none_begins_learned() -> None:
    x = lab.enumerate_inputs(lab.INPUTS)
    for seed in range(20):
        y, weights, threshold = lab.draw_task(seed)
        assert 0 < float(y.mean()) < 1
        assert lab.compute_accuracy(lab.step_unit, x, y, weights, threshold) <= 0.75

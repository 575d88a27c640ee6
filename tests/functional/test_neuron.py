"""E01–E03 against truth tables and plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from layerwise.functional.neuron import layer, mcp, neuron

GATES = {
    "and": ([1.0, 1.0], 2.0, all),
    "or": ([1.0, 1.0], 1.0, any),
    "nand": ([-1.0, -1.0], -1.0, lambda bits: not all(bits)),
    "nor": ([-1.0, -1.0], 0.0, lambda bits: not any(bits)),
}


@pytest.mark.parametrize("gate", sorted(GATES))
def test_mcp_neuron_computes_the_gate(gate: str) -> None:
    weights, threshold, truth = GATES[gate]
    inputs = list(itertools.product([0.0, 1.0], repeat=2))
    got = mcp(torch.tensor(inputs), torch.tensor(weights), threshold)
    assert got.tolist() == [float(truth(bits)) for bits in inputs]


def test_two_layers_of_mcp_neurons_compute_xor() -> None:
    inputs = list(itertools.product([0.0, 1.0], repeat=2))
    hidden = mcp(torch.tensor(inputs), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([1.0, -1.0]))
    got = mcp(hidden, torch.tensor([1.0, 1.0]), 2.0)
    assert got.tolist() == [float(a != b) for a, b in inputs]


def test_no_threshold_lets_one_neuron_compute_xor() -> None:
    inputs = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    grid = [i / 2 for i in range(-6, 7)]
    for w1, w2, theta in itertools.product(grid, grid, grid):
        assert mcp(inputs, torch.tensor([w1, w2]), theta).tolist() != [0.0, 1.0, 1.0, 0.0]


def test_neuron_and_layer_are_the_sums() -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(5, 4, generator=draw, dtype=torch.float64)
    W = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    b = torch.randn(3, generator=draw, dtype=torch.float64)
    want = [
        [math.tanh(sum(float(W[k, i]) * float(row[i]) for i in range(4)) + float(b[k])) for k in range(3)] for row in x
    ]
    got = layer(x, W, bias=b, activation=torch.tanh)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    single = neuron(x, W[1], bias=b[1], activation=torch.tanh)
    torch.testing.assert_close(single, got[:, 1])
    torch.testing.assert_close(neuron(x[0], W[1], bias=b[1], activation=torch.tanh), got[0, 1])

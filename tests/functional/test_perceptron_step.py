"""E09 by hand, and Novikoff's bound on data that a plane separates."""

from __future__ import annotations

import math

import torch

from layerwise.functional.neuron import novikoff_bound, perceptron_step


def test_step_follows_the_rule_on_all_three_sides() -> None:
    x, w, b = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 1.0]), torch.tensor(0.5)  # z = 0.5
    right = perceptron_step(x, 1, weights=w, bias=b, rate=0.25)
    assert right[0].tolist() == [2.0, 1.0]
    assert float(right[1]) == 0.5
    wrong = perceptron_step(x, -1, weights=w, bias=b, rate=0.25)
    assert wrong[0].tolist() == [1.75, 1.5]
    assert float(wrong[1]) == 0.25
    on_the_plane = perceptron_step(x, 1, weights=torch.zeros(2), bias=torch.tensor(0.0), rate=1.0)
    assert on_the_plane[0].tolist() == [1.0, -2.0]
    assert float(on_the_plane[1]) == 1.0


def test_mistakes_stay_within_novikoffs_bound() -> None:
    draw = torch.Generator().manual_seed(7)
    true = torch.tensor([1.0, -2.0, 0.5, 0.3])
    X = torch.randn(400, 3, generator=draw)
    z = X @ true[:3] + true[3]
    keep = z.abs() > 0.3
    X, y = X[keep], z[keep].sign()
    w, b, mistakes = torch.zeros(3), torch.tensor(0.0), 0
    for _ in range(1000):
        before = mistakes
        for row, label in zip(X, y, strict=True):
            new, new_b = perceptron_step(row, label, weights=w, bias=b, rate=1.0)
            mistakes += int(not torch.equal(new_b, b))
            w, b = new, new_b
        if mistakes == before:
            break
    assert mistakes == before
    assert 0 < mistakes <= novikoff_bound(X, y, weights=true)


def test_bound_is_the_formula_and_needs_separation() -> None:
    X, y, w = (
        torch.tensor([[3.0, 0.0], [-1.0, 4.0]]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([1.0, -1.0, 0.5]),
    )
    norm = math.sqrt(2.25)
    radius, margin = math.sqrt(1 + 16 + 1), min(3.5, 4.5) / norm
    assert abs(novikoff_bound(X, y, weights=w) - (radius / margin) ** 2) < 1e-9
    assert abs(novikoff_bound(X, y, weights=10 * w) - novikoff_bound(X, y, weights=w)) < 1e-9
    assert novikoff_bound(X, -y, weights=w) == math.inf

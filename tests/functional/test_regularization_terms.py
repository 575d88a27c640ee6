"""E08 against plain sums, finite differences, and a search for the proximal step's minimum."""

from __future__ import annotations

import torch

from layerwise.functional.regularization import l1, l2, soft_threshold

W = torch.tensor([[0.5, -1.25, 0.01], [-0.02, 3.0, 0.4]], dtype=torch.float64)


def test_penalties_are_the_sums() -> None:
    values = W.flatten().tolist()
    assert abs(float(l2(W, 0.3)) - 0.3 * sum(w * w for w in values)) < 1e-12
    assert abs(float(l1(W, 0.3)) - 0.3 * sum(abs(w) for w in values)) < 1e-12


def test_gradients_are_the_finite_differences() -> None:
    for penalty in (l1, l2):
        w = W.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(penalty(w, 0.7), w)
        for i in range(W.numel()):
            step = torch.zeros(W.numel(), dtype=torch.float64)
            step[i] = 1e-6
            moved = step.view_as(W)
            slope = float(penalty(W + moved, 0.7) - penalty(W - moved, 0.7)) / 2e-6
            assert abs(float(gradient.flatten()[i]) - slope) < 1e-6


def test_torch_weight_decay_is_two_lambda() -> None:
    ours, theirs = (torch.nn.Parameter(W.clone()) for _ in range(2))
    l2(ours, 0.05).backward()
    theirs.grad = torch.zeros_like(theirs)
    torch.optim.SGD([ours], lr=0.1).step()
    torch.optim.SGD([theirs], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(ours, theirs)


def test_soft_threshold_minimizes_its_objective() -> None:
    grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
    got = soft_threshold(W, 0.03).flatten()
    for w, u in zip(W.flatten(), got, strict=True):
        best = grid[(0.5 * (grid - w) ** 2 + 0.03 * grid.abs()).argmin()]
        assert abs(float(best - u)) < 1e-4
    assert int((got == 0).sum()) == 2  # 0.01 and −0.02, exactly

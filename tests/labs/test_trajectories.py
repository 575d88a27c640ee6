"""Without momentum, or in a round bowl, nothing is gained; steps and paths are those of closed forms and of
torch."""

from __future__ import annotations

import pytest
import torch

from layerwise.labs import base, valleys
from layerwise.labs import trajectories as lab

SMALL = lab.Plan(3, 6, (0.5, 1.9, 4.0), 700)
FEW = {"SGD": "sgd", "momentum": "momentum", "AdaGrad": "adagrad"}


def test_the_small_plan_holds() -> None:
    assert base.is_held(lab.measure("quick", methods=FEW, plan=SMALL))  # type: ignore[arg-type]


def test_without_momentum_the_verdict_flips() -> None:
    findings = lab.measure("quick", methods={**FEW, "momentum": "sgd"}, plan=SMALL)  # type: ignore[arg-type, dict-item]
    assert set(findings.margins) == {0}
    assert not base.is_held(findings)


def test_in_a_round_bowl_momentum_gains_nothing() -> None:
    findings = lab.measure("quick", methods=FEW, kappas=(1.0, 1.0), plan=SMALL)  # type: ignore[arg-type]
    assert max(findings.margins) < 0
    assert not base.is_held(findings)


@pytest.mark.parametrize("method", lab.METHODS.values())
def test_paths_are_torchs(method: lab.Method) -> None:
    assert valleys.compute_deviation(method) <= 1e-6


def test_momentums_steps_by_hand() -> None:
    """The recurrence of each eigendirection, written out in plain Python."""
    surface = valleys.draw_valleys(3, 1, oblique=False)
    steps = valleys.count_steps_to_target("momentum", 0.5, surface, 500)
    for b in range(3):
        curvature = [1 / float(surface.kappas[b]), 1.0]
        x, v = (surface.starts - surface.minima)[b].tolist(), [0.0, 0.0]
        losses = []
        for _ in range(400):
            losses.append(sum(c * a * a for c, a in zip(curvature, x, strict=True)))
            v = [0.9 * w + c * a for w, c, a in zip(v, curvature, x, strict=True)]
            x = [a - 0.5 * w for a, w in zip(x, v, strict=True)]
        assert steps[b] == 1 + max(i for i, loss in enumerate(losses) if loss > 1e-4 * losses[0])


def test_gradients_are_those_of_the_losses() -> None:
    surface = valleys.draw_valleys(5, 0, oblique=True)
    theta = surface.starts.clone().requires_grad_()
    (by_torch,) = torch.autograd.grad(surface.compute_loss(theta).sum(), theta)
    assert torch.allclose(by_torch, surface.compute_gradient(surface.starts))
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    (by_torch,) = torch.autograd.grad((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, x)
    assert torch.allclose(valleys.rosenbrock_gradient(x.detach()), by_torch)

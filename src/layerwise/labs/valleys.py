"""Quadratic valleys in the plane, and the paths of optimizers in them.

``B`` valleys, each L(θ) = ½ (θ − θ*)ᵀ Q diag(1, 1/κ) Qᵀ (θ − θ*), Q a rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.rules.optimizers import Method, Optimizer
from layerwise.runtime import rng

KAPPAS = (150.0, 300.0)  # condition numbers κ: how many times steeper valleys are across than along
MOMENTUM, BETAS, ALPHA, EPS, DECAY = 0.9, (0.9, 0.999), 0.99, 1e-8, 0.01  # torch's own defaults, and the usual momentum
TARGET, STAY = 1e-4, 60  # part of the first loss that is to be reached, and for how many steps it must stay below


@dataclass(frozen=True)
class Valleys:
    """B valleys: minima θ* (B, 2), curvature matrices (B, 2, 2), starts (B, 2); κ (B,)."""

    minima: Tensor
    curvature: Tensor
    starts: Tensor
    kappas: Tensor

    def compute_gradient(self, theta: Tensor) -> Tensor:
        """Return ∇L (B, 2)."""
        return (self.curvature * (theta - self.minima)[:, None]).sum(2)

    def compute_loss(self, theta: Tensor) -> Tensor:
        """Return L (B,)."""
        return 0.5 * ((theta - self.minima) * self.compute_gradient(theta)).sum(1)


def draw_valleys(count: int, seed: int, *, oblique: bool, kappas: tuple[float, float] = KAPPAS) -> Valleys:
    """Draw valleys: rotated by a drawn angle if ``oblique``, else along the axes, κ log-uniform, minima 1 to 3 from the
    origin.

    A start lies 3 to 6 from the minimum along the valley, and between half and all of that across it.
    """
    generator = rng.make_numpy_generator("trajectories", seed)
    angle, direction = generator.uniform(15, 75, count) * oblique, generator.uniform(0, 2 * math.pi, count)
    far, slant = generator.uniform(3, 6, count), generator.uniform(0.5, 1.0, count)
    signs = generator.choice([-1.0, 1.0], (count, 2))
    kappa = torch.from_numpy(np.exp(generator.uniform(math.log(kappas[0]), math.log(kappas[1]), count)))
    radians = torch.from_numpy(np.deg2rad(angle))
    rotation = torch.stack(
        [torch.stack([radians.cos(), -radians.sin()], 1), torch.stack([radians.sin(), radians.cos()], 1)], 1
    )  # (B, 2, 2)
    steep = torch.diag_embed(torch.stack([1 / kappa, torch.ones_like(kappa)], 1))
    minima = torch.from_numpy(np.stack([np.cos(direction), np.sin(direction)], 1) * generator.uniform(1, 3, (count, 1)))
    off = torch.from_numpy(np.stack([far, far * slant], 1) * signs)  # along and across
    return Valleys(minima, rotation @ steep @ rotation.mT, minima + torch.einsum("bij,bj->bi", rotation, off), kappa)


def build_optimizer(method: Method, theta: Tensor, rate: float) -> Optimizer:
    """Return the project's optimizer over one tensor, with the usual constants."""
    return Optimizer(
        [theta],
        method=method,
        lr=rate,
        momentum=MOMENTUM,
        betas=BETAS,
        alpha=ALPHA,
        eps=EPS,
        weight_decay=DECAY if method == "adamw" else 0.0,
    )


def trace_path(method: Method, rate: float, gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return the positions (steps + 1, …) of a method's path from a start, by its gradients."""
    theta = start.clone()
    rule, positions = build_optimizer(method, theta, rate), [start.clone()]
    for _ in range(steps):
        theta.grad = gradient(theta)
        rule.step()
        positions.append(theta.clone())
    return torch.stack(positions)


def count_steps_to_target(method: Method, rate: float, surface: Valleys, limit: int) -> Tensor:
    """Return after how many steps each valley's loss is at the target and stays there for `STAY` further ones, (B,);
    else ``limit``.

    Passing through the minimum does not count.
    """
    theta, target = surface.starts.clone(), TARGET * surface.compute_loss(surface.starts)
    rule, above = build_optimizer(method, theta, rate), torch.zeros(len(theta))
    for step in range(limit):
        gradient = surface.compute_gradient(theta)
        loss = 0.5 * ((theta - surface.minima) * gradient).sum(1)
        late = ~(loss <= target)
        above[late] = step + 1
        if not float(loss.max()) < 1e6:
            return torch.full((len(theta),), float(limit))
        if step >= float(above.max()) + STAY:
            break
        theta.grad = gradient
        rule.step()
    return above.clamp_max(limit)


def trace_torch_path(
    method: Method, rate: float, gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int
) -> Tensor:
    """Return the same positions as `trace_path`, by torch.optim's own class."""
    theta = start.clone().requires_grad_()
    classes: dict[Method, Callable[[list[Tensor]], Any]] = {
        "sgd": partial(torch.optim.SGD, lr=rate),
        "momentum": partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM),
        "nesterov": partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM, nesterov=True),
        "adagrad": partial(torch.optim.Adagrad, lr=rate, eps=EPS),
        "rmsprop": partial(torch.optim.RMSprop, lr=rate, alpha=ALPHA, eps=EPS),
        "adam": partial(torch.optim.Adam, lr=rate, betas=BETAS, eps=EPS),
        "adamw": partial(torch.optim.AdamW, lr=rate, betas=BETAS, eps=EPS, weight_decay=DECAY),
    }
    rule, positions = classes[method]([theta]), [start.clone()]
    for _ in range(steps):
        theta.grad = gradient(theta.detach())
        rule.step()
        positions.append(theta.detach().clone())
    return torch.stack(positions)


def rosenbrock_gradient(theta: Tensor) -> Tensor:
    """Return ∇[(1 − x)² + 100 (y − x²)²], (…, 2): a valley that bends (Rosenbrock 1960)."""
    x, y = theta.unbind(-1)
    return torch.stack([2 * (x - 1) - 400 * x * (y - x.square()), 200 * (y - x.square())], -1)


def compute_deviation(method: Method) -> float:
    """Return the largest distance between our path and torch.optim's, in a valley and in Rosenbrock's, 100 steps
    each."""
    surface = draw_valleys(4, 0, oblique=True)
    cases = (
        (surface.compute_gradient, surface.starts),
        (rosenbrock_gradient, torch.tensor([[-1.2, 1.0]], dtype=torch.float64)),
    )
    return max(
        float((trace_path(method, 1e-3, g, start, 100) - trace_torch_path(method, 1e-3, g, start, 100)).abs().max())
        for g, start in cases
    )


def count_closed_form_steps(surface: Valleys, rate: float, limit: int) -> Tensor:
    """Return plain descent's steps to the target (B,) by its closed form: offsets along and across shrink by 1 − η/κ
    and 1 − η a step.

    ``rate`` is below 2, so both shrink and the loss falls at every step.
    """
    values, vectors = torch.linalg.eigh(surface.curvature)
    offsets = torch.einsum("bji,bj->bi", vectors, surface.starts - surface.minima)
    step = torch.arange(limit, dtype=torch.float64)
    losses = (
        0.5 * (values * offsets.square())[:, None] * (1 - rate * values)[:, None].abs() ** (2 * step[:, None])
    )  # (B, limit, 2)
    above: Tensor = losses.sum(2) > TARGET * losses.sum(2)[:, :1]
    return above.sum(1)


def build_figure_valley() -> Valleys:
    """Return the one valley of the figure: κ = 200, turned by 30°, its minimum at (1, 0.5)."""
    radians = math.radians(30)
    rotation = torch.tensor(
        [[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]], dtype=torch.float64
    )
    curvature = rotation @ torch.diag(torch.tensor([0.005, 1.0], dtype=torch.float64)) @ rotation.T
    minimum = torch.tensor([1.0, 0.5], dtype=torch.float64)
    start = minimum + rotation @ torch.tensor([-5.0, 2.5], dtype=torch.float64)
    return Valleys(minimum[None], curvature[None], start[None], torch.tensor([200.0]))

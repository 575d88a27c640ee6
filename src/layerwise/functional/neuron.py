"""One neuron and one layer: McCulloch–Pitts (E01), weighted sum and activation (E02, E03); Rosenblatt's rule for one
example, and Novikoff's bound on its mistakes (E09)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def mcp(x: Tensor, weights: Tensor, threshold: Tensor | float) -> Tensor:
    """Return 1 where Σ wᵢxᵢ ≥ θ, else 0 (E01; McCulloch & Pitts, 1943).

    Args:
        x: inputs (…, D) in {0, 1}.
        weights: w (D,) for one neuron, or W (K, D) for K of them; of x's type.
        threshold: θ, a number, or (K,) for K neurons.

    Returns:
        (…) for one neuron, (…, K) for K, in {0, 1}, of x's type.
    """
    return (F.linear(x, weights) >= threshold).to(x.dtype)


def neuron(x: Tensor, weights: Tensor, *, bias: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return f(Σ wᵢxᵢ + b) (E02): x (…, D), w (D,), b () give (…)."""
    return activation(F.linear(x, weights) + bias)


def layer(x: Tensor, weights: Tensor, *, bias: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Return f(W a + b) for each row (E03): a (…, D), W (K, D), b (K,) give (…, K)."""
    return activation(F.linear(x, weights, bias))


def perceptron_step(
    x: Tensor, y: Tensor | float, *, weights: Tensor, bias: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """Return (w, b) after one example: when y·z ≤ 0, z = w·x + b: w + η y x, b + η y; else unchanged (E09).

    Args:
        x: one example (D,).
        y: its label, −1 or +1.
        weights: w (D,).
        bias: b ().
        rate: η > 0.
    """
    z = weights @ x + bias
    wrong = (y * z <= 0).to(x.dtype)
    return weights + rate * wrong * y * x, bias + rate * wrong * y


def novikoff_bound(X: Tensor, y: Tensor, *, weights: Tensor) -> float:
    """Return (R/γ)², the most mistakes Rosenblatt's rule can make from w₀ = 0 (Novikoff, 1962).

    R = max‖x̃ₙ‖ with x̃ = (x, 1), and γ = min yₙ x̃ₙ·u, u = w̃/‖w̃‖. Any separating w̃ gives a bound; the widest
    margin gives the least. Infinite where w̃ does not separate the classes.

    Args:
        X: examples (N, D).
        y: labels (N,) in {−1, +1}.
        weights: w̃ (D+1,), the last one the bias.
    """
    rows = torch.cat([X.double(), torch.ones(len(X), 1, dtype=torch.float64, device=X.device)], dim=1)
    unit = weights.double() / weights.double().norm()
    margin = float((y.double() * (rows @ unit)).min())
    radius = float(rows.norm(dim=1).max())
    return (radius / margin) ** 2 if margin > 0 else float("inf")

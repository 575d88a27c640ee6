"""One neuron and one layer of them: McCulloch–Pitts (E01), weighted sum and activation (E02, E03)."""

from __future__ import annotations

from collections.abc import Callable

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

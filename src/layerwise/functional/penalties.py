"""Penalties on weights (E08). Biases and norms are exempt: which tensors to pass is the caller's choice.

Three different things go by one name: λ here, torch's ``weight_decay`` = 2λ, scikit-learn's ``alpha`` = 2nλ;
AdamW's decay is decoupled from the gradient and is no penalty at all.
"""

from __future__ import annotations

from torch import Tensor


def l2(weights: Tensor, lam: float) -> Tensor:
    """Return λΣw² (E08), a scalar; its gradient is 2λw."""
    return lam * weights.square().sum()


def l1(weights: Tensor, lam: float) -> Tensor:
    """Return λΣ|w| (E08), a scalar; its subgradient is λ sign(w)."""
    return lam * weights.abs().sum()


def soft_threshold(weights: Tensor, step: float | Tensor) -> Tensor:
    """Return sign(w)·max(|w| − t, 0): L1's proximal step, argmin_u ½(u−w)² + t|u|, with exact zeros (E08).

    Args:
        weights: w, any shape.
        step: t = ηλ, the learning rate times the penalty, ≥ 0; one for all, or one for each weight where rates differ.
    """
    return weights.sign() * (weights.abs() - step).clamp_min(0)

"""Regularization: penalties on weights (E08) and dropout (E17). Networks use torch's own kernel (`torch.nn.Dropout`).

Penalties exempt biases and norms: the caller chooses which tensors to pass. Three different things go by one name: λ
here, torch's ``weight_decay`` = 2λ, scikit-learn's ``alpha`` = 2nλ; AdamW's decay is decoupled from the gradient and is
no penalty at all.

Source of dropout: N. Srivastava et al., Dropout, JMLR 15 (2014); the scale in training ("inverted" dropout) is today's
custom.
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


def dropout_mask(draws: Tensor, p: float) -> Tensor:
    """Return rᵢ ~ Bernoulli(1−p) from draws in U[0, 1), any shape: 1 where the draw is at least p, else 0."""
    return (draws >= p).to(draws.dtype)


def dropout(h: Tensor, r: Tensor, *, p: float) -> Tensor:
    """Return h′ᵢ = hᵢ rᵢ / (1−p) (E17): E h′ = h, so that nothing changes at inference.

    Args:
        h: units, any shape.
        r: 1 for kept units and 0 for dropped ones, of h's shape and type.
        p: the probability to be dropped, in [0, 1].

    At p = 1 every unit is dropped and h′ = 0.
    """
    return h * r / (1 - p) if p < 1 else h * 0

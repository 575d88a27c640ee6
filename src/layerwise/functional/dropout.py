"""Dropout (E17): units switched off at random in training. Networks use torch's own kernel (`torch.nn.Dropout`).

Source: N. Srivastava et al., Dropout, JMLR 15 (2014); the scale in training ("inverted" dropout) is today's custom.
"""

from __future__ import annotations

from torch import Tensor


def kept(draws: Tensor, p: float) -> Tensor:
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

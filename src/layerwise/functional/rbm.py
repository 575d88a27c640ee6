"""The restricted Boltzmann machine (E13): ``N`` examples, ``D`` visible and ``H`` hidden binary units.

W is (H, D), hidden by visible, as the weight of a ``torch.nn.Linear(D, H)``; a (D,) and b (H,) are the
visible and hidden biases. E13's W, in vᵀWh, is the transpose of this one. Sources: Smolensky (1986);
Hinton (2002).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Statistics(NamedTuple):
    """Sums over examples of h vᵀ (H, D), v (D,) and h (H,): what contrastive divergence compares."""

    weights: Tensor
    visible: Tensor
    hidden: Tensor


def rbm_energy(v: Tensor, h: Tensor, *, weights: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    """Return E(v,h) = −aᵀv − bᵀh − hᵀWv for each pair (E13): v (…, D), h (…, H) give (…)."""
    return -(v @ visible_bias) - h @ hidden_bias - (h * F.linear(v, weights)).sum(-1)


def free_energy(v: Tensor, *, weights: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Tensor:
    """Return F(v) = −aᵀv − Σ softplus(b + Wv) = −log Σₕ e^{−E(v,h)} (E13): v (…, D) gives (…)."""
    return -(v @ visible_bias) - F.softplus(F.linear(v, weights, hidden_bias)).sum(-1)


def hidden_probability(v: Tensor, *, weights: Tensor, hidden_bias: Tensor) -> Tensor:
    """Return p(hⱼ = 1 | v) = σ(b + Wv): v (…, D) gives (…, H)."""
    return torch.sigmoid(F.linear(v, weights, hidden_bias))


def visible_probability(h: Tensor, *, weights: Tensor, visible_bias: Tensor) -> Tensor:
    """Return p(vᵢ = 1 | h) = σ(a + Wᵀh): h (…, H) gives (…, D)."""
    return torch.sigmoid(torch.addmm(visible_bias, h, weights) if h.ndim == 2 else h @ weights + visible_bias)


def statistics(v: Tensor, h: Tensor) -> Statistics:
    """Return Σₙ hₙvₙᵀ, Σₙ vₙ and Σₙ hₙ: v (N, D), h (N, H). Sums, so that windows and ranks add up."""
    return Statistics(h.T @ v, v.sum(0), h.sum(0))


def contrastive_statistics(
    v: Tensor,
    start: Tensor,
    *,
    weights: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    draws: list[tuple[Tensor, Tensor]],
) -> tuple[Statistics, Statistics, Tensor]:
    """Return the positive and the negative statistics of CD-k, and the chain's last state (E13).

    The update is η times the difference of their means: positive over N, negative over M. Units are sampled
    along the chain (1 where the draw is below the probability); the statistics use p(h|v) at both ends.

    Args:
        v: data (N, D) in [0, 1], the positive phase.
        start: where the chain starts (M, D): ``v`` itself in CD, the last chain in persistent CD.
        weights: W (H, D).
        visible_bias: a (D,).
        hidden_bias: b (H,).
        draws: k pairs of U[0, 1) draws, (M, H) and (M, D): one pair a Gibbs step.
    """
    positive = statistics(v, hidden_probability(v, weights=weights, hidden_bias=hidden_bias))
    chain = start
    for for_hidden, for_visible in draws:
        h = (for_hidden < hidden_probability(chain, weights=weights, hidden_bias=hidden_bias)).to(v.dtype)
        chain = (for_visible < visible_probability(h, weights=weights, visible_bias=visible_bias)).to(v.dtype)
    ended = hidden_probability(chain, weights=weights, hidden_bias=hidden_bias)
    return positive, statistics(chain, ended), chain

"""GloVe (E31): ``N`` co-occurrences of words i and j, ``D`` dimensions.

Source: J. Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word Representation (2014).
"""

from __future__ import annotations

from torch import Tensor


def weight(counts: Tensor, *, x_max: float = 100.0, alpha: float = 0.75) -> Tensor:
    """Return f(X) = min(1, (X/x_max)^alpha), how much a count counts: X (N,) gives (N,)."""
    return (counts / x_max).clamp(max=1.0) ** alpha


def loss(
    words: Tensor,
    contexts: Tensor,
    counts: Tensor,
    *,
    vectors: Tensor,
    context: Tensor,
    bias: Tensor,
    context_bias: Tensor,
    x_max: float = 100.0,
    alpha: float = 0.75,
) -> Tensor:
    """Return f(Xᵢⱼ)(wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ − log Xᵢⱼ)² of each co-occurrence (E31), (N,). J is their sum; the authors'
    program halves it.

    Args:
        words: i (N,), whole numbers.
        contexts: j (N,).
        counts: Xᵢⱼ (N,), above 0.
        vectors: W (V, D); the words' vectors are W + W̃ in the end.
        context: W̃ (V, D).
        bias: b (V,).
        context_bias: b̃ (V,).
        x_max: from this count on f is 1.
        alpha: f(x) = (x/x_max)^alpha below.
    """
    products = (vectors[words] * context[contexts]).sum(-1)
    diff = products + bias[words] + context_bias[contexts] - counts.log()
    return weight(counts, x_max=x_max, alpha=alpha) * diff.square()

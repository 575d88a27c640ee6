"""The objectives of word2vec (E30) and GloVe (E31), as losses to minimize: ``N`` pairs, windows or co-occurrences,
``D`` dimensions, ``K`` negatives, ``V`` words.

word2vec has two tables: ``vectors`` v (V, D), the result, and ``context`` u (V, D), against which they are scored.
Sources: Mikolov, Chen, Corrado, Dean, Efficient estimation of word representations in vector space (2013a); Mikolov,
Sutskever, Chen, Corrado, Dean, Distributed representations of words and phrases and their compositionality (2013b); J.
Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word Representation (2014).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def negative_sampling_loss(v: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return −log σ(u_oᵀv) − Σₖ log σ(−u_kᵀv) for each v (E30; Mikolov et al. 2013b, eq. 4): (N,).

    Args:
        v: the vectors that score (N, D).
        positive: u_o (N, D).
        negative: u_k (N, K, D).
    """
    agrees = (positive * v).sum(-1)
    against = (negative @ v.unsqueeze(-1)).squeeze(-1)  # (N, K)
    return F.softplus(-agrees) + F.softplus(against).sum(-1)


def skipgram_loss(vectors: Tensor, context: Tensor, center: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """Return skip-gram's loss with negative sampling for each pair (E30): −log σ(u_oᵀv_c) − Σₖ log σ(−u_kᵀv_c), (N,).

    The caller chooses which word of a pair uses ``vectors`` and which ``context``: windows are symmetric, so over a
    text both orders give the same pairs. word2vec's programs use the neighbor's vector and the center word's row.

    Args:
        vectors: v (V, D).
        context: u (V, D).
        center: c (N,).
        positive: o (N,), a word that occurred with c.
        negatives: k (N, K), words drawn ∝ count^0.75.
    """
    return negative_sampling_loss(vectors[center], context[positive], context[negatives])


def cbow_loss(vectors: Tensor, context: Tensor, around: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """Return CBOW's loss with negative sampling for each window (E30): as skip-gram's, v_c the mean over the words
    around, (N,).

    Args:
        vectors: v (V, D).
        context: u (V, D).
        around: the words around the middle (N, C); below 0 where a window has fewer.
        positive: the word in the middle (N,).
        negatives: k (N, K).
    """
    return negative_sampling_loss(mean_vector(vectors, around), context[positive], context[negatives])


def mean_vector(vectors: Tensor, words: Tensor) -> Tensor:
    """Return the mean of the vectors of words (N, C) ≥ 0, leaving out those below 0; zeros where there is none: (N,
    D)."""
    there = (words >= 0).unsqueeze(-1).to(vectors.dtype)
    total = (vectors[words.clamp(min=0)] * there).sum(1)
    return total / there.sum(1).clamp(min=1)


def hierarchical_softmax_loss(v: Tensor, nodes: Tensor, path: Tensor, signs: Tensor) -> Tensor:
    """Return −log p(w | v) for each v (E30's alternative; Mikolov et al. 2013b, eq. 3): −Σⱼ log σ(±nⱼᵀv) along w's
    path, (N,).

    The inner nodes of a binary tree over the words decide left or right, σ(nᵀv) is the chance of a 0 in the code; over
    all words the probabilities add up to 1.

    Args:
        v: the vectors that score (N, D): of a context word, or a context's mean.
        nodes: n (V − 1, D).
        path: the inner nodes from the root to the word (N, S), any node where the path is shorter.
        signs: the label at each node (N, S), 1 − the bit of the code: 1 or 0; below 0 behind the path's end.
    """
    scores = (nodes[path] @ v.unsqueeze(-1)).squeeze(-1)  # (N, S)
    # −log σ(s) where the label is 1, −log σ(−s) where it is 0
    losses = F.softplus(scores) - signs.clamp(min=0) * scores
    return (losses * (signs >= 0)).sum(-1)


def glove_weight(counts: Tensor, *, x_max: float = 100.0, alpha: float = 0.75) -> Tensor:
    """Return f(X) = min(1, (X/x_max)^alpha), the weight of a count: X (N,) gives (N,)."""
    return (counts / x_max).clamp(max=1.0) ** alpha


def glove_loss(
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
    return glove_weight(counts, x_max=x_max, alpha=alpha) * diff.square()

"""word2vec's objectives (E30), as losses to minimize: ``N`` pairs or windows, ``D`` dimensions, ``K`` negatives, ``V``
words.

Two tables: ``vectors`` v (V, D), the ones that are kept, and ``context`` u (V, D), which they are scored against.
Sources: Mikolov, Chen, Corrado, Dean, Efficient estimation of word representations in vector space (2013a); Mikolov,
Sutskever, Chen, Corrado, Dean, Distributed representations of words and phrases and their compositionality (2013b).
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

    Which word of a pair has the vector and which the row of ``context`` is the caller's: windows are symmetric, so over
    a text both ways give the same pairs. The programs of word2vec give the neighbor the vector and the word in the
    middle the row.

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
    losses = (
        F.softplus(scores) - signs.clamp(min=0) * scores
    )  # −log σ(s) where the label is 1, −log σ(−s) where it is 0
    return (losses * (signs >= 0)).sum(-1)

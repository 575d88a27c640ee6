"""What vectors say by the angles between them: nearest words, analogies, the odd one out, a text's vector.

``V`` words, ``D`` dimensions, ``Q`` questions, ``N`` texts. The one idea: at length one a cosine is a product, so that
every question is a product with the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]
Method = Literal["add", "mul"]
EPSILON = 1e-3  # Levy & Goldberg's, against division by zero
SMOOTHING = 1e-3  # Arora et al.'s a


def normalized(x: Floats) -> Floats:
    """Return rows (N, D) at length one: xᵢ / ‖xᵢ‖; rows of length zero stay zero. Lengths are taken in float64."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    return (x / np.where(length > 0, length, 1.0)).astype(np.float32)


def cosine(x: Floats, y: Floats) -> Floats:
    """Return the cosines of every row of x (N, D) with every row of y (M, D), (N, M); 0 for vectors of length zero."""
    found: Floats = normalized(x) @ normalized(y).T
    return found


def top(scores: Floats, k: int) -> tuple[Ids, Floats]:
    """Return the places of the k largest scores of each row (Q, V), the largest first, and those scores, (Q, k).

    Of equal scores the earlier place comes first, so that the answer is one. ``k`` may be more than V: then all.
    """
    k = min(k, scores.shape[1])
    least = np.partition(scores, scores.shape[1] - k, axis=1)[:, [scores.shape[1] - k]]  # (Q, 1): the k-th largest
    ids = np.empty((len(scores), k), dtype=np.int64)
    for row, (mine, low) in enumerate(zip(scores, least, strict=True)):
        above = np.flatnonzero(mine > low)
        ties = np.flatnonzero(mine == low)[: k - len(above)]
        found = np.concatenate([above, ties])
        ids[row] = found[np.lexsort((found, -mine[found]))]
    return ids, np.take_along_axis(scores, ids, 1)


def analogies(unit: Floats, a: Ids, b: Ids, c: Ids, *, method: Method = "add", epsilon: float = EPSILON) -> Floats:
    """Return how well every word answers "a is to b as c is to …", (Q, V); the three words given have −∞.

    ``add`` (3CosAdd): cos(d, b − a + c). T. Mikolov, W. Yih, G. Zweig, NAACL 2013. ``mul`` (3CosMul): cos′(d, b) ·
    cos′(d, c) / (cos′(d, a) + ε) with cos′ = (1 + cos) / 2. O. Levy, Y. Goldberg, CoNLL 2014.

    Args:
        unit: the words' vectors at length one (V, D).
        a, b, c: rows of it, (Q,).
        method, epsilon: as above.
    """
    if method == "add":
        scores = normalized(unit[b] - unit[a] + unit[c]) @ unit.T
    else:
        from_a, from_b, from_c = ((1 + unit[at] @ unit.T) / 2 for at in (a, b, c))
        scores = from_b * from_c / (from_a + np.float32(epsilon))
    rows = np.arange(len(a))
    for given in (a, b, c):
        scores[rows, given] = -np.inf
    found: Floats = scores
    return found


def odd_one_out(unit: Floats) -> int:
    """Return which of some vectors at length one (N, D) has the smallest cosine with their mean."""
    return int((unit @ unit.mean(0)).argmin())


def mean_vectors(vectors: Floats, lengths: Sequence[int] | Ids, weights: Doubles | None = None) -> Floats:
    """Return the mean vector of each text, (N, D): v̄ = (1/n) Σᵢ wᵢ vᵢ; zero for a text without words.

    Args:
        vectors: the vectors of all texts' words, one text after the other (Σ n, D).
        lengths: each text's number of words n, (N,).
        weights: each word's weight (Σ n,); none: 1 each.
    """
    count = np.asarray(lengths, dtype=np.int64)
    total = np.zeros((len(count), vectors.shape[1]))
    weighed = vectors.astype(np.float64) if weights is None else vectors * weights[:, None]
    some = count > 0
    if some.any():
        total[some] = np.add.reduceat(weighed, (np.cumsum(count) - count)[some], axis=0)
    return (total / np.maximum(count, 1)[:, None]).astype(np.float32)


def sif_weights(counts: Ids, *, a: float = SMOOTHING) -> Doubles:
    """Return the weight a / (a + p(w)) of each word (V,), with p(w) its share of all words: frequent words say little.

    S. Arora, Y. Liang, T. Ma, A simple but tough-to-beat baseline for sentence embeddings, ICLR 2017.
    """
    share: Doubles = counts / max(1, int(counts.sum()))
    weights: Doubles = a / (a + share)
    return weights


def first_direction(gram: Doubles) -> Floats:
    """Return the first right singular vector of X (N, D) from XᵀX (D, D), at length one: what all rows have in common.

    The sign is such that its largest entry is positive.
    """
    found = np.linalg.eigh(gram)[1][:, -1]
    return np.asarray(found * np.sign(found[np.abs(found).argmax()]), dtype=np.float32)


def without_direction(x: Floats, direction: Floats) -> Floats:
    """Return rows (N, D) without their part along a direction of length one: x − u uᵀ x (Arora et al. 2017)."""
    found: Floats = x - (x @ direction)[:, None] * direction
    return found

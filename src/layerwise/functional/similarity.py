"""Operations on vectors by the angles between them: nearest words, analogies, the odd one out, text vectors, and the
orthogonal map between two spaces.

``V`` words, ``D`` dimensions, ``Q`` questions, ``N`` texts. For vectors of length one a cosine is a dot product, so
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


def normalize_rows(x: Floats) -> Floats:
    """Return rows (N, D) at length one: xᵢ / ‖xᵢ‖; rows of length zero stay zero. Lengths are taken in float64."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
    return (x / np.where(length > 0, length, 1.0)).astype(np.float32)


def cosine(x: Floats, y: Floats) -> Floats:
    """Return the cosines of every row of x (N, D) with every row of y (M, D), (N, M); 0 for vectors of length zero."""
    cosines: Floats = normalize_rows(x) @ normalize_rows(y).T
    return cosines


def top_k(scores: Floats, k: int) -> tuple[Ids, Floats]:
    """Return the indices of the k largest scores of each row (Q, V), the largest first, and those scores, (Q, k).

    Of equal scores the smaller index comes first, so that the result is unique. ``k`` may exceed V: then all.
    """
    k = min(k, scores.shape[1])
    least = np.partition(scores, scores.shape[1] - k, axis=1)[:, [scores.shape[1] - k]]  # (Q, 1): the k-th largest
    ids = np.empty((len(scores), k), dtype=np.int64)
    for row, (row_scores, threshold) in enumerate(zip(scores, least, strict=True)):
        above = np.flatnonzero(row_scores > threshold)
        ties = np.flatnonzero(row_scores == threshold)[: k - len(above)]
        positions = np.concatenate([above, ties])
        ids[row] = positions[np.lexsort((positions, -row_scores[positions]))]
    return ids, np.take_along_axis(scores, ids, 1)


def score_analogies(unit: Floats, a: Ids, b: Ids, c: Ids, *, method: Method = "add", eps: float = EPSILON) -> Floats:
    """Return the score of every word d in "a is to b as c is to d", (Q, V); the three words given have −∞.

    ``add`` (3CosAdd): cos(d, b − a + c). T. Mikolov, W. Yih, G. Zweig, NAACL 2013. ``mul`` (3CosMul): cos′(d, b) ·
    cos′(d, c) / (cos′(d, a) + ε) with cos′ = (1 + cos) / 2. O. Levy, Y. Goldberg, CoNLL 2014.

    Args:
        unit: the words' vectors at length one (V, D).
        a, b, c: rows of it, (Q,).
        method, eps: as above.
    """
    if method == "add":
        scores = normalize_rows(unit[b] - unit[a] + unit[c]) @ unit.T
    else:
        from_a, from_b, from_c = ((1 + unit[at] @ unit.T) / 2 for at in (a, b, c))
        scores = from_b * from_c / (from_a + np.float32(eps))
    rows = np.arange(len(a))
    for word in (a, b, c):
        scores[rows, word] = -np.inf
    result: Floats = scores
    return result


def find_odd_one_out(unit: Floats) -> int:
    """Return which of some vectors at length one (N, D) has the smallest cosine with their mean."""
    return int((unit @ unit.mean(0)).argmin())


def compute_mean_vectors(vectors: Floats, lengths: Sequence[int] | Ids, weights: Doubles | None = None) -> Floats:
    """Return the mean vector of each text, (N, D): v̄ = (1/n) Σᵢ wᵢ vᵢ; zero for a text without words.

    Args:
        vectors: the vectors of all texts' words, one text after the other (Σ n, D).
        lengths: each text's number of words n, (N,).
        weights: each word's weight (Σ n,); none: 1 each.
    """
    count = np.asarray(lengths, dtype=np.int64)
    total = np.zeros((len(count), vectors.shape[1]))
    weighed = vectors.astype(np.float64) if weights is None else vectors * weights[:, None]
    nonempty = count > 0
    if nonempty.any():
        total[nonempty] = np.add.reduceat(weighed, (np.cumsum(count) - count)[nonempty], axis=0)
    return (total / np.maximum(count, 1)[:, None]).astype(np.float32)


def compute_sif_weights(counts: Ids, *, a: float = SMOOTHING) -> Doubles:
    """Return the weight a / (a + p(w)) of each word (V,), with p(w) its share of all words: frequent words carry little
    meaning.

    S. Arora, Y. Liang, T. Ma, A simple but tough-to-beat baseline for sentence embeddings, ICLR 2017.
    """
    share: Doubles = counts / max(1, int(counts.sum()))
    weights: Doubles = a / (a + share)
    return weights


def find_common_direction(gram: Doubles) -> Floats:
    """Return the first right singular vector of X (N, D) from XᵀX (D, D), at length one: the direction common to all
    rows.

    The sign is such that its largest entry is positive.
    """
    direction = np.linalg.eigh(gram)[1][:, -1]
    return np.asarray(direction * np.sign(direction[np.abs(direction).argmax()]), dtype=np.float32)


def remove_direction(x: Floats, direction: Floats) -> Floats:
    """Return rows (N, D) without their part along a direction of length one: x − u uᵀ x (Arora et al. 2017)."""
    rest: Floats = x - (x @ direction)[:, None] * direction
    return rest


def procrustes(x: NDArray[np.floating], y: NDArray[np.floating]) -> Doubles:
    """Return the orthogonal W (D, D) that minimizes ‖X W − Y‖: W = U Vᵀ with U Σ Vᵀ = XᵀY, in float64.

    P. H. Schönemann, A generalized solution of the orthogonal Procrustes problem, Psychometrika 31 (1966); for word
    vectors C. Xing et al., NAACL 2015, and S. Smith et al., ICLR 2017. An orthogonal map keeps every angle within a
    language.

    Args:
        x, y: points (N, D), row i of one belonging to row i of the other.

    Raises `ValueError` for other shapes.
    """
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"pairs of points need two equal shapes (N, D), received {x.shape} and {y.shape}")
    u, _, vt = np.linalg.svd(x.astype(np.float64).T @ y.astype(np.float64))
    rotation: Doubles = u @ vt
    return rotation

"""Metrics of a ranking: at which ranks the relevant items stand.

``Q`` questions; each has the ranks, from 1, of all its relevant items, in any order: ``[3, 17]`` means that two items
are relevant, and that they rank third and seventeenth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ranks = Sequence[NDArray[np.int64]]


def precision_at_k(ranks: Ranks, k: int) -> float:
    """Return the mean share of relevant items among the first k."""
    return float(np.mean([(hits <= k).sum() / k for hits in ranks]))


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Return the mean share of the relevant items that rank among the first k."""
    return float(np.mean([(hits <= k).mean() for hits in ranks]))


def hit_rate_at_k(ranks: Ranks, k: int) -> float:
    """Return the share of questions with a relevant item among the first k.

    Word translation calls this precision@k (A. Conneau et al., ICLR 2018).
    """
    return float(np.mean([hits.min() <= k for hits in ranks]))


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Return the mean of 1 / rank of the first relevant item (E. Voorhees, TREC-8, 1999)."""
    return float(np.mean([1 / hits.min() for hits in ranks]))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; NaN for fewer than two pairs, or if one side is
    constant."""
    from scipy.stats import rankdata  # slow to import

    first, second = rankdata(x), rankdata(y)
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])

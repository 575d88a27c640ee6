"""How good an order is: where in it the things that were wanted stand.

``Q`` questions; each has the ranks, from 1, of all that would have answered it, in any order: ``[3, 17]`` says that two
things were wanted, and that they came third and seventeenth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ranks = Sequence[NDArray[np.int64]]


def precision_at(ranks: Ranks, k: int) -> float:
    """Return the mean share of the first k answers that were wanted."""
    return float(np.mean([(mine <= k).sum() / k for mine in ranks]))


def recall_at(ranks: Ranks, k: int) -> float:
    """Return the mean share of what was wanted that is among the first k answers."""
    return float(np.mean([(mine <= k).mean() for mine in ranks]))


def hits_at(ranks: Ranks, k: int) -> float:
    """Return the share of questions with anything wanted among the first k answers.

    Of word translation this is what is called precision@k (A. Conneau et al., ICLR 2018).
    """
    return float(np.mean([mine.min() <= k for mine in ranks]))


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Return the mean of 1 / rank of the first wanted answer (E. Voorhees, TREC-8, 1999)."""
    return float(np.mean([1 / mine.min() for mine in ranks]))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; NaN for fewer than two pairs, or where one side is
    all the same."""
    from scipy.stats import rankdata  # slow to import

    first, second = rankdata(x), rankdata(y)
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])

"""Sampling in word2vec: which occurrences of frequent words stay, and negative words.

Sources: Mikolov et al., Distributed representations of words and phrases and their compositionality (2013), and the C
program's form of its subsampling; Walker, An efficient method for generating discrete random variables with general
distributions (1977).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.jit import compile_kernel

Alias = NDArray[np.uint32]


def compute_keep_probabilities(counts: NDArray[Any], sample: float) -> NDArray[np.float32]:
    """Return the probability (V,) float32 that an occurrence of each word stays: min(1, (√(f/s) + 1) · s/f), f =
    count/Σ count.

    Args:
        counts: occurrences (V,), all above 0.
        sample: the threshold s; 0 keeps everything.
    """
    if sample <= 0:
        return np.ones(len(counts), dtype=np.float32)
    f = np.asarray(counts, dtype=np.float64)
    ratio = f / (sample * f.sum())
    keep: NDArray[np.float32] = np.minimum(1.0, (np.sqrt(ratio) + 1) / ratio).astype(np.float32)
    return keep


@compile_kernel
def _fill_alias_table(share: NDArray[np.float64], table: Alias) -> None:
    """Pair each column below 1 with one above 1 that fills it up (Vose 1991). ``share`` has mean 1 and is
    overwritten."""
    size = len(share)
    small, large = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    less, more = 0, 0
    for k in range(size):
        table[k, 0], table[k, 1] = np.uint32(0xFFFFFFFF), np.uint32(k)
        if share[k] < 1.0:
            small[less] = k
            less += 1
        else:
            large[more] = k
            more += 1
    while less > 0 and more > 0:
        less -= 1
        low, high = small[less], large[more - 1]
        table[low, 0], table[low, 1] = np.uint32(share[low] * 4294967295.0), np.uint32(high)
        share[high] -= 1.0 - share[low]
        if share[high] < 1.0:
            more -= 1
            small[less] = high
            less += 1


def build_alias_table(weights: NDArray[Any]) -> Alias:
    """Return a table (V, 2) uint32 for draws of words ∝ ``weights``: column k gives word k below its first number, else
    its second number.

    For negative sampling the weights are count^0.75. A draw reads one cache line, however many words there are.
    """
    share = np.asarray(weights, dtype=np.float64)
    share = share * (len(share) / share.sum())
    table = np.empty((len(share), 2), dtype=np.uint32)
    _fill_alias_table(share, table)
    return table

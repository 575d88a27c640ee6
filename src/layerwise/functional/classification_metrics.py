"""How good a classifier's answers are, from counts: per class, over all thresholds, and as probabilities.

Shape letters: ``K`` classes, ``B`` bins. The one idea: each measure is a function of sums, so that parts of the data
    and ranks add up.
"""

from __future__ import annotations

import torch
from torch import Tensor


def of_classes(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and F1 of each class, (K,) float64 each, from counts nᵢⱼ (K, K), true class by row.

    Pₖ = nₖₖ / Σᵢ nᵢₖ, Rₖ = nₖₖ / Σⱼ nₖⱼ, F1ₖ = 2nₖₖ / (Σᵢ nᵢₖ + Σⱼ nₖⱼ); 0 where the denominator is.
    """
    counts = confusion.double()
    hits, said, true = counts.diagonal(), counts.sum(0), counts.sum(1)
    return hits / said.clamp_min(1), hits / true.clamp_min(1), 2 * hits / (said + true).clamp_min(1)


def roc_area(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve from counts (B,) by rising score: P(s⁺ > s⁻) + ½·P(s⁺ = s⁻).

    Equal scores share a bin. J. A. Hanley, B. J. McNeil, Radiology 143 (1982). NaN unless there are examples of both
    kinds.
    """
    positive, negative = positive.double(), negative.double()
    below = negative.cumsum(0) - negative
    pairs = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def roc_area_of(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the ROC curve of scores (N,) for examples that are ``positive`` (N,) bool or not,
    exactly."""
    _, places = scores.unique(return_inverse=True)
    bins = int(places.max()) + 1 if len(places) else 0
    return roc_area(*(torch.bincount(places[chosen], minlength=bins) for chosen in (positive, ~positive)))


def calibration_error(counts: Tensor, confidence: Tensor, right: Tensor) -> float:
    """Return the expected calibration error Σ_b (n_b / N)·|acc_b − conf_b| from sums by bin, (B,) each.

    ``counts`` n_b; ``confidence`` and ``right``: the sums over the bin's examples of the answer's probability and of
    whether it was right. C. Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    total = float(counts.sum())
    return float((right.double() - confidence.double()).abs().sum()) / total if total else 0.0

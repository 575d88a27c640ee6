"""Metrics of a classifier from counts: per class, over all thresholds, and of calibration.

Shape letters: ``K`` classes, ``B`` bins. Each metric is a function of sums, so that parts of the data and ranks add up.
"""

from __future__ import annotations

import torch
from torch import Tensor


def precision_recall_f1(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and F1 of each class, (K,) float64 each, from counts nᵢⱼ (K, K), true class by row.

    Pₖ = nₖₖ / Σᵢ nᵢₖ, Rₖ = nₖₖ / Σⱼ nₖⱼ, F1ₖ = 2nₖₖ / (Σᵢ nᵢₖ + Σⱼ nₖⱼ); 0 where the denominator is.
    """
    counts = confusion.double()
    hits, predicted, true = counts.diagonal(), counts.sum(0), counts.sum(1)
    return hits / predicted.clamp_min(1), hits / true.clamp_min(1), 2 * hits / (predicted + true).clamp_min(1)


def roc_auc_from_counts(positive: Tensor, negative: Tensor) -> float:
    """Return the area under the ROC curve from counts (B,) by rising score: P(s⁺ > s⁻) + ½·P(s⁺ = s⁻).

    Equal scores share a bin. J. A. Hanley, B. J. McNeil, Radiology 143 (1982). NaN unless there are examples of both
    kinds.
    """
    positive, negative = positive.double(), negative.double()
    below = negative.cumsum(0) - negative
    pairs = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs else float("nan")


def roc_auc(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the ROC curve of scores (N,) for examples that are ``positive`` (N,) bool or not,
    exactly."""
    _, bin_index = scores.unique(return_inverse=True)
    bins = int(bin_index.max()) + 1 if len(bin_index) else 0
    return roc_auc_from_counts(*(torch.bincount(bin_index[mask], minlength=bins) for mask in (positive, ~positive)))


def expected_calibration_error(counts: Tensor, confidence: Tensor, correct: Tensor) -> float:
    """Return the expected calibration error Σ_b (n_b / N)·|acc_b − conf_b| from sums by bin, (B,) each.

    ``counts`` n_b; ``confidence`` and ``correct``: the sums over the bin's examples of the predicted class's
    probability and of whether the prediction is correct. C. Guo et al., On calibration of modern neural networks, ICML
    2017.
    """
    total = float(counts.sum())
    return float((correct.double() - confidence.double()).abs().sum()) / total if total else 0.0

"""Losses, by example: (N, …) outputs and targets to (N,) losses. Sums and means are the caller's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log softmax(z)[y] for each example (E07), stable for any logits.

    Args:
        logits: z (N, K).
        labels: y (N,) int64 in [0, K).
    """
    return F.cross_entropy(logits, labels, reduction="none")


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return −[y log σ(z) + (1−y) log(1−σ(z))] for each example (E07), as max(z,0) − zy + log(1+e^{−|z|}).

    Args:
        logits: z (N,).
        targets: y (N,) in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Σ(ŷ−y)² over the features of each example, (N,): n·MSE of E06 and the ‖x−x̂‖² of E24."""
    return (outputs - targets).square().flatten(1).sum(1)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Σ|ŷ−y| over the features of each example, (N,): n·MAE of E06."""
    return (outputs - targets).abs().flatten(1).sum(1)

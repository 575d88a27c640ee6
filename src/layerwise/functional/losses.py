"""Losses, by example: (N, …) outputs and targets to (N,) losses. Sums and means are the caller's.

All are computed from logits or plain outputs, never from probabilities: log softmax(z) = z − logsumexp(z) and
log σ(z) = min(z, 0) − log(1 + e^{−|z|}) are finite for any finite z, log of a probability that rounded to 0 is not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return −Σₖ qₖ log softmax(z)ₖ for each example (E07), stable for any logits.

    Args:
        logits: z (N, K).
        labels: y (N,) int64 in [0, K).
        smoothing: ε in [0, 1): q = (1−ε)·onehot(y) + ε/K (label smoothing, Szegedy et al. 2016, §7); 0 leaves −log
            softmax(z)[y].
    """
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return −[y log σ(z) + (1−y) log(1−σ(z))] for each example (E07), as max(z,0) − zy + log(1+e^{−|z|}).

    Args:
        logits: z (N,).
        targets: y (N,) in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def one_against_rest(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return Σₖ binary cross-entropy of σ(zₖ) against qₖ for each example: K yes-or-no questions instead of one choice.

    Args:
        logits: z (N, K).
        labels: y (N,) int64 in [0, K).
        smoothing: ε: q = (1−ε)·onehot(y) + ε/K, as for `cross_entropy`.
    """
    targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype) * (1 - smoothing) + smoothing / logits.shape[1]
    return binary_cross_entropy(logits, targets).sum(1)


def focal(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """Return −(1−p)^γ log p with p = softmax(z)[y] for each example (Lin et al. 2017, eq. 4), stable for any logits.

    Confidently correct examples count little, so that rare and hard examples weigh more. γ = 0 is
    cross-entropy.

    Args:
        logits: z (N, K).
        labels: y (N,) int64 in [0, K).
        gamma: γ ≥ 0; the paper takes 2.
    """
    log_p = F.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]  # (N,)
    # kept above 0, for the slope of x^γ at 0 is infinite when γ < 1
    missing = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)  # 1 − p
    return missing**gamma * -log_p


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Σ(ŷ−y)² over the features of each example, (N,): n·MSE of E06 and the ‖x−x̂‖² of E24."""
    return (outputs - targets).square().flatten(1).sum(1)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Σ|ŷ−y| over the features of each example, (N,): n·MAE of E06."""
    return (outputs - targets).abs().flatten(1).sum(1)


def huber(outputs: Tensor, targets: Tensor, *, delta: float) -> Tensor:
    """Return Σ h(ŷ−y) over the features of each example, (N,): h(e) = ½e² where |e| ≤ δ, else δ(|e| − ½δ) (Huber 1964).

    A parabola near the target and straight lines beyond δ, so that an outlier pulls no harder than a miss of δ.

    Args:
        outputs, targets: ŷ and y, (N, …).
        delta: δ > 0, in the targets' unit.
    """
    return F.huber_loss(outputs, targets, reduction="none", delta=delta).flatten(1).sum(1)

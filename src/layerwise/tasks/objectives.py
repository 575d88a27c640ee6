"""The losses of classification by name, with what shapes them: focusing, smoothing, weights of classes.

``N`` examples, ``K`` classes. The one idea: an objective is a sum over examples of w[y]·ℓ(z, y), and the rule divides
by N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.data.source import Array
from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.functional.losses import binary_cross_entropy, cross_entropy, focal, one_against_rest
from layerwise.tasks.records import GAMMA as GAMMA
from layerwise.tasks.records import ClassLossName as ClassLossName
from layerwise.tasks.records import LossRecord
from layerwise.tasks.scaling import get_constant

ClassWeights = Literal["", "balanced"] | dict[str, float]


def to_class_logits(outputs: Tensor) -> Tensor:
    """Return logits (N, K): a single output z means two classes with logits 0 and z, so that σ(z) is the
    second's."""
    return torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs


@dataclass(frozen=True)
class ClassLoss:
    """How wrong logits are for a class.

    Args:
        kind: ``cross-entropy`` and ``focal`` choose one class by softmax; ``binary-cross-entropy`` takes each class
            against the rest.
        gamma: γ of the focal loss.
        smoothing: ε of label smoothing.
        weights: w of each class, (K,); empty: all 1.
    """

    kind: ClassLossName = "cross-entropy"
    gamma: float = GAMMA
    smoothing: float = 0.0
    weights: tuple[float, ...] = ()

    @property
    def is_cross_entropy(self) -> bool:
        """Whether this is cross-entropy and nothing else."""
        return self.kind == "cross-entropy" and not self.smoothing and not self.weights

    @property
    def unweighted_log_loss(self) -> ClassLoss:
        """The loss that is reported: without focusing, smoothing and weights, so that runs can be compared."""
        return ClassLoss("binary-cross-entropy" if self.kind == "binary-cross-entropy" else "cross-entropy")

    def compute_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return each example's loss, (N,), from outputs (N, K), or (N, 1) for two classes, and labels (N,)."""
        losses = self._compute_unweighted(outputs, labels)
        if not self.weights:
            return losses
        return losses * get_constant(self.weights, losses.dtype, losses.device)[labels]

    def _compute_unweighted(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return ℓ(z, y) for each example, (N,)."""
        if outputs.shape[1] == 1 and self.kind != "focal":  # one question: the two losses are the same
            targets = labels.to(outputs.dtype) * (1 - self.smoothing) + self.smoothing / 2
            return binary_cross_entropy(outputs[:, 0], targets)
        logits = to_class_logits(outputs)
        if self.kind == "focal":
            return focal(logits, labels, gamma=self.gamma)
        if self.kind == "binary-cross-entropy":
            return one_against_rest(logits, labels, smoothing=self.smoothing)
        return cross_entropy(logits, labels, smoothing=self.smoothing)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return each class's probability, (N, K): softmax(z) (E04), or σ(z) for one against the rest."""
        if self.kind == "binary-cross-entropy" and outputs.shape[1] > 1:
            return outputs.sigmoid()
        return to_class_logits(outputs).softmax(1)

    def average_outputs(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return outputs whose `probabilities` are the mean of those of several outputs of one shape, (N, K) or (N, 1).

        log p̄ = logsumexp(log p) − log n, so that they are finite wherever the outputs are; of sigmoids log p̄ − log(1
        − p̄).
        """
        z = torch.stack([*outputs])
        if z.shape[2] == 1 or self.kind == "binary-cross-entropy":
            return F.logsigmoid(z).logsumexp(0) - F.logsigmoid(-z).logsumexp(0)
        return z.log_softmax(2).logsumexp(0) - math.log(len(z))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        return {"kind": self.kind, "gamma": self.gamma, "smoothing": self.smoothing, "weights": list(self.weights)}

    @classmethod
    def from_record(cls, saved: LossRecord | None) -> Self:
        """Make the loss again; None gives the default."""
        return cls() if saved is None else cls(saved.kind, saved.gamma, saved.smoothing, saved.weights)


def build_class_loss(
    kind: ClassLossName, *, gamma: float, smoothing: float, weights: ClassWeights, labels: Array, classes: Sequence[str]
) -> ClassLoss:
    """Return the loss that a recipe asks for.

    Args:
        kind, gamma, smoothing, weights: as in the recipe's ``[task]``.
        labels: of the training part, (n,), for ``balanced``.
        classes: the classes' names.

    Raises `UsageError` for values out of range, for options of another loss than the one named, and for unknown
    classes.
    """
    if not 0 <= smoothing < 1:
        raise UsageError(
            "label smoothing moves a share of each target",
            expected="0 ≤ task.label_smoothing < 1",
            received=f"{smoothing:g}",
        )
    if gamma < 0:
        raise UsageError(
            "the focal loss takes a power of 1 − p", expected="task.focal_gamma of 0 or more", received=f"{gamma:g}"
        )
    if kind != "focal" and gamma != GAMMA:
        raise UsageError(
            f"task.focal_gamma is the focal loss's, and the loss is {kind}",
            received=f"task.focal_gamma = {gamma:g}",
            do="set task.loss=focal, or leave task.focal_gamma out",
        )
    if kind == "focal" and smoothing:
        raise UsageError(
            "the focal loss has no smoothed form: its factor (1 − p)^γ speaks of one true class",
            received=f"task.label_smoothing = {smoothing:g}",
            do="use one of the two",
        )
    return ClassLoss(kind, gamma, smoothing, compute_class_weights(weights, labels, classes))


def compute_class_weights(wanted: ClassWeights, labels: Array, classes: Sequence[str]) -> tuple[float, ...]:
    """Return each class's weight, (K,), or nothing where all are 1.

    ``balanced`` gives w = n / (K·nₖ) over the K classes that have examples, as scikit-learn does: every class as heavy
    as every other, the mean over examples 1. A table gives the weight by name; classes it does not name keep 1.
    """
    if not wanted:
        return ()
    if wanted == "balanced":
        counts = np.bincount(labels.astype(np.int64), minlength=len(classes))
        present = int((counts > 0).sum())
        return tuple(float(len(labels) / (present * n)) if n else 1.0 for n in counts)
    assert isinstance(wanted, dict)
    for name, weight in wanted.items():
        if name not in classes:
            raise make_unknown_name_error("class", name, classes, where="task.class_weights")
        if not 0 < weight < float("inf"):
            raise UsageError(
                f"class '{name}' cannot have this weight", expected="a finite number over 0", received=f"{weight:g}"
            )
    return tuple(float(wanted.get(name, 1.0)) for name in classes)

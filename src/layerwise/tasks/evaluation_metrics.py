"""A classifier's full evaluation metrics, for evaluation and reports; training uses a lighter meter.

Shape letters: ``N`` examples, ``K`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layerwise.data.batch import Batch
from layerwise.functional.classification_metrics import (
    expected_calibration_error,
    precision_recall_f1,
    roc_auc,
    roc_auc_from_counts,
)
from layerwise.tasks.base import Meter
from layerwise.tasks.objectives import ClassLoss

BINS = 15  # of equal width, as Guo et al. 2017
MAX_EXACT_SCORES = 1 << 25  # scores that are stored (128 MiB); of more, only the counts between the steps below
# steps of log-odds from −20 to 20: an area from counts is within 0.001 of the exact one
STEPS, MAX_LOG_ODDS = 4096, 20.0


class ClassificationEvaluationMeter:
    """A classifier's training metrics, and precision, recall and F1 by class, ROC-AUC and calibration.

    The area under the ROC curve is of each class against the rest, from log-odds log p/(1−p), which keep in float32
    what probabilities near 1 would not. Up to `MAX_EXACT_SCORES` of them are stored in float32, so that the area is
    exact; beyond, they are counted in `STEPS` steps.
    """

    def __init__(self, basic: Meter, loss: ClassLoss, classes: Sequence[str]) -> None:
        self.basic, self.loss, self.classes = basic, loss, tuple(classes)
        is_binary = len(classes) == 2 and loss.kind != "binary-cross-entropy"
        self.scored_classes = (1,) if is_binary else tuple(range(len(classes)))
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []
        # (classes, negative and positive, steps), once there are too many scores
        self.step_counts = torch.zeros(0, 2, STEPS, dtype=torch.long)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add logits (N, K) or (N, 1) and labels (N,)."""
        assert batch.targets is not None
        self.basic.update(outputs, batch)
        probabilities = self.loss.probabilities(outputs.double())  # (N, K)
        self._update_bins(probabilities, batch.target_tensor)
        scores = probabilities[:, list(self.scored_classes)].logit().float().cpu()
        evidence = torch.where(scores.isnan(), -torch.inf, scores)  # NaN is no evidence for any class
        self._add_scores(evidence, batch.target_tensor.cpu())

    def _update_bins(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add the predictions' confidence and correctness to the bins."""
        confidence, predictions = probabilities.max(1)
        edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=confidence.device)[1:-1]
        bins = torch.bucketize(confidence, edges)
        values = torch.stack([torch.ones_like(confidence), confidence, (predictions == labels).double()])
        self.bins += torch.zeros_like(self.bins, device=confidence.device).index_add_(1, bins, values).cpu()

    def _add_scores(self, scores: Tensor, labels: Tensor) -> None:
        """Store scores (N, scored classes), or count them if there are too many."""
        self.scores.append(scores)
        self.labels.append(labels)
        if len(self.step_counts) or sum(part.numel() for part in self.scores) > MAX_EXACT_SCORES:
            self._count_scores()

    def _count_scores(self) -> None:
        """Turn the stored scores into counts by step."""
        if not len(self.step_counts):
            self.step_counts = torch.zeros(len(self.scored_classes), 2, STEPS, dtype=torch.long)
        for scores, labels in zip(self.scores, self.labels, strict=True):
            steps = ((scores.clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS) / MAX_LOG_ODDS + 1) / 2 * (STEPS - 1)).round().long()
            for at, number in enumerate(self.scored_classes):
                flat = steps[:, at] + STEPS * (labels == number)
                self.step_counts[at] += torch.bincount(flat, minlength=2 * STEPS).view(2, STEPS)
        self.scores, self.labels = [], []

    def state(self) -> dict[str, Tensor]:
        """Return everything gathered, as tensors."""
        scores = torch.cat(self.scores) if self.scores else torch.zeros(0, len(self.scored_classes))
        labels = torch.cat(self.labels) if self.labels else torch.zeros(0, dtype=torch.long)
        return {
            **self.basic.state(),
            "scores": scores,
            "labels": labels,
            "counted": self.step_counts,
            "bins": self.bins,
        }

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add another meter's state."""
        self.basic.merge_state(other)
        self.bins = self.bins + other["bins"]
        if len(other["counted"]):
            self._count_scores()
            self.step_counts = self.step_counts + other["counted"]
        if len(other["labels"]):
            self._add_scores(other["scores"], other["labels"])

    def result(self) -> dict[str, float]:
        """Return the basic meter's metrics, ``balanced-accuracy`` (the mean recall over the classes that occur),
        ``macro-f1``, ``roc-auc`` (of several classes the mean, one against the rest; NaN where only one class
        occurs), ``calibration-error``."""
        _, recall, f1 = precision_recall_f1(self.confusion)
        is_present = self.confusion.sum(1) > 0
        metrics = self.basic.result()
        if is_present.any():
            metrics["balanced-accuracy"] = float(recall[is_present].mean())
            metrics["macro-f1"] = float(f1[is_present | (self.confusion.sum(0) > 0)].mean())
        areas = [area for area in self._compute_roc_areas() if area == area]
        metrics["roc-auc"] = sum(areas) / len(areas) if areas else math.nan
        metrics["calibration-error"] = expected_calibration_error(*self.bins)
        return metrics

    @property
    def confusion(self) -> Tensor:
        """Counts (K, K), true class by row."""
        return self.basic.state()["confusion"]

    def _compute_roc_areas(self) -> list[float]:
        """Return the area under each scored class's curve, NaN where it is not defined."""
        if len(self.step_counts):
            return [roc_auc_from_counts(both[1], both[0]) for both in self.step_counts]
        if not self.scores:
            return []
        scores, labels = torch.cat(self.scores), torch.cat(self.labels)
        return [roc_auc(scores[:, at], labels == number) for at, number in enumerate(self.scored_classes)]

    def details(self) -> dict[str, Any]:
        """Return ``classes`` (precision, recall, f1, support, roc_auc of each), ``confusion`` (rows are true) and
        ``calibration``."""
        precision, recall, f1 = (values.tolist() for values in precision_recall_f1(self.confusion))
        areas = self._compute_roc_areas()
        by_class = (
            [areas[0]] * 2 if self.scored_classes == (1,) and areas else areas or [float("nan")] * len(self.classes)
        )
        classes = [
            {"name": name, "precision": p, "recall": r, "f1": f, "support": n, "roc_auc": a if a == a else None}
            for name, p, r, f, n, a in zip(
                self.classes, precision, recall, f1, self.confusion.sum(1).tolist(), by_class, strict=True
            )
        ]
        return {
            "classes": classes,
            "confusion": self.confusion.tolist(),
            "calibration": self._build_reliability_table(),
        }

    def _build_reliability_table(self) -> dict[str, Any]:
        """Return the reliability table: for each bin that is not empty its range, count, mean confidence and
        accuracy."""
        rows = [
            {"low": at / BINS, "high": (at + 1) / BINS, "count": int(n), "confidence": c / n, "accuracy": r / n}
            for at, (n, c, r) in enumerate(zip(*self.bins.tolist(), strict=True))
            if n
        ]
        return {"error": expected_calibration_error(*self.bins), "bins": rows}

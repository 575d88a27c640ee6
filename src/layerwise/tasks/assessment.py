"""A classifier's full assessment, for evaluation and reports; training's own meter stays light.

Shape letters: ``N`` examples, ``K`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layerwise.data.loader import Batch
from layerwise.functional.classification_metrics import calibration_error, of_classes, roc_area, roc_area_of
from layerwise.tasks.base import Meter
from layerwise.tasks.objectives import ClassLoss

BINS = 15  # of equal width, as Guo et al. 2017
KEPT = 1 << 25  # scores that are kept as they are (128 MiB); of more, only how many fall between two of the steps below
STEPS, WIDEST = 4096, 20.0  # steps of log-odds from −20 to 20: an area from counts is within 0.001 of the exact one


class ClassAssessment:
    """What a classifier's meter finds, and beside it precision, recall and F1 by class, ROC-AUC and calibration.

    The area under the ROC curve is of each class against the rest, from log-odds log p/(1−p), which keep in float32
    what probabilities near 1 would not. Up to `KEPT` of them are kept in float32, so that the area is exact; beyond,
    they are counted in `STEPS` steps.
    """

    def __init__(self, light: Meter, loss: ClassLoss, classes: Sequence[str]) -> None:
        self.light, self.loss, self.classes = light, loss, tuple(classes)
        self.asked = (1,) if len(classes) == 2 and loss.kind != "binary-cross-entropy" else tuple(range(len(classes)))
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.counted = torch.zeros(
            0, 2, STEPS, dtype=torch.long
        )  # (asked, negative and positive, steps), once there are too many
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Take in logits (N, K) or (N, 1) and labels (N,)."""
        assert batch.targets is not None
        self.light.update(outputs, batch)
        probabilities = self.loss.probabilities(outputs.double())  # (N, K)
        self._calibrate(probabilities, batch.targets)
        scores = probabilities[:, list(self.asked)].logit().float().cpu()
        self._keep(
            torch.where(scores.isnan(), -torch.inf, scores), batch.targets.cpu()
        )  # NaN is no evidence for any class

    def _calibrate(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add the answers' probabilities and whether they are right to the bins."""
        confidence, answers = probabilities.max(1)
        edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=confidence.device)[1:-1]
        places = torch.bucketize(confidence, edges)
        values = torch.stack([torch.ones_like(confidence), confidence, (answers == labels).double()])
        self.bins += torch.zeros_like(self.bins, device=confidence.device).index_add_(1, places, values).cpu()

    def _keep(self, scores: Tensor, labels: Tensor) -> None:
        """Keep scores (N, asked), or count them if there are too many."""
        self.scores.append(scores)
        self.labels.append(labels)
        if len(self.counted) or sum(part.numel() for part in self.scores) > KEPT:
            self._count()

    def _count(self) -> None:
        """Turn the kept scores into counts by step."""
        if not len(self.counted):
            self.counted = torch.zeros(len(self.asked), 2, STEPS, dtype=torch.long)
        for scores, labels in zip(self.scores, self.labels, strict=True):
            places = ((scores.clamp(-WIDEST, WIDEST) / WIDEST + 1) / 2 * (STEPS - 1)).round().long()
            for at, number in enumerate(self.asked):
                both = places[:, at] + STEPS * (labels == number)
                self.counted[at] += torch.bincount(both, minlength=2 * STEPS).view(2, STEPS)
        self.scores, self.labels = [], []

    def state(self) -> dict[str, Tensor]:
        """Return everything gathered, as tensors."""
        scores = torch.cat(self.scores) if self.scores else torch.zeros(0, len(self.asked))
        labels = torch.cat(self.labels) if self.labels else torch.zeros(0, dtype=torch.long)
        return {**self.light.state(), "scores": scores, "labels": labels, "counted": self.counted, "bins": self.bins}

    def merge(self, other: Mapping[str, Tensor]) -> None:
        """Take in another assessment's state."""
        self.light.merge(other)
        self.bins = self.bins + other["bins"]
        if len(other["counted"]):
            self._count()
            self.counted = self.counted + other["counted"]
        if len(other["labels"]):
            self._keep(other["scores"], other["labels"])

    def result(self) -> dict[str, float]:
        """Return the light meter's metrics, ``balanced-accuracy`` (the mean recall over the classes that are there),
        ``macro-f1``, ``roc-auc`` (of several classes the mean, one against the rest; NaN where only one class is
        there), ``calibration-error``."""
        _, recall, f1 = of_classes(self.confusion)
        there = self.confusion.sum(1) > 0
        found = self.light.result()
        if there.any():
            found["balanced-accuracy"] = float(recall[there].mean())
            found["macro-f1"] = float(f1[there | (self.confusion.sum(0) > 0)].mean())
        areas = [area for area in self._areas() if area == area]
        found["roc-auc"] = sum(areas) / len(areas) if areas else math.nan
        found["calibration-error"] = calibration_error(*self.bins)
        return found

    @property
    def confusion(self) -> Tensor:
        """Counts (K, K), true class by row."""
        return self.light.state()["confusion"]

    def _areas(self) -> list[float]:
        """Return the area under each asked class's curve, NaN where it is not defined."""
        if len(self.counted):
            return [roc_area(both[1], both[0]) for both in self.counted]
        if not self.scores:
            return []
        scores, labels = torch.cat(self.scores), torch.cat(self.labels)
        return [roc_area_of(scores[:, at], labels == number) for at, number in enumerate(self.asked)]

    def details(self) -> dict[str, Any]:
        """Return ``classes`` (precision, recall, f1, support, roc_auc of each), ``confusion`` (rows are true) and
        ``calibration``."""
        precision, recall, f1 = (values.tolist() for values in of_classes(self.confusion))
        areas = self._areas()
        by_class = [areas[0]] * 2 if self.asked == (1,) and areas else areas or [float("nan")] * len(self.classes)
        classes = [
            {"name": name, "precision": p, "recall": r, "f1": f, "support": n, "roc_auc": a if a == a else None}
            for name, p, r, f, n, a in zip(
                self.classes, precision, recall, f1, self.confusion.sum(1).tolist(), by_class, strict=True
            )
        ]
        return {"classes": classes, "confusion": self.confusion.tolist(), "calibration": self._calibration()}

    def _calibration(self) -> dict[str, Any]:
        """Return the reliability table: of each bin that holds answers its range, count, mean confidence and
        accuracy."""
        rows = [
            {"low": at / BINS, "high": (at + 1) / BINS, "count": int(n), "confidence": c / n, "accuracy": r / n}
            for at, (n, c, r) in enumerate(zip(*self.bins.tolist(), strict=True))
            if n
        ]
        return {"error": calibration_error(*self.bins), "bins": rows}

"""Classification of images and rows: which class, and how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch, get_weights
from layerwise.data.source import Array, Examples, Relabeled, Source, get_targets
from layerwise.data.values import call
from layerwise.errors import DataError
from layerwise.tasks import input_options
from layerwise.tasks.base import Export, Goal, Loss, Output, PredictionModule, Task, sum_losses
from layerwise.tasks.evaluation_metrics import ClassificationEvaluationMeter
from layerwise.tasks.objectives import GAMMA, ClassLoss, ClassLossName, ClassWeights, build_class_loss, to_class_logits
from layerwise.tasks.records import ClassificationRecord

IMBALANCE_RATIO = 2  # of the commonest to the rarest class's examples, from which on a note names them
MAX_NAMED = 6  # classes that a note names


class ClassificationOptions(input_options.InputOptions, frozen=True, forbid_unknown_fields=True):
    """Keys of ``[task]``.

    How inputs are brought to the network: `encoding.InputOptions`.
    ``loss``: cross-entropy, binary-cross-entropy (each class against the rest) or focal with ``focal_gamma`` γ (E07).
    ``label_smoothing`` ε gives a share of each target to all classes. ``class_weights``: ``balanced``, or weights by
    class name.
    """

    loss: ClassLossName = "cross-entropy"
    focal_gamma: float = GAMMA
    label_smoothing: float = 0.0
    class_weights: ClassWeights = ""


class ClassPrediction(msgspec.Struct, frozen=True):
    """The prediction of a classifier: the class's name, its probability, and the probability of every class."""

    label: str
    score: float
    scores: dict[str, float]


def make_no_classes_error(source: Source) -> DataError:
    """Return the error for a target that is an amount."""
    return DataError(
        f"the target '{source.schema.target_name}' is an amount, not a class",
        expected="text, or few different whole numbers",
        received="fractions, or many different whole numbers",
        do="use --task regression, or choose another target with --set data.target=…",
    )


def count_classes(targets: Array, classes: int) -> Array:
    """Return how many of the labels (N,) are each class's, (K,)."""
    return np.bincount(targets.astype(np.int64), minlength=classes)


def describe_imbalance(classes: Sequence[str], counts: Array) -> tuple[str, ...]:
    """Return a note on classes of which the rarest has less than half of the commonest's examples, the commonest
    first."""
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    if len(order) < 2 or IMBALANCE_RATIO * counts[order[-1]] >= counts[order[0]]:
        return ()
    named = order if len(order) <= MAX_NAMED else [*order[: MAX_NAMED - 1], order[-1]]
    parts = [f"'{classes[index]}' {counts[index]:,} ({counts[index] / counts.sum():.1%})" for index in named]
    if len(order) > MAX_NAMED:
        parts.insert(-1, "…")
    return (
        f"the classes are uneven in the training part: {', '.join(parts)}; accuracy alone misleads, so look "
        "at the recall of each class; "
        "--set task.class_weights=balanced makes each class count the same",
    )


@dataclass
class ClassificationMeter:
    """Accuracy and mean loss, with the confusion matrix (true class by row).

    The loss is cross-entropy (of sigmoids for one against the rest), without weights, smoothing and focusing. Where
    classes are ``weighted``, the mean of their recalls is a metric too.
    """

    classes: int
    criterion: ClassLoss = ClassLoss()
    weighted: bool = False
    confusion: Tensor = field(init=False)
    loss: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.confusion = torch.zeros(self.classes, self.classes, dtype=torch.long)
        self.loss = torch.zeros((), dtype=torch.float64)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add logits (N, K) or (N, 1) and labels (N,)."""
        assert batch.targets is not None
        logits = to_class_logits(outputs)
        self.loss += self.criterion.compute_losses(outputs.double(), batch.target_tensor).sum().cpu()
        pairs = batch.target_tensor * self.classes + logits.argmax(1)
        self.confusion += torch.bincount(pairs, minlength=self.classes**2).cpu().view(self.classes, self.classes)

    def state(self) -> dict[str, Tensor]:
        """Return confusion counts and summed loss."""
        return {"confusion": self.confusion, "loss": self.loss}

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add another meter's counts."""
        self.confusion = self.confusion + other["confusion"]
        self.loss = self.loss + other["loss"]

    def result(self) -> dict[str, float]:
        """Return ``accuracy`` in [0, 1], ``loss`` in nats and, for weighted classes, ``balanced-accuracy``: the mean of
        nₖₖ / nₖ."""
        count = max(1, int(self.confusion.sum()))
        metrics = {"accuracy": int(self.confusion.trace()) / count, "loss": float(self.loss) / count}
        if self.weighted:
            counts = self.confusion.sum(1)
            recalls = (self.confusion.diagonal().double() / counts)[counts > 0]
            metrics["balanced-accuracy"] = float(recalls.mean()) if len(recalls) else 0.0
        return metrics


@dataclass
class Classification(Task):
    """One class of several: softmax and cross-entropy (E04, E07), or one sigmoid output for two classes; other losses
    by name."""

    name = "classification"
    Options = ClassificationOptions
    goal: ClassVar[Goal] = Goal("accuracy", True)
    classes: tuple[str, ...]
    loss: ClassLoss = ClassLoss()

    @classmethod
    def prepare(cls, source: Source, options: msgspec.Struct, given: dict[str, Any] | None = None) -> Self:
        """Take classes and input statistics from the training part. Raises `DataError` for fewer than two
        classes."""
        assert isinstance(options, ClassificationOptions)
        if given:
            return cls.from_json(given)
        targets = get_targets(source)
        names = source.schema.classes
        if source.schema.target == "number":
            raise make_no_classes_error(source)
        if source.schema.target == "none" or targets is None:
            raise DataError(
                "these examples have no classes", expected="a target column or class folders", received="none"
            )
        if source.schema.target == "either":
            names = names or tuple(str(v) for v in range(int(targets.max()) + 1))
        present = len(np.unique(targets))
        if present < 2:
            only = names[int(targets[0])] if len(targets) and int(targets[0]) < len(names) else "none"
            raise DataError(
                "there is nothing to tell apart in the training part",
                expected="examples of at least two classes",
                received=f"{len(targets)} examples, all of class '{only}'",
                do="add examples of another class, or choose another target with --set data.target=…",
            )
        task = cls(input_options.fit_inputs(source, options), names)
        task.convert_source(source)
        loss = build_class_loss(
            options.loss,
            gamma=options.focal_gamma,
            smoothing=options.label_smoothing,
            weights=options.class_weights,
            labels=targets,
            classes=names,
        )
        return replace(task, loss=loss)

    def model_args(self) -> dict[str, Any]:
        """Return ``classes``, ``outputs`` (the same number) and what the inputs decide."""
        return {"classes": len(self.classes), "outputs": len(self.classes), **self.inputs.model_args()}

    def convert_source(self, source: Source) -> Source:
        """Map the source's classes to this task's by name; raise `DataError` for unknown ones and labels out of
        range."""
        source = self.inputs.convert_source(source)
        if source.schema.target == "number":
            raise make_no_classes_error(source)
        targets = get_targets(source)
        if targets is None:
            raise DataError(f"{source.name_of(0)} has no classes to compare with", expected="labeled examples")
        names = source.schema.classes or self.classes
        invalid = np.flatnonzero((targets < 0) | (targets >= len(names)) | (targets != np.floor(targets)))
        if len(invalid):
            raise DataError(
                f"{source.name_of(int(invalid[0]))} has a label out of range ({len(invalid)} such examples)",
                expected=f"an integer in [0, {len(names)})",
                received=f"{targets[invalid[0]]}",
            )
        used = {names[int(i)] for i in np.unique(targets)}
        unknown_classes = sorted(used - set(self.classes))
        if unknown_classes:
            raise DataError(
                f"classes that this network was not trained on: {', '.join(unknown_classes)}",
                expected=f"only {', '.join(self.classes)}",
                do="add examples of them to the training part, or take them out",
            )
        if names == self.classes:
            return source
        indices = [self.classes.index(name) if name in self.classes else -1 for name in names]
        return Relabeled(source, self.classes, np.array(indices))

    def collate(self, examples: Examples) -> Batch:
        """Turn decoded examples into inputs (N, …) and labels (N,) int64."""
        targets = None if examples.targets is None else torch.from_numpy(np.asarray(examples.targets).astype(np.int64))
        return Batch(
            self.inputs.tensor(examples.inputs), targets, torch.from_numpy(examples.ids), get_weights(examples)
        )

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the summed loss of the model on a batch. Weights of classes are in the sum; it covers N examples all
        the same."""
        outputs = call(model, batch.inputs)
        total, weight = sum_losses(self.losses, outputs, batch)
        return Loss(total, weight, {self.loss.kind: total}, outputs)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each example's loss, (N,), as it is trained on."""
        assert batch.targets is not None
        return self.loss.compute_losses(outputs, batch.target_tensor)

    def average_outputs(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return outputs whose probabilities are the mean."""
        return self.loss.average_outputs(outputs)

    def meter(self) -> ClassificationMeter:
        """Return a new meter of accuracy, loss and confusion."""
        return ClassificationMeter(len(self.classes), self.loss.unweighted_log_loss, bool(self.loss.weights))

    def evaluation_meter(self) -> ClassificationEvaluationMeter:
        """Return a new meter of all that: also by class, over all thresholds, and as probabilities."""
        return ClassificationEvaluationMeter(self.meter(), self.loss, self.classes)

    def notes(self, source: Source) -> tuple[str, ...]:
        """Return each class's share of the training part, if the rarest has less than half of the commonest's
        examples."""
        targets = get_targets(source)
        return () if targets is None else describe_imbalance(self.classes, count_classes(targets, len(self.classes)))

    def decode(self, outputs: Tensor, batch: Batch) -> list[msgspec.Struct]:
        """Return the most probable class of each example with all probabilities (softmax, E04; σ for one against the
        rest)."""
        rows = self.loss.probabilities(outputs.double()).tolist()
        predictions: list[msgspec.Struct] = []
        for row in rows:
            best = row.index(max(row))
            scores = {name: round(p, 6) for name, p in zip(self.classes, row, strict=True)}
            predictions.append(ClassPrediction(self.classes[best], round(row[best], 6), scores))
        return predictions

    def export_module(self, model: nn.Module) -> Export:
        """Return the network with each class's probability, (N, K), in the order of ``classes``."""
        outputs = (
            Output("logits", "the network's own outputs, before softmax or sigmoid"),
            Output("probabilities", "of each class, in the order of the labels"),
        )
        return Export(PredictionModule(model, lambda logits, _: self.loss.probabilities(logits)), outputs)

    def to_json(self) -> dict[str, Any]:
        """Return the task's name, classes, inputs and loss."""
        saved = {"name": self.name, "classes": list(self.classes), "inputs": self.inputs.to_json()}
        return {**saved, "loss": self.loss.to_json()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """Restore the task from `to_json`'s output."""
        record = msgspec.convert(saved, ClassificationRecord)
        return cls(input_options.inputs_from_record(record.inputs), record.classes, ClassLoss.from_record(record.loss))

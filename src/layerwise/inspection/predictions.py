"""A model's predictions for a part of the data, with their targets, and the worst of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.loader import Batches
from layerwise.data.source import Examples, Source, fetch
from layerwise.errors import DataError
from layerwise.inference.evaluate import evaluate
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Meter, Task
from layerwise.tasks.classification import ClassPrediction
from layerwise.tasks.inputs import ImageInputs
from layerwise.tasks.regression import Regression, RegressionPrediction

Floats = NDArray[np.floating]
BATCH = 256


@dataclass(frozen=True)
class Predictions:
    """Metrics, their meter and the details of an evaluation, with the values of each example.

    ``outputs`` (N, …), ``losses`` (N,), ``targets`` (N, …) or None, ``ids`` (N,) in the source.
    """

    metrics: dict[str, float]
    meter: Meter
    details: dict[str, Any]
    outputs: Tensor
    losses: Tensor
    targets: Tensor | None
    ids: Tensor


@dataclass(frozen=True)
class ExamplePrediction:
    """One example with its prediction. ``index`` is its index in the source, ``image`` (C, H, W) in [0, 1]."""

    index: int
    name: str
    true: str
    predicted: str
    score: float | None
    loss: float
    image: Floats | None = None
    row: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything but the input itself."""
        return {
            "index": self.index,
            "name": self.name,
            "true": self.true,
            "predicted": self.predicted,
            "score": self.score,
            "loss": self.loss,
        }


@dataclass(frozen=True)
class LazyBatches:
    """Batches of a part of the data, collated on demand on the model's device and in its dtype."""

    source: Source
    task: Task
    device: torch.device
    dtype: torch.dtype

    @property
    def per_epoch(self) -> int:
        """The number of batches in one epoch."""
        return -(-len(self.source) // BATCH)

    @property
    def examples(self) -> int:
        """The number of examples in one epoch."""
        return len(self.source)

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches in the source's order."""
        for first in range(start * BATCH, len(self.source), BATCH):
            examples = fetch(self.source, np.arange(first, min(first + BATCH, len(self.source))))
            yield self.task.collate(examples).to(self.device, self.dtype)


@dataclass(frozen=True)
class _RecordingBatches:
    """Batches that record the targets and ids of every batch they yield."""

    batches: Batches
    targets: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)

    @property
    def per_epoch(self) -> int:
        """The number of batches in one epoch."""
        return self.batches.per_epoch

    @property
    def examples(self) -> int:
        """The number of examples in one epoch."""
        return self.batches.examples

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches, and record targets and ids."""
        for batch in self.batches.iterate(epoch, start):
            if batch.targets is not None:
                self.targets.append(batch.target_tensor.cpu())
            self.ids.append(batch.ids.cpu())
            yield batch


def get_device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of a model's first floating-point tensor; the CPU and float32 if it has none."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def make_batches(model: nn.Module, task: Task, source: Source) -> LazyBatches:
    """Return a part of the data as batches for a model. Raises `DataError` if it has no examples."""
    if not len(source):
        raise DataError("this split has no examples", expected="at least one")
    return LazyBatches(task.convert_source(source), task, *get_device_and_dtype(model))


def compute_predictions(model: nn.Module, task: Task, batches: Batches) -> Predictions:
    """Evaluate the model once over all batches and keep its outputs. Does not change the model."""
    recorded = _RecordingBatches(batches)
    device, _ = get_device_and_dtype(model)
    result = evaluate(model, task, recorded, World(device=device), full=True, keep_outputs=True)
    assert result.outputs is not None
    assert result.losses is not None
    targets = torch.cat(recorded.targets) if recorded.targets else None
    return Predictions(
        metrics=result.metrics,
        meter=result.meter,
        details=result.details,
        outputs=result.outputs,
        losses=result.losses,
        targets=targets,
        ids=torch.cat(recorded.ids),
    )


def find_wrong(task: Task, predictions: Predictions) -> Tensor:
    """Return a mask (N,) of the examples with a wrong class; all True for tasks other than classification."""
    if predictions.targets is None or task.name != "classification":
        return torch.ones(len(predictions.losses), dtype=torch.bool)
    batch = Batch(predictions.outputs, None, predictions.ids)
    labels = [p.label for p in task.decode(predictions.outputs, batch) if isinstance(p, ClassPrediction)]
    names: tuple[str, ...] = getattr(task, "classes", ())
    return torch.tensor([names[int(t)] != label for t, label in zip(predictions.targets, labels, strict=True)])


def find_worst(
    task: Task, predictions: Predictions, source: Source, *, count: int, among: Tensor | None = None
) -> list[ExamplePrediction]:
    """Return the ``count`` examples of highest loss, the highest first; only those of the mask ``among`` (N,) if given.

    Examples of equal loss keep the order of the source.
    """
    losses = predictions.losses.double().nan_to_num(nan=float("inf"))
    order = losses.argsort(descending=True, stable=True)
    if among is not None:
        order = order[among[order]]
    return get_example_predictions(task, predictions, source, order[:count])


def get_example_predictions(
    task: Task, predictions: Predictions, source: Source, positions: Tensor
) -> list[ExamplePrediction]:
    """Return the examples at these positions with their predictions and inputs."""
    if not len(positions):
        return []
    ids = predictions.ids[positions].numpy()
    examples = fetch(source, ids)
    batch = task.collate(examples)
    decoded = task.decode(predictions.outputs[positions], batch)
    inputs = get_raw_inputs(task, examples, batch)
    out = []
    for number, position in enumerate(positions.tolist()):
        true = "" if predictions.targets is None else _format_target(task, predictions.targets[position])
        predicted, score = _format_prediction(decoded[number])
        image = inputs[number] if isinstance(task.inputs, ImageInputs) else None
        row = () if image is not None else tuple(float(v) for v in inputs[number])
        name, loss = source.name_of(int(ids[number])), float(predictions.losses[position])
        out.append(ExamplePrediction(int(ids[number]), name, true, predicted, score, loss, image, row))
    return out


def get_raw_inputs(task: Task, examples: Examples, batch: Batch) -> Floats:
    """Return inputs before normalization: images (N, C, H, W) in [0, 1] at the network's size, or rows (N, D) of the
    source."""
    if isinstance(task.inputs, ImageInputs):
        return np.asarray(task.inputs.raw(batch.input_tensor).numpy())
    return np.asarray(examples.inputs, dtype=np.float64)


def _format_target(task: Task, target: Tensor) -> str:
    """Return the true class or number as text."""
    if isinstance(task, Regression):
        return f"{float(target.reshape(-1)[0]) * task.spread + task.shift:.5g}"
    names: tuple[str, ...] = getattr(task, "classes", ())
    return names[int(target)] if names else ""


def _format_prediction(prediction: msgspec.Struct) -> tuple[str, float | None]:
    """Return the predicted class or number as text, and the score of a class."""
    if isinstance(prediction, ClassPrediction):
        return prediction.label, prediction.score
    if isinstance(prediction, RegressionPrediction):
        return f"{prediction.value:.5g}", None
    return "", None

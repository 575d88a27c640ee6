"""A model's answers to a part of the data, kept with what they answer; and which of them are worst."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.data.loader import Batch, Batches
from layerwise.data.source import Examples, Source, fetch
from layerwise.errors import DataError
from layerwise.inference.evaluate import evaluate
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Meter, Task
from layerwise.tasks.classification import ClassPrediction
from layerwise.tasks.inputs import ImageInputs
from layerwise.tasks.regression import NumberPrediction, Regression

Floats = NDArray[np.floating]
BATCH = 256


@dataclass(frozen=True)
class Answers:
    """Metrics over a part with the tables beside them, and by example: outputs (N, …), losses (N,), targets (N, …) or
    None, ids (N,) in the source."""

    metrics: dict[str, float]
    meter: Meter
    details: dict[str, Any]
    outputs: Tensor
    losses: Tensor
    targets: Tensor | None
    ids: Tensor


@dataclass(frozen=True)
class Case:
    """One example with the model's answer. ``index`` is its number in the source, ``image`` (C, H, W) in [0, 1]."""

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
class Lazily:
    """A part of the data as batches made when they are asked for, on the model's device and in its type."""

    source: Source
    task: Task
    device: torch.device
    dtype: torch.dtype

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.source) // BATCH)

    @property
    def examples(self) -> int:
        """Examples in one epoch."""
        return len(self.source)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches in the source's order."""
        for first in range(start * BATCH, len(self.source), BATCH):
            examples = fetch(self.source, np.arange(first, min(first + BATCH, len(self.source))))
            yield self.task.collate(examples).to(self.device, self.dtype)


@dataclass(frozen=True)
class _Noted:
    """Batches whose targets and ids are noted as they pass."""

    batches: Batches
    targets: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.batches.per_epoch

    @property
    def examples(self) -> int:
        """Examples in one epoch."""
        return self.batches.examples

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches, noting targets and ids."""
        for batch in self.batches.epoch(epoch, start):
            if batch.targets is not None:
                self.targets.append(batch.targets.cpu())
            self.ids.append(batch.ids.cpu())
            yield batch


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and floating-point type of a model: its first such tensor's, else the CPU and float32."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def batches_of(model: nn.Module, task: Task, source: Source) -> Lazily:
    """Return a part's batches for a model. Raises `DataError` for a part without examples."""
    if not len(source):
        raise DataError("this part of the data has no examples", expected="at least one")
    return Lazily(task.adopt(source), task, *place_of(model))


def answers(model: nn.Module, task: Task, batches: Batches) -> Answers:
    """Run the model once over all batches, as `evaluate` does, and keep what it says. The model is left as it was."""
    noted = _Noted(batches)
    found = evaluate(model, task, noted, World(device=place_of(model)[0]), full=True, keep=True)
    assert found.outputs is not None
    assert found.losses is not None
    targets = torch.cat(noted.targets) if noted.targets else None
    return Answers(
        found.metrics, found.meter, found.details, found.outputs, found.losses, targets, torch.cat(noted.ids)
    )


def wrong(task: Task, found: Answers) -> Tensor:
    """Return which answers are wrong, (N,) bool: another class; for tasks without classes, all."""
    if found.targets is None or task.name != "classification":
        return torch.ones(len(found.losses), dtype=torch.bool)
    batch = Batch(found.outputs, None, found.ids)
    said = [p.label for p in task.decode(found.outputs, batch) if isinstance(p, ClassPrediction)]
    names: tuple[str, ...] = getattr(task, "classes", ())
    return torch.tensor([names[int(t)] != label for t, label in zip(found.targets, said, strict=True)])


def worst(task: Task, found: Answers, source: Source, *, count: int, among: Tensor | None = None) -> list[Case]:
    """Return the examples of highest loss, at most ``count``, highest first; ``among`` (N,) bool limits the choice.

    Equal losses keep the source's order.
    """
    losses = found.losses.double().nan_to_num(nan=float("inf"))
    order = losses.argsort(descending=True, stable=True)
    if among is not None:
        order = order[among[order]]
    return cases(task, found, source, order[:count])


def cases(task: Task, found: Answers, source: Source, at: Tensor) -> list[Case]:
    """Return the answers at these positions with their inputs."""
    if not len(at):
        return []
    ids = found.ids[at].numpy()
    examples = fetch(source, ids)
    batch = task.collate(examples)
    predictions = task.decode(found.outputs[at], batch)
    shown = inputs_shown(task, examples, batch)
    out = []
    for number, position in enumerate(at.tolist()):
        true = "" if found.targets is None else _true(task, found.targets[position])
        said, score = _said(predictions[number])
        image = shown[number] if isinstance(task.inputs, ImageInputs) else None
        row = () if image is not None else tuple(float(v) for v in shown[number])
        name, loss = source.name_of(int(ids[number])), float(found.losses[position])
        out.append(Case(int(ids[number]), name, true, said, score, loss, image, row))
    return out


def inputs_shown(task: Task, examples: Examples, batch: Batch) -> Floats:
    """Return inputs as people know them: images (N, C, H, W) in [0, 1] as the network sees them, rows (N, D) as they
    came."""
    if isinstance(task.inputs, ImageInputs):
        return np.asarray(task.inputs.raw(batch.inputs).numpy())
    return np.asarray(examples.inputs, dtype=np.float64)


def _true(task: Task, target: Tensor) -> str:
    """Return what was right, in words."""
    if isinstance(task, Regression):
        return f"{float(target.reshape(-1)[0]) * task.spread + task.shift:.5g}"
    names: tuple[str, ...] = getattr(task, "classes", ())
    return names[int(target)] if names else ""


def _said(prediction: msgspec.Struct) -> tuple[str, float | None]:
    """Return what the model said, in words, and its probability where there is one."""
    if isinstance(prediction, ClassPrediction):
        return prediction.label, prediction.score
    if isinstance(prediction, NumberPrediction):
        return f"{prediction.value:.5g}", None
    return "", None

"""How labs train small networks: the package's own data, task, rule and loop, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from layerwise.data.batch import Batch
from layerwise.data.load import Options, load_splits
from layerwise.data.loader import BatchSampler, MemoryBatches, collate_source
from layerwise.data.splits import draw_subset
from layerwise.rules.backprop import Backprop, BackpropOptions
from layerwise.rules.base import Context
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.column_encoders import Scale
from layerwise.training.loop import Cursor, Event, run_steps


@dataclass(frozen=True)
class SplitBatches:
    """The splits of a data set as one batch each, and the task fitted to the training split."""

    task: Classification
    train: Batch
    val: Batch
    test: Batch


def load_batches(name: str, *, seed: int, examples: int = 0, scale: Scale = "standard") -> SplitBatches:
    """Open a named data set for classification, split and drawn by the seed.

    ``examples`` are taken of the training part, each class with its share; 0 takes all. ``scale`` brings pixels to mean
    0 and deviation 1, or to [0, 1] (``unit``). Raises `DataError` where the set is not on this machine.
    """
    splits = load_splits(Options(name), seed=seed)
    train = draw_subset(splits.train, examples, seed)
    task = Classification.prepare(train, Classification.Options(scale=scale))
    batches = [collate_source(source, task.collate, 1) for source in (train, splits.val, splits.test)]
    return SplitBatches(task, *batches)


def train_steps(
    net: nn.Module, task: Task, data: Batch, *, options: BackpropOptions, epochs: int, batch_size: int, seed: int
) -> Iterator[Event]:
    """Train a network in place by backpropagation, batches drawn by the seed, and yield after each step.

    Parameters without ``requires_grad`` do not change.
    Raises `NonFiniteLoss` if the loss is not finite; the weights are then those before that step.
    """
    size = min(batch_size, len(data))
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    context = Context(net, task, trained, World(), seed, "fp32", batch_size=size, examples=len(data))
    order = BatchSampler(len(data), size, seed if size < len(data) else None)
    yield from run_steps(Backprop(context, options), MemoryBatches(data, order), epochs, Cursor())


def fit_and_score(
    net: nn.Module,
    data: SplitBatches,
    *,
    options: BackpropOptions,
    steps: int,
    batch_size: int,
    seed: int,
    validation_count: int = 20,
) -> float:
    """Train for whole epochs, at least ``steps`` steps in all, and restore the weights that were best on the validation
    part.

    The network is validated ``validation_count`` times, evenly spaced. Returns the accuracy on the test part.
    """
    per_epoch = math.ceil(len(data.train) / batch_size)
    epochs = math.ceil(steps / per_epoch)
    every = max(1, epochs * per_epoch // validation_count)
    best, best_state = -1.0, net.state_dict()
    for step, _ in enumerate(
        train_steps(net, data.task, data.train, options=options, epochs=epochs, batch_size=batch_size, seed=seed),
        start=1,
    ):
        if step % every:
            continue
        accuracy = compute_metrics(net, data.task, data.val)["accuracy"]
        if accuracy > best:
            best, best_state = accuracy, {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(best_state)
    return compute_metrics(net, data.task, data.test)["accuracy"]


@torch.no_grad()
def compute_metrics(net: nn.Module, task: Task, data: Batch) -> dict[str, float]:
    """Return the task's metrics of a network on a batch, in evaluation mode; the network's mode is restored."""
    training, meter = net.training, task.meter()
    net.eval()
    try:
        meter.update(net(data.inputs), data)
    finally:
        net.train(training)
    return meter.result()

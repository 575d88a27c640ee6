"""How labs train small networks: the package's own data, task, rule and loop, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from layerwise.data.load import Options, open_data
from layerwise.data.loader import Batch, MemoryBatches, Order, collated
from layerwise.data.splits import take
from layerwise.rules.backprop import Backprop, BackpropOptions
from layerwise.rules.base import Context
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.coders import Scale
from layerwise.training.loop import Cursor, Event, steps


@dataclass(frozen=True)
class Parts:
    """A data set's parts as one batch each, and the task fitted to the training part."""

    task: Classification
    train: Batch
    val: Batch
    test: Batch


def parts(name: str, *, seed: int, examples: int = 0, scale: Scale = "standard") -> Parts:
    """Open a named data set for classification, split and drawn by the seed.

    ``examples`` are taken of the training part, each class with its share; 0 takes all. ``scale`` brings pixels to mean
    0 and deviation 1, or to [0, 1] (``unit``). Raises `DataError` where the set is not on this machine.
    """
    splits = open_data(Options(name), seed=seed)
    train = take(splits.train, examples, seed)
    task = Classification.prepare(train, Classification.Options(scale=scale))
    found = [collated(source, task.collate, 1) for source in (train, splits.val, splits.test)]
    return Parts(task, *found)


def learn(
    net: nn.Module, task: Task, data: Batch, *, options: BackpropOptions, epochs: int, batch: int, seed: int
) -> Iterator[Event]:
    """Train a network in place by backpropagation, batches drawn by the seed, and yield after each step.

    Parameters that want no gradient stay as they are.
    Raises `NonFiniteLoss` if the loss is not finite; the weights are then those before that step.
    """
    size = min(batch, len(data))
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    context = Context(net, task, trained, World(), seed, "fp32", batch=size, examples=len(data))
    order = Order(len(data), size, seed if size < len(data) else None)
    yield from steps(Backprop(context, options), MemoryBatches(data, order), epochs, Cursor())


def fit(
    net: nn.Module, data: Parts, *, options: BackpropOptions, steps: int, batch: int, seed: int, looks: int = 20
) -> float:
    """Train for whole epochs of ``steps`` or more together, and put back the weights that did best on the validation
    part.

    The validation part is looked at ``looks`` times, evenly spaced. Returns the accuracy on the test part.
    """
    per_epoch = math.ceil(len(data.train) / batch)
    epochs = math.ceil(steps / per_epoch)
    every = max(1, epochs * per_epoch // looks)
    best, kept = -1.0, net.state_dict()
    for taken, _ in enumerate(
        learn(net, data.task, data.train, options=options, epochs=epochs, batch=batch, seed=seed), start=1
    ):
        if taken % every:
            continue
        right = metrics(net, data.task, data.val)["accuracy"]
        if right > best:
            best, kept = right, {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(kept)
    return metrics(net, data.task, data.test)["accuracy"]


@torch.no_grad()
def metrics(net: nn.Module, task: Task, data: Batch) -> dict[str, float]:
    """Return the task's metrics of a network on a batch, in evaluation mode; the network's mode is put back."""
    training, meter = net.training, task.meter()
    net.eval()
    try:
        meter.update(net(data.inputs), data)
    finally:
        net.train(training)
    return meter.result()

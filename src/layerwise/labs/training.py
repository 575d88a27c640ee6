"""How labs train small networks: the package's own data, task, rule and loop, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from layerwise.data.loader import Batch, MemoryBatches, Order, collated
from layerwise.data.open import Options, open_data
from layerwise.data.splits import take
from layerwise.rules.backprop import Backprop, BackpropOptions
from layerwise.rules.base import Context
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.train.loop import Cursor, Event, steps


@dataclass(frozen=True)
class Parts:
    """A data set's parts as one batch each, and the task fitted to the training part."""

    task: Classification
    train: Batch
    val: Batch
    test: Batch


def parts(name: str, *, seed: int, examples: int = 0) -> Parts:
    """Open a named data set for classification, split and drawn by the seed.

    ``examples`` are taken of the training part, each class with its share; 0 takes all. Raises `DataError` where the set is not on this
    machine.
    """
    splits = open_data(Options(name), seed=seed)
    train = take(splits.train, examples, seed)
    task = Classification.prepare(train, Classification.Options())
    found = [collated(source, task.collate, 1) for source in (train, splits.val, splits.test)]
    return Parts(task, *found)


def learn(net: nn.Module, task: Task, data: Batch, *, options: BackpropOptions, epochs: int, batch: int, seed: int) -> Iterator[Event]:
    """Train a network in place by backpropagation, batches drawn by the seed, and yield after each step.

    Raises `NonFiniteLoss` if the loss is not finite; the weights are then those before that step.
    """
    size = min(batch, len(data))
    context = Context(net, task, dict(net.named_parameters()), World(), seed, "fp32", batch=size, examples=len(data))
    order = Order(len(data), size, seed if size < len(data) else None)
    yield from steps(Backprop(context, options), MemoryBatches(data, order), epochs, Cursor())


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

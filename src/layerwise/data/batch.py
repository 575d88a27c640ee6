"""Batches: several examples as values, with what a task and a rule need to know of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from layerwise.data import values
from layerwise.data.source import Examples
from layerwise.data.values import Value


class Mix(NamedTuple):
    """What was mixed into the examples of a batch: ``share`` (N,) of each example that remains, ``targets`` and
    ``weights`` of the mixed-in examples."""

    share: Tensor
    targets: Value | None
    weights: Tensor | None

    def map(self, function: Callable[[Any], Any]) -> Mix:
        """Return the same with each value replaced by ``function(value)``."""
        changed: list[Any] = [None if value is None else function(value) for value in self]
        return Mix(*changed)


@dataclass(frozen=True, slots=True)
class Batch:
    """Several examples.

    Attributes:
        inputs: what the network takes, N examples.
        targets: what it should answer, or None.
        ids: the examples' numbers in their source, (N,) int64 on the CPU.
        weights: how much each example counts in training, (N,), or None: all the same.
        mix: what else is in the inputs (MixUp, CutMix).
        units: what the batch holds beside its examples, such as ``{"tokens": 1310}``, counted on the CPU.
    """

    inputs: Value
    targets: Value | None
    ids: Tensor
    weights: Tensor | None = None
    mix: Mix | None = None
    units: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def input_tensor(self) -> Tensor:
        """The inputs of a task whose networks take one tensor. Raises `TypeError` if they are more."""
        return require_tensor(self.inputs, "inputs")

    @property
    def target_tensor(self) -> Tensor:
        """The targets of a task that has one tensor of them. Raises `TypeError` if there are none, or more."""
        return require_tensor(self.targets, "targets")

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        return values.first_leaf(self.inputs).device

    @property
    def nbytes(self) -> int:
        """The bytes of inputs, targets and weights."""
        return sum(values.nbytes(v) for v in (self.inputs, self.targets, self.weights) if v is not None)

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to a device; floating-point tensors take the type, integers keep theirs."""
        return self._map(lambda value: values.to(value, device, dtype), self.ids, self.units)

    def take(self, index: Tensor) -> Batch:
        """Return the examples at these positions (N,). ``index`` is on the CPU, as the ids are: reading it back from a
        device would wait for all of the device's pending work."""
        moved = index.to(self.device, non_blocking=True)
        return self._map(lambda value: values.take(value, index, moved), self.ids[index], {})

    def span(self, part: slice) -> Batch:
        """Return consecutive examples, as views."""
        return self._map(lambda value: values.span(value, part), self.ids[part], {})

    def _map(self, function: Callable[[Any], Any], ids: Tensor, units: Mapping[str, int]) -> Batch:
        """Return a batch with each value replaced by ``function(value)``, and with these ids and units."""
        targets, weights = (None if value is None else function(value) for value in (self.targets, self.weights))
        mix = None if self.mix is None else self.mix.map(function)
        return Batch(function(self.inputs), targets, ids, weights, mix, units)

    def chunk(self, count: int) -> list[Batch]:
        """Return up to ``count`` nearly equal consecutive parts."""
        size = -(-len(self) // count)
        return [self.span(slice(start, start + size)) for start in range(0, len(self), size)]


class BatchCollector:
    """Joins parts of a source into one batch of ``count`` examples, numbered from 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fields = {name: values.Collector(count) for name in ("inputs", "targets", "weights")}

    def add(self, part: Batch, start: int) -> None:
        """Take the examples of a part, of which the first is number ``start``. Several threads may add parts."""
        for name, collector in self.fields.items():
            if (value := getattr(part, name)) is not None:
                collector.add(value, start)

    def finish(self) -> Batch:
        """Return the batch."""
        inputs, targets, weights = (c.finish() if c.has_parts else None for c in self.fields.values())
        return Batch(cast(Value, inputs), targets, torch.arange(self.count), cast(Tensor | None, weights))


def require_tensor(value: Value | None, what: str) -> Tensor:
    """Return a value that is one tensor. Raises `TypeError` naming ``what`` for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(f"the {what} of this batch are not one tensor but {type(value).__name__}")
    return value


def get_weights(examples: Examples) -> Tensor | None:
    """Return the examples' weights (N,) float32, if they have any."""
    return None if examples.weights is None else torch.from_numpy(np.asarray(examples.weights, dtype=np.float32))

"""Metrics of a model on a part of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from layerwise.data.loader import Batches
from layerwise.runtime import draws
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Meter, Task


class Evaluation(NamedTuple):
    """A part's metrics, the meter they came from, and each example's outputs if they were asked for."""

    metrics: dict[str, float]
    meter: Meter
    outputs: Tensor | None
    losses: Tensor | None


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Switch to inference and back; random draws inside leave the training's state untouched."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), draws.untouched(device):
            yield
    finally:
        model.train(was_training)


def evaluate(model: nn.Module, task: Task, batches: Batches, world: World, *, keep: bool = False) -> Evaluation:
    """Run the model over all batches and return the task's metrics, merged over ranks.

    With ``keep`` the outputs (N, …) and each example's loss (N,) are kept too, in the order of the source, for this rank's share.
    """
    meter = task.meter()
    outputs: list[Tensor] = []
    losses: list[Tensor] = []
    with evaluating(model, world.device):
        for batch in batches.epoch(0):
            if not len(batch):
                continue
            out = model(batch.inputs).float() if not batch.inputs.dtype == torch.float64 else model(batch.inputs)
            meter.update(out, batch)
            if keep:
                outputs.append(out.cpu())
                losses.append(task.losses(out, batch).cpu())
    if world.size > 1:
        merged = task.meter()
        for state in world.gather(meter.state()):
            merged.merge(state)
        meter = merged
    kept = bool(outputs)
    return Evaluation(meter.result(), meter, torch.cat(outputs) if kept else None, torch.cat(losses) if kept else None)

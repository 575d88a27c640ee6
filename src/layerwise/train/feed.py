"""Which of the two loading paths a source takes, and its batches."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from layerwise.data.loader import Batch, Batches, MemoryBatches, Order, StreamedBatches, bytes_needed, collated
from layerwise.data.source import Source
from layerwise.errors import TrainingError
from layerwise.recipe import Stage
from layerwise.runtime import flags
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task

MIB = 1 << 20
EVALUATED = 256  # examples in a batch of validation


@dataclass
class Feed:
    """Gives batches of sources. What fits in memory is collated once and kept on the device."""

    world: World
    dtype: torch.dtype
    flags: flags.Flags
    streams: bool
    timeout: float
    kept: list[tuple[Source, Task, Batch]] = field(default_factory=list)

    def training(self, source: Source, task: Task, stage: Stage, *, seed: int, number: int) -> Batches:
        """Return the shuffled batches of a stage."""
        return self._batches(source, task, Order(len(source), stage.batch, seed, number, self.world))

    def evaluation(self, source: Source, task: Task) -> Batches:
        """Return the batches of a part in the source's order."""
        return self._batches(source, task, Order(len(source), EVALUATED, world=self.world))

    def _batches(self, source: Source, task: Task, order: Order) -> Batches:
        """Return batches by the path chosen for the run."""
        if self.streams:
            return StreamedBatches(
                source, task.collate, order, self.world.device, self.dtype, self.flags.workers, self.timeout
            )
        return MemoryBatches(self._whole(source, task), order)

    def _whole(self, source: Source, task: Task) -> Batch:
        """Return everything as one batch on the device, collated on first use."""
        for known, by, data in self.kept:
            if known is source and by is task:
                return data
        data = collated(source, task.collate, self.flags.threads).to(self.world.device, self.dtype)
        self.kept.append((source, task, data))
        return data


def fits(source: Source, task: Task, memory_mib: int, dtype: torch.dtype) -> bool:
    """Whether a source may be held as tensors: within the limit given, else a quarter of the free memory."""
    room = memory_mib * MIB if memory_mib else flags.free_memory() // 4
    return bytes_needed(source, task.collate, dtype) <= room


def refuse_lonely_batch(model: nn.Module, batches: Batches, stage: Stage) -> None:
    """Refuse a last batch of one example under batch norm over rows, which has no variance there (F21)."""
    norm = any(isinstance(m, nn.BatchNorm1d) for m in model.modules())
    if norm and batches.examples % stage.batch == 1:
        raise TrainingError(
            f"the last batch of {batches.examples} examples in batches of {stage.batch} has one example, "
            "over which batch normalisation has no variance",
            expected="at least two examples in every batch",
            do=f"use --batch {stage.batch + 1} or another that leaves no single one",
        )

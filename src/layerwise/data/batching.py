"""Which of the two loading paths a source takes, and its batches."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from layerwise.data.loader import Batch, Batches, Collate, MemoryBatches, Order, StreamedBatches, bytes_needed, collated
from layerwise.data.source import Source
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World

MIB = 1 << 20
EVALUATED = 256  # examples in a batch of validation


@dataclass
class Feed:
    """Gives batches of sources. What fits in memory is collated once and kept on the device."""

    world: World
    dtype: torch.dtype
    flags: compute_settings.Flags
    streams: bool
    timeout: float
    kept: list[tuple[Source, Collate, Batch]] = field(default_factory=list)

    def training(
        self, source: Source, collate: Collate, *, batch: int, seed: int, stage: int, paired: bool = False
    ) -> Batches:
        """Return the shuffled batches of a stage (its number); ``paired``: pairs of neighbors stay with one rank."""
        return self._batches(source, collate, Order(len(source), batch, seed, stage, self.world, paired))

    def evaluation(self, source: Source, collate: Collate) -> Batches:
        """Return the batches of a part in the source's order."""
        return self._batches(source, collate, Order(len(source), EVALUATED, world=self.world))

    def _batches(self, source: Source, collate: Collate, order: Order) -> Batches:
        """Return batches by the path chosen for the run."""
        if self.streams:
            return StreamedBatches(
                source, collate, order, self.world.device, self.dtype, self.flags.workers, self.timeout
            )
        return MemoryBatches(self._whole(source, collate), order)

    def _whole(self, source: Source, collate: Collate) -> Batch:
        """Return everything as one batch on the device, collated on first use."""
        for known, by, data in self.kept:
            if known is source and by == collate:
                return data
        data = collated(source, collate, self.flags.threads).to(self.world.device, self.dtype)
        self.kept.append((source, collate, data))
        return data


def fits(source: Source, collate: Collate, memory_mib: int, dtype: torch.dtype) -> bool:
    """Whether a source may be held as tensors: within the limit given, else a quarter of the free memory."""
    room = memory_mib * MIB if memory_mib else compute_settings.free_memory() // 4
    return bytes_needed(source, collate, dtype) <= room

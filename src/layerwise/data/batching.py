"""Choosing between in-memory and streamed batches of a source."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from layerwise.data.batch import Batch
from layerwise.data.loader import (
    Batches,
    BatchSampler,
    Collate,
    MemoryBatches,
    StreamedBatches,
    collate_source,
    estimate_bytes,
)
from layerwise.data.source import Source
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World

MIB = 1 << 20
EVAL_BATCH_SIZE = 256  # examples in a batch of validation


@dataclass
class BatchFactory:
    """Makes batches of sources. Sources that fit in memory are collated once and stay on the device."""

    world: World
    dtype: torch.dtype
    settings: compute_settings.ComputeSettings
    streams: bool
    timeout: float
    _collated: list[tuple[Source, Collate, Batch]] = field(default_factory=list)

    def training_batches(
        self, source: Source, collate: Collate, *, batch_size: int, seed: int, stage: int, paired: bool = False
    ) -> Batches:
        """Return the shuffled batches of a stage (its number); ``paired``: pairs of neighbors stay with one rank."""
        return self._make_batches(
            source, collate, BatchSampler(len(source), batch_size, seed, stage, self.world, paired)
        )

    def evaluation_batches(self, source: Source, collate: Collate) -> Batches:
        """Return the batches of a part in the source's order."""
        return self._make_batches(source, collate, BatchSampler(len(source), EVAL_BATCH_SIZE, world=self.world))

    def _make_batches(self, source: Source, collate: Collate, sampler: BatchSampler) -> Batches:
        """Return batches, streamed or from memory as chosen for the run."""
        if self.streams:
            return StreamedBatches(
                source, collate, sampler, self.world.device, self.dtype, self.settings.workers, self.timeout
            )
        return MemoryBatches(self._collate_once(source, collate), sampler)

    def _collate_once(self, source: Source, collate: Collate) -> Batch:
        """Return the full source as one batch on the device, collated on first use."""
        for known, known_collate, data in self._collated:
            if known is source and known_collate == collate:
                return data
        data = collate_source(source, collate, self.settings.threads).to(self.world.device, self.dtype)
        self._collated.append((source, collate, data))
        return data


def fits_in_memory(source: Source, collate: Collate, memory_mib: int, dtype: torch.dtype) -> bool:
    """Whether a source as tensors fits in ``memory_mib``, or, where that is 0, in a quarter of the free memory."""
    limit = memory_mib * MIB if memory_mib else compute_settings.get_free_memory() // 4
    return estimate_bytes(source, collate, dtype) <= limit

"""Batches from memory or streamed, behind one interface.

Data that fit in memory become tensors once and are sliced on the device; the rest streams through ``DataLoader``
workers. Both give the same batches in the same order, which is a pure function of (seed, stage, epoch, position).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from layerwise.data.batch import Batch, BatchCollector
from layerwise.data.loader_workers import check_shared_memory, run_workers
from layerwise.data.source import Examples, Source, fetch
from layerwise.runtime import rng
from layerwise.runtime.distributed import World

CHUNK = 1024
Collate = Callable[[Examples], Batch]


class Batches(Protocol):
    """A source as a sequence of batches per epoch."""

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        ...

    @property
    def examples(self) -> int:
        """Examples in one epoch, over all ranks."""
        ...

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, from batch ``start`` on."""
        ...


@dataclass(frozen=True)
class BatchSampler:
    """Which examples make up which batch: a pure function of (seed, stage, epoch, position), shared by both paths.

    Each global batch of ``batch_size`` examples is cut into one contiguous share per rank, ``paired``: between pairs of
    neighbors only. Unshuffled without a ``seed``.
    """

    examples: int
    batch_size: int
    seed: int | None = None
    stage: int = 0
    world: World = World()
    paired: bool = False

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch; the last may be smaller."""
        return -(-self.examples // self.batch_size)

    def indices(self, epoch: int) -> Tensor:
        """Return the order of the whole epoch, (N,)."""
        if self.seed is None:
            return torch.arange(self.examples)
        return rng.draw_order(self.examples, self.seed, self.stage, epoch)

    def iterate(self, epoch: int, start: int) -> Iterator[Tensor]:
        """Yield this rank's indices of each global batch from ``start`` on."""
        order = self.indices(epoch)
        for begin in range(start * self.batch_size, self.examples, self.batch_size):
            global_batch = order[begin : begin + self.batch_size]
            yield global_batch[self.share(len(global_batch))]

    def share(self, count: int) -> slice:
        """Return this rank's part of a global batch of ``count`` examples."""
        if not self.paired:
            return self.world.get_slice(count)
        pairs = self.world.get_slice(-(-count // 2))
        return slice(2 * pairs.start, min(2 * pairs.stop, count))


@dataclass(frozen=True)
class MemoryBatches:
    """Batches sliced on the device from one large batch that holds everything."""

    data: Batch
    sampler: BatchSampler

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.sampler.per_epoch

    @property
    def examples(self) -> int:
        """Examples in one epoch, over all ranks."""
        return self.sampler.examples

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, from batch ``start`` on."""
        shuffled = self.sampler.seed is not None
        for index in self.sampler.iterate(epoch, start):
            if shuffled:
                yield self.data.take(index)
            else:
                first = int(index[0]) if len(index) else 0
                yield self.data.span(slice(first, first + len(index)))


class _BatchDataset(Dataset[Batch]):
    """A map-style dataset for loader workers: item i is the collated batch i."""

    def __init__(self, source: Source, collate: Collate, batches: list[NDArray[np.int64]]) -> None:
        self.source, self.collate, self.batches = source, collate, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        if get_worker_info() is not None:
            torch.set_num_threads(1)  # the kernels' threads are the training process's
        return self.collate(fetch(self.source, self.batches[index]))


@dataclass(frozen=True)
class StreamedBatches:
    """Batches decoded by loader workers while the device computes, for data that do not fit in memory."""

    source: Source
    collate: Collate
    sampler: BatchSampler
    device: torch.device
    dtype: torch.dtype
    workers: int
    timeout: float = 300.0

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.sampler.per_epoch

    @property
    def examples(self) -> int:
        """Examples in one epoch, over all ranks."""
        return self.sampler.examples

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, from batch ``start`` on.

        Raises `TrainingError` when a worker dies or stays silent for ``timeout`` seconds.
        """
        # views: lists of numbers are nine times as large
        batches = [index.numpy() for index in self.sampler.iterate(epoch, start)]
        if self.workers:
            example_bytes = estimate_bytes(self.source, self.collate, torch.float32) // max(1, len(self.source))
            check_shared_memory(example_bytes * max(map(len, batches), default=0) * 2 * self.workers)
        loader = DataLoader(
            _BatchDataset(self.source, self.collate, batches),
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
            pin_memory=self.device.type == "cuda",
            timeout=self.timeout if self.workers else 0,
            generator=torch.Generator(),  # its own: asking for workers must not move the training's stream
        )
        with run_workers(loader) if self.workers else nullcontext(iter(loader)) as loaded:
            for batch in loaded:
                yield batch.to(self.device, self.dtype)


def collate_source(source: Source, collate: Collate, threads: int) -> Batch:
    """Turn a source into one batch, chunk by chunk, decoding on threads (image codecs release the GIL).

    Each chunk is copied into the batch at once: memory never holds the data twice (`data.values.Collector`).
    """
    collector = BatchCollector(len(source))

    def add_chunk(start: int) -> None:
        collector.add(collate(fetch(source, np.arange(start, min(start + CHUNK, len(source))))), start)

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for _ in pool.map(add_chunk, range(0, len(source), CHUNK)):
            pass  # an error in a thread is raised here
    return collector.finish()


def estimate_bytes(source: Source, collate: Collate, dtype: torch.dtype) -> int:
    """Return how many bytes the source takes as tensors, estimated from its first example."""
    example = collate(fetch(source, [0])).to(torch.device("cpu"), dtype)
    return example.nbytes * len(source)

"""Batches from memory or streamed, behind one interface.

Data that fit in memory become tensors once and are sliced on the device; the rest streams through ``DataLoader``
workers. Both give the same batches in the same order, which is a pure function of (seed, stage, epoch, position).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from layerwise.data.loader_workers import check_shared_memory, run_workers
from layerwise.data.source import Examples, Source, fetch
from layerwise.runtime import rng
from layerwise.runtime.distributed import World

CHUNK = 1024
Collate = Callable[[Examples], "Batch"]


class Mix(NamedTuple):
    """What was mixed into the examples of a batch: ``share`` (N,) of each example that remains, ``targets`` and
    ``weights`` of the mixed-in examples."""

    share: Tensor
    targets: Tensor | None
    weights: Tensor | None

    def select(self, index: Tensor | slice) -> Mix:
        """Return the entries at these positions."""
        return Mix(*(None if tensor is None else tensor[index] for tensor in self))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as tensors: ``inputs`` (N, …), ``targets`` (N, …) or None, ``ids`` (N,) the examples' numbers in their
    source, ``weights`` (N,) how much each counts in training, or None: all the same. ``mix``: what else is in the
    inputs (MixUp, CutMix)."""

    inputs: Tensor
    targets: Tensor | None
    ids: Tensor
    weights: Tensor | None = None
    mix: Mix | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to a device; floating-point tensors take the type."""

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device, kind, non_blocking=True)

        targets, weights = (None if tensor is None else move(tensor) for tensor in (self.targets, self.weights))
        return Batch(move(self.inputs), targets, self.ids, weights)

    def select(self, index: Tensor) -> Batch:
        """Return the examples at these positions. ``index`` (N,) is on the CPU, as the ids are: reading it back from a
        device would wait for all of the device's pending work."""
        device_index = index.to(self.inputs.device, non_blocking=True)
        targets = None if self.targets is None else self.targets.index_select(0, device_index)
        weights = None if self.weights is None else self.weights.index_select(0, device_index)
        mix = None if self.mix is None else self.mix.select(device_index)
        return Batch(gather_rows(self.inputs, device_index), targets, self.ids[index], weights, mix)

    def chunk(self, count: int) -> list[Batch]:
        """Return up to ``count`` nearly equal consecutive parts."""
        size = -(-len(self) // count)
        return [self.get_slice(slice(start, start + size)) for start in range(0, len(self), size)]

    def get_slice(self, part: slice) -> Batch:
        """Return consecutive examples, as views."""
        targets, weights = (None if tensor is None else tensor[part] for tensor in (self.targets, self.weights))
        return Batch(
            self.inputs[part], targets, self.ids[part], weights, None if self.mix is None else self.mix.select(part)
        )


def get_weights(examples: Examples) -> Tensor | None:
    """Return the examples' weights (N,) float32, if they have any."""
    return None if examples.weights is None else torch.from_numpy(np.asarray(examples.weights, dtype=np.float32))


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


def gather_rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Return the rows (N, …) of these positions. Images (N, C, H, W) keep their channels last in memory, which
    ``index_select`` alone would undo: convolution and pooling are faster so, on one channel too."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return tensor.index_select(0, index)


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
                yield self.data.select(index)
            else:
                first = int(index[0]) if len(index) else 0
                yield self.data.get_slice(slice(first, first + len(index)))


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

    Each chunk is copied into the batch at once: memory never holds the data twice.
    """
    batch = _allocate_like(collate(fetch(source, [0])), len(source))

    def copy_chunk(start: int) -> None:
        _copy_into(batch, collate(fetch(source, np.arange(start, min(start + CHUNK, len(source))))), start)

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for _ in pool.map(copy_chunk, range(0, len(source), CHUNK)):
            pass  # an error in a thread is raised here
    return batch


def _allocate_like(like: Batch, count: int) -> Batch:
    """Return an uninitialized batch for ``count`` examples like these, with images in the same memory format."""

    def allocate(tensor: Tensor) -> Tensor:
        channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty((count, *tensor.shape[1:]), dtype=tensor.dtype, memory_format=layout)

    targets, weights = (None if tensor is None else allocate(tensor) for tensor in (like.targets, like.weights))
    return Batch(allocate(like.inputs), targets, torch.arange(count), weights)


def _copy_into(batch: Batch, part: Batch, start: int) -> None:
    """Copy the examples of ``part`` into ``batch``, from ``start`` on."""
    for target, values in zip(
        (batch.inputs, batch.targets, batch.weights), (part.inputs, part.targets, part.weights), strict=True
    ):
        if target is not None and values is not None:
            target[start : start + len(values)] = values


def estimate_bytes(source: Source, collate: Collate, dtype: torch.dtype) -> int:
    """Return how many bytes the source takes as tensors, estimated from its first example."""
    example = collate(fetch(source, [0])).to(torch.device("cpu"), dtype)
    size = example.inputs.nbytes + (0 if example.targets is None else example.targets.nbytes)
    return size * len(source)

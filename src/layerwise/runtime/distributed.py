"""Several processes as one: started by ``torchrun``, gloo on the CPU and nccl on CUDA.

No wrapper and no hooks: a rule calls `World.reduce` on what it has summed. With one process every call is a no-op.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from layerwise.errors import TrainingError

GROUP_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run: this one's number and how many there are."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints messages."""
        return self.rank == 0

    def get_slice(self, count: int) -> slice:
        """Return this rank's slice of ``count`` examples; slices may be empty and differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def reduce(self, tensors: list[Tensor]) -> None:
        """Sum each tensor over all ranks, in place, in one coalesced all-reduce per data type."""
        if self.size == 1:
            return
        for dtype in {t.dtype: None for t in tensors}:
            same = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in same])
            dist.all_reduce(flat)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def gather(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return every rank's tensors, by rank. Sizes may differ in the first dimension."""
        if self.size == 1:
            return [tensors]
        out: list[dict[str, Tensor]] = [{} for _ in range(self.size)]
        for name in sorted(tensors):
            tensor = tensors[name].to(self.device).contiguous()
            rows = tensor.unsqueeze(0) if tensor.ndim == 0 else tensor
            counts = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.size)]
            dist.all_gather(counts, torch.tensor([len(rows)], device=self.device))
            sizes = [int(c) for c in counts]
            padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
            padded[: len(rows)] = rows
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
            for rank, part in enumerate(parts):
                rows = part[: sizes[rank]]
                out[rank][name] = (rows.squeeze(0) if tensor.ndim == 0 else rows).to(tensors[name].device)
        return out

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether it is set on any rank."""
        if self.size == 1:
            return flags
        votes = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(votes)
        return tuple(bool(vote > 0) for vote in votes)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1, device=self.device))


def is_launched() -> bool:
    """Whether this process was started by torchrun as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join_world(device: torch.device, timeout: float) -> Iterator[World]:
    """Join the processes that torchrun started; without it, yield a world of one.

    A rank that is silent for ``timeout`` seconds ends the run with a `TrainingError`.
    """
    if not is_launched():
        yield World(device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    patience = timedelta(seconds=timeout)
    store, rank, size = next(rendezvous("env://", timeout=patience))
    # a prefix for each group: a program that trains twice must not read the addresses of its first group
    store = PrefixStore(f"layerwise/{next(GROUP_NUMBERS)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    except (dist.DistError, RuntimeError) as error:
        if not is_communication_error(error):
            raise
        raise TrainingError(
            f"a process of this run was lost (seen by rank {os.environ['RANK']}): {str(error).splitlines()[0]}",
            expected=f"all {os.environ['WORLD_SIZE']} ranks alive and answering within {timeout:g} s",
            do="look at the other ranks' messages, then start again with --resume",
        ) from error
    finally:
        dist.destroy_process_group()


def is_communication_error(error: BaseException) -> bool:
    """Whether an error came out of the communication between processes."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    )

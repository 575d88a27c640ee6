"""Order and draws as pure functions of (seed, stage, epoch, …): the same for any number of workers and ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MASK = (1 << 64) - 1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / φ


def key(*parts: int | str) -> int:
    """Hash named parts to a 63-bit seed (BLAKE2b), so that neighboring seeds give unrelated streams."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator seeded by the hash of the parts."""
    made = torch.Generator(device=device)
    made.manual_seed(key(*parts))
    return made


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """Return a NumPy generator seeded by the hash of the parts."""
    return np.random.default_rng(key(*parts))


def order(examples: int, *parts: int | str) -> Tensor:
    """Return a permutation of ``examples`` numbers (int64), drawn from the hash of the parts (seed, stage, epoch)."""
    return torch.randperm(examples, generator=generator("order", *parts))


def uniform(ids: Tensor, draws: int, seed: int, epoch: int) -> Tensor:
    """Return U[0, 1) draws keyed by example, ``(N, draws)`` float64, by a vectorized counter hash (SplitMix64's
    finalizer).

    The draw of an example depends on (seed, epoch, its id, which draw) alone: not on its batch, worker or rank.
    """
    base = np.uint64(key("uniform", seed, epoch))
    first: NDArray[np.uint64] = ids.cpu().numpy().astype(np.uint64)[:, None] * np.uint64(draws)
    counter = np.add(first, np.arange(draws, dtype=np.uint64), dtype=np.uint64)
    with np.errstate(over="ignore"):
        top = mixed(counter * GOLDEN + base) >> np.uint64(11)  # 53 bits
    return torch.from_numpy(top.astype(np.float64) * 2.0**-53)


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64-bit numbers scrambled one to one (SplitMix64's finalizer)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@contextmanager
def untouched(device: torch.device | None = None) -> Iterator[None]:
    """Leave torch's random state as it was: what runs inside draws without moving the training's stream."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run with torch's generators seeded, and put their old state back at the end."""
    with untouched(device):
        torch.manual_seed(seed)
        yield


def states(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random states as byte tensors, for a checkpoint."""
    found = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["random.cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(saved: dict[str, Tensor], device: torch.device) -> None:
    """Put saved random states back. A state of an absent device kind is left out."""
    torch.set_rng_state(saved["random.cpu"])
    if device.type == "cuda" and "random.cuda" in saved:
        torch.cuda.set_rng_state(saved["random.cuda"], device)

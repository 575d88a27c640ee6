"""Random order and draws as pure functions of (seed, stage, epoch, …): the same for any number of workers and ranks."""

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


def derive_seed(*parts: int | str) -> int:
    """Hash named parts to a 63-bit seed (BLAKE2b), so that neighboring seeds give unrelated streams."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def make_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator seeded by the hash of the parts."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(*parts))
    return generator


def make_numpy_generator(*parts: int | str) -> np.random.Generator:
    """Return a NumPy generator seeded by the hash of the parts."""
    return np.random.default_rng(derive_seed(*parts))


def draw_order(examples: int, *parts: int | str) -> Tensor:
    """Return a permutation of ``examples`` numbers (int64), drawn from the hash of the parts (seed, stage, epoch)."""
    return torch.randperm(examples, generator=make_generator("order", *parts))


def draw_uniform(ids: Tensor, draws: int, seed: int, epoch: int) -> Tensor:
    """Return U[0, 1) draws keyed by example, ``(N, draws)`` float64, by a vectorized counter hash (SplitMix64's
    finalizer).

    The draw of an example depends on (seed, epoch, its id, which draw) alone: not on its batch, worker or rank.
    """
    base = np.uint64(derive_seed("uniform", seed, epoch))
    first: NDArray[np.uint64] = ids.cpu().numpy().astype(np.uint64)[:, None] * np.uint64(draws)
    counter = np.add(first, np.arange(draws, dtype=np.uint64), dtype=np.uint64)
    with np.errstate(over="ignore"):
        top = splitmix64(counter * GOLDEN + base) >> np.uint64(11)  # 53 bits
    return torch.from_numpy(top.astype(np.float64) * 2.0**-53)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64-bit numbers scrambled one to one (SplitMix64's finalizer)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@contextmanager
def preserve_rng_state(device: torch.device | None = None) -> Iterator[None]:
    """Restore torch's random state after the block: draws inside do not change the training's stream."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


@contextmanager
def use_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators for the block, and restore their old state after it."""
    with preserve_rng_state(device):
        torch.manual_seed(seed)
        yield


def get_states(device: torch.device) -> dict[str, Tensor]:
    """Return torch's random states as byte tensors, for a checkpoint."""
    states = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_states(saved: dict[str, Tensor], device: torch.device) -> None:
    """Restore saved random states, except those of a kind of device that is absent."""
    torch.set_rng_state(saved["random.cpu"])
    if device.type == "cuda" and "random.cuda" in saved:
        torch.cuda.set_rng_state(saved["random.cuda"], device)

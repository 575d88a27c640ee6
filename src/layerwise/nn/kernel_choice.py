"""Which kernel computes a convolution: measured once for a class of layers on each machine, kept in the user's cache.

A class is the layer's geometry, what it is used for, and how much work a call does. Layers with little work are torch's
without a measurement. A choice never changes within a process, and a training run records its choices
(`runtime.flags.Flags.kernels`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs
import torch

from layerwise import __version__
from layerwise.errors import LayerwiseError, UsageError
from layerwise.kernels.convolution.simd import widest_lanes
from layerwise.runtime import machine
from layerwise.runtime.atomic_io import is_plain_file, make_folder, write_file
from layerwise.runtime.checksums import digest, sealed, unsealed

TORCH, WINOGRAD, MIXED, PRODUCT = "torch", "winograd", "mixed", "product"
Use = Literal["train", "evaluate", "infer"]
LEAST = 2**25  # multiplications in a call, below which a choice cannot matter: see `Layer.of`
CLASSES = 3  # of the work of a call, each four times the one before
MARGIN = 1.05  # another kernel must be so many times as fast as torch's, which rounds less
EXACT, ROUNDED = 32, 8  # sides up to 32 are classes of their own, longer ones are rounded up to multiples of 8
BYTES, ENTRIES = 2**20, 4096  # of a file of choices at most
VARIABLE = "LAYERWISE_CONVOLUTION"  # torch, or winograd: decides instead of a measurement


class Layer(msgspec.Struct, frozen=True):
    """A class of calls of a convolution: square filters with ``size`` taps to a side, ``inputs`` maps of ``height`` ×
    ``width`` places to ``outputs`` maps.

    ``use``: ``train`` is the forward pass and both gradients, ``evaluate`` the forward pass with weights that may have
    changed since the last call, ``infer`` with weights that never change. ``work``: 0, 1, 2 for at least 1, 4, 16 times
    `LEAST` multiplications.
    """

    size: int
    stride: int
    inputs: int
    outputs: int
    height: int
    width: int
    use: Use
    work: int

    @classmethod
    def of(cls, shape: tuple[int, int, int, int], outputs: int, *, size: int, stride: int, use: Use) -> Layer | None:
        """Return the class of a call with maps of this shape (N, C, H, W); None where it is torch's without a
        measurement.

        At 10¹¹ multiplications a second, which a core hardly reaches, `LEAST` of them take a third of a millisecond.
        What a faster kernel could save of that is near the cost of calling it (0.02 to 0.05 ms). And tiles save nothing
        where 36 multiplications for each tile are as many as 9 for each place.
        """
        count, inputs, height, width = shape
        tiles = -(-height // 4) * -(-width // 4)
        one = multiplications(size, stride, inputs, outputs, height, width)
        if count * one < LEAST or (size == 3 and 9 * height * width <= 36 * tiles):
            return None
        work = min(CLASSES - 1, int(math.log2(count * one / LEAST)) // 2)
        return cls(size, stride, inputs, outputs, _rounded(height), _rounded(width), use, work)

    @property
    def batch(self) -> int:
        """The examples of a call in the middle of this class."""
        one = multiplications(self.size, self.stride, self.inputs, self.outputs, self.height, self.width)
        return max(1, (2 * LEAST << 2 * self.work) // one)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels to choose from: torch's, and ours; ``mixed`` leaves the gradient by the weights to torch."""
        if self.size == 1:
            return TORCH, PRODUCT
        return (TORCH, WINOGRAD, MIXED) if self.use == "train" else (TORCH, WINOGRAD)

    @property
    def name(self) -> str:
        """The class in one line, as it is recorded."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        maps = f"{self.inputs}>{self.outputs} maps {self.height}x{self.width}"
        return f"{self.size}x{self.size}{stride} {maps} {self.use} {self.work}"


class Timing(msgspec.Struct, frozen=True):
    """What was measured for a class: the seconds of each kernel for ``layer.batch`` examples, and the kernel chosen."""

    layer: Layer
    seconds: dict[str, float]
    chosen: str


class Choices:
    """The kernels chosen for the classes of a network's layers, by `Layer.name`.

    ``timer`` measures a class that is not known yet; without one such a class is torch's. Copies of a network share its
    choices.
    """

    def __init__(self, known: Mapping[str, str], timer: Callable[[Layer], Timing] | None) -> None:
        self.known = dict(known)
        self.timer = timer

    def __deepcopy__(self, memo: dict[int, Any]) -> Choices:
        """Return these choices themselves."""
        return self

    def fix(self, known: Mapping[str, str]) -> None:
        """Take these choices over, and measure no others."""
        self.known.update(known)
        self.timer = None

    def kernel(self, layer: Layer | None) -> str:
        """Return the kernel of a class, of `TORCH` for None."""
        if layer is None:
            return TORCH
        found = self.known.get(layer.name)
        if found is None:
            if self.timer is None:
                return TORCH
            found = self.known[layer.name] = choose(layer, self.timer)
        return found if found in layer.kernels else TORCH


def multiplications(size: int, stride: int, inputs: int, outputs: int, height: int, width: int) -> int:
    """Return the multiplications of a convolution for one example, counted out."""
    return size * size * inputs * outputs * -(-height // stride) * -(-width // stride)


def _rounded(side: int) -> int:
    """Return the side that stands for this one."""
    return side if side <= EXACT else -(-side // ROUNDED) * ROUNDED


def choose(layer: Layer, timer: Callable[[Layer], Timing]) -> str:
    """Return the kernel for a class: what ``LAYERWISE_CONVOLUTION`` says, what this machine's cache knows, or what is
    measured now.

    Raises `UsageError` for another value of the variable.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is not None:
        if wanted not in (TORCH, WINOGRAD):
            raise UsageError(
                f"{VARIABLE} does not name a kernel", expected=f"{TORCH} or {WINOGRAD}", received=f"'{wanted}'"
            )
        return TORCH if wanted == TORCH else layer.kernels[1]
    path = file_of(torch.get_num_threads())
    known = read_timings(path)
    if layer.name not in known:
        timing = timer(layer)
        known = {**read_timings(path), layer.name: timing}  # read again: another process may have added to it meanwhile
        write_timings(path, known)
    return known[layer.name].chosen


def fastest(seconds: Mapping[str, float]) -> str:
    """Return the kernel to take: the fastest, but torch's unless that is faster by `MARGIN`."""
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * MARGIN < seconds[TORCH] else TORCH


def machine_key(threads: int) -> dict[str, str]:
    """Return what measurements depend on."""
    return {
        "processor": machine.cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "lanes": str(widest_lanes()),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "threads": str(threads),
        "torch": str(torch.__version__),
        "layerwise": __version__,
    }


def file_of(threads: int) -> Path:
    """Return where this machine's measurements with so many threads are kept."""
    key = digest(repr(sorted(machine_key(threads).items())).encode())[:16]
    return Path(platformdirs.user_cache_dir("layerwise")) / "kernels" / f"{key}.json"


def read_timings(path: Path) -> dict[str, Timing]:
    """Return the measurements kept here, by `Layer.name`; none where the file is missing, damaged, foreign or too
    large."""
    try:
        if not is_plain_file(path, root=path.parents[1]) or path.stat().st_size > BYTES:
            return {}
        found = msgspec.convert(unsealed(path.read_bytes(), path)["timings"], list[Timing])
    except (OSError, LayerwiseError, KeyError, msgspec.ValidationError):
        return {}
    return {timing.layer.name: timing for timing in found[:ENTRIES] if _sound(timing)}


def _sound(timing: Timing) -> bool:
    """Whether a measurement is one that we could have written."""
    times = timing.seconds
    numbers = all(math.isfinite(value) and value > 0 for value in times.values())
    return numbers and set(times) == set(timing.layer.kernels) and timing.chosen == fastest(times)


def write_timings(path: Path, timings: Mapping[str, Timing]) -> None:
    """Keep measurements; a home that cannot be written is no error."""
    content = {"timings": [msgspec.to_builtins(timing) for timing in list(timings.values())[-ENTRIES:]]}
    with suppress(OSError, LayerwiseError):
        make_folder(path.parent, root=path.parents[1])
        write_file(path, sealed(content), root=path.parents[1])


def list_timings() -> list[tuple[int, Timing]]:
    """Return every measurement kept for this machine as it is now, with the number of threads."""
    counts = range(1, machine.cores() + 1)
    return [(threads, timing) for threads in counts for timing in read_timings(file_of(threads)).values()]

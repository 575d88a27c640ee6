"""The choice of the kernel that computes a convolution: measured once for each class of layers on each machine, and
cached in the user's folder; and the measurements as a table for ``doctor``.

A class is the layer's geometry, its use, and the work of a call. Layers with little work use torch's kernel without a
measurement. A choice never changes within a process, and a training run records its choices
(`runtime.compute_settings.ComputeSettings.kernels`).
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
from layerwise.kernels.simd import widest_lanes
from layerwise.runtime import machine, resources
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.checksums import digest, dump_checksummed, load_checksummed
from layerwise.runtime.write_checks import is_plain_file

TORCH, WINOGRAD, MIXED, PRODUCT = "torch", "winograd", "mixed", "product"
Use = Literal["train", "evaluate", "infer"]
MIN_MULTIPLICATIONS = 2**25  # in a call, below which a choice cannot matter: see `ConvSignature.for_call`
WORK_CLASSES = 3  # of the work of a call, each four times the one before
MARGIN = 1.05  # another kernel must be this many times as fast as torch's, which has smaller rounding errors
EXACT_SIDE, SIDE_STEP = 32, 8  # sides up to 32 are classes of their own, longer ones are rounded up to multiples of 8
MAX_BYTES, MAX_ENTRIES = 2**20, 4096  # of a file of choices at most
VARIABLE = "LAYERWISE_CONVOLUTION"  # torch, or winograd: decides instead of a measurement


class ConvSignature(msgspec.Struct, frozen=True):
    """A class of calls of a convolution: square filters of side ``size``, from ``inputs`` maps of ``height`` ×
    ``width`` pixels to ``outputs`` maps.

    ``use``: ``train`` is the forward pass and both gradients, ``evaluate`` the forward pass with weights that may have
    changed since the last call, ``infer`` with weights that never change. ``work``: 0, 1, 2 for at least 1, 4, 16 times
    `MIN_MULTIPLICATIONS` multiplications.
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
    def for_call(
        cls, shape: tuple[int, int, int, int], outputs: int, *, size: int, stride: int, use: Use
    ) -> ConvSignature | None:
        """Return the class of a call with maps of this shape (N, C, H, W); None if it uses torch's kernel without a
        measurement.

        At 10¹¹ multiplications a second, which a core hardly reaches, `MIN_MULTIPLICATIONS` take a third of a
        millisecond. The most that a faster kernel could save of that is near the cost of calling it (0.02 to 0.05 ms).
        And Winograd's algorithm saves nothing where 36 multiplications for each tile are as many as 9 for each pixel.
        """
        count, inputs, height, width = shape
        tiles = -(-height // 4) * -(-width // 4)
        one = count_multiplications(size, stride, inputs, outputs, height, width)
        if count * one < MIN_MULTIPLICATIONS or (size == 3 and 9 * height * width <= 36 * tiles):
            return None
        work = min(WORK_CLASSES - 1, int(math.log2(count * one / MIN_MULTIPLICATIONS)) // 2)
        return cls(size, stride, inputs, outputs, _round_side(height), _round_side(width), use, work)

    @property
    def batch(self) -> int:
        """The batch size of a call in the middle of this class."""
        one = count_multiplications(self.size, self.stride, self.inputs, self.outputs, self.height, self.width)
        return max(1, (2 * MIN_MULTIPLICATIONS << 2 * self.work) // one)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The candidate kernels: torch's, and ours; ``mixed`` computes the weight gradient with torch."""
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
    """The measurement of a class: the seconds of each kernel for ``layer.batch`` examples, and the chosen kernel."""

    layer: ConvSignature
    seconds: dict[str, float]
    chosen: str


class KernelSelector:
    """The kernels chosen for the classes of a network's layers, by `ConvSignature.name`.

    ``timer`` measures a class that is not known yet; without a timer such a class uses torch's kernel. Copies of a
    network share its selector.
    """

    def __init__(self, known: Mapping[str, str], timer: Callable[[ConvSignature], Timing] | None) -> None:
        self.known = dict(known)
        self.timer = timer

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelSelector:
        """Return the selector itself."""
        return self

    def freeze(self, known: Mapping[str, str]) -> None:
        """Use these choices, and measure no others."""
        self.known.update(known)
        self.timer = None

    def select(self, signature: ConvSignature | None) -> str:
        """Return the kernel of a class, `TORCH` for None."""
        if signature is None:
            return TORCH
        kernel = self.known.get(signature.name)
        if kernel is None:
            if self.timer is None:
                return TORCH
            kernel = self.known[signature.name] = choose_kernel(signature, self.timer)
        return kernel if kernel in signature.kernels else TORCH


def count_multiplications(size: int, stride: int, inputs: int, outputs: int, height: int, width: int) -> int:
    """Return the number of multiplications of a direct convolution for one example."""
    return size * size * inputs * outputs * -(-height // stride) * -(-width // stride)


def _round_side(side: int) -> int:
    """Return the representative of a side's class."""
    return side if side <= EXACT_SIDE else -(-side // SIDE_STEP) * SIDE_STEP


def choose_kernel(signature: ConvSignature, timer: Callable[[ConvSignature], Timing]) -> str:
    """Return the kernel for a class: that of ``LAYERWISE_CONVOLUTION``, that of this machine's cache, or that of a new
    measurement.

    Raises `UsageError` for another value of the variable.
    """
    override = os.environ.get(VARIABLE)
    if override is not None:
        if override not in (TORCH, WINOGRAD):
            raise UsageError(
                f"{VARIABLE} does not name a kernel", expected=f"{TORCH} or {WINOGRAD}", received=f"'{override}'"
            )
        return TORCH if override == TORCH else signature.kernels[1]
    path = get_timings_path(torch.get_num_threads())
    known = read_timings(path)
    if signature.name not in known:
        timing = timer(signature)
        known = {
            **read_timings(path),
            signature.name: timing,
        }  # read again: another process may have added to it meanwhile
        write_timings(path, known)
    return known[signature.name].chosen


def choose_by_times(seconds: Mapping[str, float]) -> str:
    """Return the fastest kernel if it beats torch's by `MARGIN`, else torch's."""
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] * MARGIN < seconds[TORCH] else TORCH


def get_machine_key(threads: int) -> dict[str, str]:
    """Return the facts on which measurements depend."""
    return {
        "processor": machine.get_cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "lanes": str(widest_lanes()),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "threads": str(threads),
        "torch": str(torch.__version__),
        "layerwise": __version__,
    }


def get_timings_path(threads: int) -> Path:
    """Return the file of this machine's measurements with so many threads."""
    key = digest(repr(sorted(get_machine_key(threads).items())).encode())[:16]
    return Path(platformdirs.user_cache_dir("layerwise")) / "kernels" / f"{key}.json"


def read_timings(path: Path) -> dict[str, Timing]:
    """Return the measurements in a file, by `ConvSignature.name`; none if the file is missing, damaged, foreign or too
    large."""
    try:
        if not is_plain_file(path, root=path.parents[1]) or path.stat().st_size > MAX_BYTES:
            return {}
        timings = msgspec.convert(load_checksummed(path.read_bytes(), path)["timings"], list[Timing])
    except (OSError, LayerwiseError, KeyError, msgspec.ValidationError):
        return {}
    return {timing.layer.name: timing for timing in timings[:MAX_ENTRIES] if _is_plausible(timing)}


def _is_plausible(timing: Timing) -> bool:
    """Whether this version could have written a measurement."""
    times = timing.seconds
    numbers = all(math.isfinite(value) and value > 0 for value in times.values())
    return numbers and set(times) == set(timing.layer.kernels) and timing.chosen == choose_by_times(times)


def write_timings(path: Path, timings: Mapping[str, Timing]) -> None:
    """Write measurements; a folder that is not writable is not an error."""
    content = {"timings": [msgspec.to_builtins(timing) for timing in list(timings.values())[-MAX_ENTRIES:]]}
    with suppress(OSError, LayerwiseError):
        make_folder(path.parent, root=path.parents[1])
        write_file(path, dump_checksummed(content), root=path.parents[1])


def list_timings() -> list[tuple[int, Timing]]:
    """Return every cached measurement for this machine's current state, with the number of threads."""
    counts = range(1, resources.count_cores() + 1)
    return [(threads, timing) for threads in counts for timing in read_timings(get_timings_path(threads)).values()]


KERNELS_ZH = {TORCH: "torch", WINOGRAD: "Winograd", MIXED: "混合", PRODUCT: "矩阵乘"}
USES_ZH = {"train": "训练", "evaluate": "训练中评估", "infer": "推理"}


def describe_timing(threads: int, timing: Timing) -> dict[str, Any]:
    """Return a measurement as a flat record: the class of layers, threads, batch size, seconds of each kernel, the
    choice."""
    facts: dict[str, Any] = msgspec.to_builtins(timing)
    return {"name": timing.layer.name, "threads": threads, "batch": timing.layer.batch, **facts}


def get_timing_columns(*, chinese: bool) -> tuple[str, ...]:
    """Return the headings of the table."""
    if chinese:
        return "卷积", "用途", "批量", "线程", "选用", "torch 毫秒", "Layerwise 毫秒"
    return "convolution", "use", "batch", "threads", "kernel", "torch, ms", "ours, ms"


def make_timing_row(threads: int, timing: Timing, *, chinese: bool) -> tuple[str, ...]:
    """Return one measurement as a row: torch's time and that of the fastest of our kernels."""
    signature, seconds = timing.layer, timing.seconds
    ours = min(value for name, value in seconds.items() if name != TORCH)
    use, kernel = (USES_ZH[signature.use], KERNELS_ZH[timing.chosen]) if chinese else (signature.use, timing.chosen)
    times = (f"{1000 * value:.3g}" for value in (seconds[TORCH], ours))
    return describe_shape(signature, chinese=chinese), use, str(signature.batch), str(threads), kernel, *times


def describe_shape(signature: ConvSignature, *, chinese: bool) -> str:
    """Return a layer's geometry in words."""
    size, sides = f"{signature.size}×{signature.size}", f"{signature.height}×{signature.width}"
    if chinese:
        stride = f"，步长 {signature.stride}" if signature.stride > 1 else ""
        return f"{size}{stride}，{signature.inputs} → {signature.outputs} 个 {sides} 的特征图"
    stride = f", stride {signature.stride}" if signature.stride > 1 else ""
    return f"{size}{stride}, {signature.inputs} → {signature.outputs} maps of {sides}"

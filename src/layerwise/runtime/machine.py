"""Know the machine: cores, the faster fp32 route, the allocator. Measured once, shown by ``doctor``.

What was found, and when each setting is worth taking, stands beside the function that takes it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import msgspec
import platformdirs
import psutil
import torch
from torch import Tensor

from layerwise.errors import LayerwiseError, UsageError
from layerwise.runtime.atomic_io import is_plain_file, make_folder, write_file
from layerwise.runtime.bounded_decoding import decode_json
from layerwise.runtime.cores import cores as cores
from layerwise.runtime.openmp import torchs_openmp

# (rows, inner, columns, left transposed, right transposed): a dense layer forward, its ∂W, larger ones
SIZES = (
    (128, 784, 256, False, True),
    (256, 128, 784, True, False),
    (64, 400, 120, False, True),
    (256, 1024, 1024, False, True),
    (1024, 256, 1024, True, False),
)
LARGEST = 1 << 20  # bytes of the file that keeps measurements
ROUTES = ("highest", "medium")
ROUNDS, SECONDS = 9, 0.2  # at most so many alternations, stopping early on a slow machine
ERROR_LIMIT = 4.0  # "fp32's level": at most this many times the error of "highest"
GAIN, LOSS = 1.10, 0.90  # speed-up needed in geometric mean; no size may fall below LOSS
MIB = 1 << 20
# mallopt's parameter numbers and our values. glibc refuses an mmap threshold above 32 MiB (HEAP_MAX_SIZE/2).
THRESHOLDS = {
    "M_MMAP_THRESHOLD": (-3, 32 * MIB),
    "M_TRIM_THRESHOLD": (-1, 512 * MIB),
    "M_TOP_PAD": (-2, 64 * MIB),
}


class Product(msgspec.Struct, frozen=True):
    """One matrix product tried on both routes: seconds (medians) and errors max|C − C₆₄| / max|C₆₄|."""

    rows: int
    inner: int
    columns: int
    highest_seconds: float
    medium_seconds: float
    highest_error: float
    medium_error: float

    @property
    def speedup(self) -> float:
        """How many times faster "medium" was."""
        return self.highest_seconds / self.medium_seconds


class Matmul(msgspec.Struct, frozen=True):
    """The trial of the two fp32 routes: every number, what was chosen and why."""

    key: str
    products: list[Product]
    speedup: float
    error_ratio: float
    chosen: str
    why: str


def matmul_route() -> str:
    """Return the ``torch.set_float32_matmul_precision`` that is fastest at fp32's error on this machine.

    Measured once per machine and kept in the user's cache; ``LAYERWISE_MATMUL=highest`` (or ``medium``)
    decides instead.
    """
    wanted = os.environ.get("LAYERWISE_MATMUL")
    if wanted is None:
        return known_matmul().chosen
    if wanted not in ROUTES:
        raise UsageError("LAYERWISE_MATMUL does not name a route", expected=" or ".join(ROUTES), received=f"'{wanted}'")
    return wanted


def known_matmul() -> Matmul:
    """Return this machine's measurement from the cache, or make it and keep it there if one can write."""
    key = _key()
    kept = _read_cache()
    if key not in kept:
        kept[key] = measure_matmul()
        _write_cache(kept)
    return kept[key]


def measure_matmul() -> Matmul:
    """Try both routes on products of the sizes at hand, alternating, on the CPU. Takes about 0.3 s.

    "medium" is chosen where its largest error against float64 is at most `ERROR_LIMIT` times that of
    "highest", the time falls by `GAIN` in geometric mean and no size is slower than `LOSS`. torch's
    settings and random state are put back. One thread, since a neighbor on one of our cores makes
    two-thread times collapse (every product took 16 ms instead of 0.4 to 4), and such an accident would be
    kept.
    """
    draw = torch.Generator().manual_seed(1)
    pairs = [_operands(size, draw) for size in SIZES]
    times: dict[str, list[list[float]]] = {route: [[] for _ in SIZES] for route in ROUTES}
    errors: dict[str, list[float]] = {}
    with _settings_kept(), torch.inference_mode():
        torch.set_num_threads(1)
        exact = [left.double() @ right.double() for left, right in pairs]
        for route in ROUTES:  # also the warm-up
            torch.set_float32_matmul_precision(route)
            errors[route] = [
                float((left @ right - true).abs().max() / true.abs().max())
                for (left, right), true in zip(pairs, exact, strict=True)
            ]
        start = time.perf_counter()
        for turn in range(ROUNDS):
            if turn >= 3 and time.perf_counter() - start > SECONDS:
                break
            for route in ROUTES if turn % 2 == 0 else ROUTES[::-1]:
                torch.set_float32_matmul_precision(route)
                for taken, (left, right) in zip(times[route], pairs, strict=True):
                    began = time.perf_counter()
                    torch.mm(left, right)
                    taken.append(time.perf_counter() - began)
    products = [
        Product(*size[:3], median(slow), median(fast), slow_error, fast_error)
        for size, slow, fast, slow_error, fast_error in zip(
            SIZES, times["highest"], times["medium"], errors["highest"], errors["medium"], strict=True
        )
    ]
    return judge(products)


def judge(products: list[Product]) -> Matmul:
    """Choose the route from measured products: the error first, then the time."""
    speedup = geometric_mean([product.speedup for product in products])
    ratio = max(product.medium_error / max(product.highest_error, 1e-12) for product in products)
    slowest = min(product.speedup for product in products)
    if not ratio <= ERROR_LIMIT:
        chosen, why = "highest", f"medium's error is {ratio:.1f} times fp32's: it rounds its inputs here"
    elif speedup < GAIN:
        chosen, why = "highest", f"medium is {speedup:.2f} times as fast: no clear gain"
    elif slowest < LOSS:
        chosen, why = "highest", f"medium slows one of the products to {slowest:.2f} of its speed"
    else:
        chosen, why = "medium", f"medium is {speedup:.2f} times as fast with {ratio:.1f} times fp32's error"
    return Matmul(_key(), products, speedup, ratio, chosen, why)


def keep_large_buffers() -> bool:
    """Raise glibc's thresholds so that large buffers stay with the process. Returns whether that is now so.

    By default glibc maps each large buffer anew and gives it back at once: every page of it faults on
    every step. A no-op off 64-bit Linux with glibc, with ``LAYERWISE_MALLOC=system``, or where the user
    tunes malloc already (``MALLOC_*_``, ``GLIBC_TUNABLES``). May be called again; glibc offers no way back
    within the process.

    Measured on 2 cores of a Zen 3 EPYC, torch 2.13, each setting in processes of its own, alternating,
    medians of three (page faults and milliseconds a step, without → with). Three convolutions on
    64×3×32×32: inference 4064 → 0 faults, 36.8 → 28.9 ms; training 13675 → 0, 106 → 75 ms. LeNet-5
    training, batch 64: 1278 → 0, 12.2 → 9.9 ms, the ranges overlapping. LeNet-5 inference and a 784-256-10
    MLP's training: no faults either way and no difference beyond the noise. Without M_TOP_PAD 171 faults a
    step were left in the convolutions' training; with the mmap threshold left at its default and the
    others raised, faults more than doubled.
    """
    mallopt = _allocators("mallopt")
    if mallopt is None:
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    results = [mallopt(number, value) for number, value in THRESHOLDS.values()]
    return all(result == 1 for result in results)


def give_back() -> None:
    """Give free memory back to the system where `keep_large_buffers` lets glibc keep it; a no-op elsewhere.

    For the border between phases: what one leaves free between its pieces, in any thread's share, the next does not
        fill.
    """
    trim = _allocators("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def describe() -> dict[str, Any]:
    """Return the facts ``doctor`` shows: processor, memory, torch's build, fp32 route, allocator, devices."""
    memory = psutil.virtual_memory()
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    instructions = torch.backends.cpu.get_cpu_capability()
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "cpu": {"model": cpu_model(), "instructions": instructions, "cores": cores()},
        "memory": {"total": int(memory.total), "available": int(memory.available)},
        "torch": {
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "mkl": torch.backends.mkl.is_available(),
            "onednn": torch.backends.mkldnn.is_available(),
            "build": torch.__config__.show(),
        },
        "openmp": openmp.name if (openmp := torchs_openmp()) else None,
        "matmul": {"route": matmul_route(), "measured": msgspec.to_builtins(known_matmul())},
        "allocator": {
            "large buffers kept": keep_large_buffers(),
            "thresholds": {name: value for name, (_, value) in THRESHOLDS.items()},
        },
        "devices": {
            "cpu": True,
            "cuda": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
            "mps": torch.backends.mps.is_available(),
        },
    }


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _key() -> str:
    """Name what the measurement depends on: processor, its instructions, torch, the sizes tried."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{cpu_model()} | {instructions} | torch {torch.__version__} | {cores()} cores | {SIZES}"


def _operands(size: tuple[int, int, int, bool, bool], draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return normal random operands of a product, as transposed views where the size says so."""
    rows, inner, columns, flip_left, flip_right = size
    left = torch.randn((inner, rows) if flip_left else (rows, inner), generator=draw)
    right = torch.randn((columns, inner) if flip_right else (inner, columns), generator=draw)
    return (left.T if flip_left else left), (right.T if flip_right else right)


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Put torch's matmul precision and threads back."""
    old, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(old)
        torch.set_num_threads(threads)


def _cache_file() -> Path:
    """Return where measurements are kept."""
    return Path(platformdirs.user_cache_dir("layerwise")) / "matmul.json"


def _read_cache() -> dict[str, Matmul]:
    """Return the measurements kept, or none where the file is absent, unreadable, damaged or foreign."""
    try:
        path = _cache_file()
        if not is_plain_file(path, root=path.parent) or path.stat().st_size > LARGEST:
            return {}
        kept: dict[str, Matmul] = decode_json(path.read_bytes(), what=str(path), as_type=dict[str, Matmul])
    except (OSError, LayerwiseError):
        return {}
    return {key: one for key, one in kept.items() if one.chosen in ROUTES and one.key == key}


def _write_cache(kept: dict[str, Matmul]) -> None:
    """Write beside, then rename; a home that cannot be written is no error."""
    with suppress(OSError, LayerwiseError):
        path = _cache_file()
        make_folder(path.parent)
        write_file(path, msgspec.json.encode(kept))


def _allocators(name: str) -> Any:
    """Return a function of glibc's allocator; None off glibc, and where somebody asked for another setting of it."""
    if not _glibc() or not _malloc_is_ours():
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None


def _glibc() -> bool:
    """Whether this is 64-bit Linux on glibc."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        return False
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


def _malloc_is_ours() -> bool:
    """Whether nobody asked for another allocator setting."""
    tuned = any(os.environ.get(name.replace("M_", "MALLOC_", 1) + "_") for name in THRESHOLDS)
    tunables = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return not tuned and not tunables and os.environ.get("LAYERWISE_MALLOC") != "system"

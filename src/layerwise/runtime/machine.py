"""What the machine is and does best: the faster fp32 route, the allocator. Measured once, shown by ``doctor``.

Each function that chooses a setting documents the measurements behind it.
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
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.bounded_decoding import decode_json
from layerwise.runtime.openmp import find_torch_openmp
from layerwise.runtime.resources import count_cores
from layerwise.runtime.write_checks import is_plain_file

# (rows, inner, columns, left transposed, right transposed): a dense layer forward, its ∂W, larger ones
SIZES = (
    (128, 784, 256, False, True),
    (256, 128, 784, True, False),
    (64, 400, 120, False, True),
    (256, 1024, 1024, False, True),
    (1024, 256, 1024, True, False),
)
MAX_CACHE_BYTES = 1 << 20
MATMUL_PRECISIONS = ("highest", "medium")
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


class ProductTrial(msgspec.Struct, frozen=True):
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


class MatmulTrial(msgspec.Struct, frozen=True):
    """The trial of the two fp32 routes: every number, what was chosen and why."""

    key: str
    products: list[ProductTrial]
    speedup: float
    error_ratio: float
    chosen: str
    why: str


def get_matmul_precision() -> str:
    """Return the fastest ``torch.set_float32_matmul_precision`` value that keeps the accuracy of float32 on this
    machine.

    Measured once per machine and cached in the user's folder; ``LAYERWISE_MATMUL=highest`` (or ``medium``)
    overrides it.
    """
    wanted = os.environ.get("LAYERWISE_MATMUL")
    if wanted is None:
        return get_matmul_trial().chosen
    if wanted not in MATMUL_PRECISIONS:
        raise UsageError(
            "LAYERWISE_MATMUL is not a matmul precision",
            expected=" or ".join(MATMUL_PRECISIONS),
            received=f"'{wanted}'",
        )
    return wanted


def get_matmul_trial() -> MatmulTrial:
    """Return this machine's measurement from the cache; if there is none, measure and cache it if possible."""
    key = _make_key()
    trials = _read_cache()
    if key not in trials:
        trials[key] = measure_matmul()
        _write_cache(trials)
    return trials[key]


def measure_matmul() -> MatmulTrial:
    """Try both routes on products of the sizes at hand, alternating, on the CPU. Takes about 0.3 s.

    "medium" is chosen where its largest error against float64 is at most `ERROR_LIMIT` times that of
    "highest", the time falls by `GAIN` in geometric mean and no size is slower than `LOSS`. torch's
    settings and random state are restored. One thread, since a neighbor on one of our cores makes
    two-thread times collapse (every product took 16 ms instead of 0.4 to 4), and such an accident would be
    cached.
    """
    rng = torch.Generator().manual_seed(1)
    pairs = [_draw_operands(size, rng) for size in SIZES]
    times: dict[str, list[list[float]]] = {route: [[] for _ in SIZES] for route in MATMUL_PRECISIONS}
    errors: dict[str, list[float]] = {}
    with _restore_settings(), torch.inference_mode():
        torch.set_num_threads(1)
        exact = [left.double() @ right.double() for left, right in pairs]
        for route in MATMUL_PRECISIONS:  # also the warm-up
            torch.set_float32_matmul_precision(route)
            errors[route] = [
                float((left @ right - true).abs().max() / true.abs().max())
                for (left, right), true in zip(pairs, exact, strict=True)
            ]
        start = time.perf_counter()
        for number in range(ROUNDS):
            if number >= 3 and time.perf_counter() - start > SECONDS:
                break
            for route in MATMUL_PRECISIONS if number % 2 == 0 else MATMUL_PRECISIONS[::-1]:
                torch.set_float32_matmul_precision(route)
                for seconds, (left, right) in zip(times[route], pairs, strict=True):
                    begin = time.perf_counter()
                    torch.mm(left, right)
                    seconds.append(time.perf_counter() - begin)
    products = [
        ProductTrial(*size[:3], median(slow), median(fast), slow_error, fast_error)
        for size, slow, fast, slow_error, fast_error in zip(
            SIZES, times["highest"], times["medium"], errors["highest"], errors["medium"], strict=True
        )
    ]
    return choose_matmul_precision(products)


def choose_matmul_precision(products: list[ProductTrial]) -> MatmulTrial:
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
    return MatmulTrial(_make_key(), products, speedup, ratio, chosen, why)


def keep_large_buffers() -> bool:
    """Raise glibc's thresholds so that large buffers stay with the process. Return whether they now do.

    By default glibc maps each large buffer anew and releases it at once: every page of it faults on
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
    mallopt = _find_allocator_function("mallopt")
    if mallopt is None:
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    results = [mallopt(number, value) for number, value in THRESHOLDS.values()]
    return all(result == 1 for result in results)


def release_free_memory() -> None:
    """Return free memory to the system where `keep_large_buffers` lets glibc keep it; a no-op elsewhere.

    For the border between phases: the next phase does not reuse the gaps that the last one leaves free.
    """
    trim = _find_allocator_function("malloc_trim")
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
        "cpu": {"model": get_cpu_model(), "instructions": instructions, "cores": count_cores()},
        "memory": {"total": int(memory.total), "available": int(memory.available)},
        "torch": {
            "version": torch.__version__,
            "threads": torch.get_num_threads(),
            "mkl": torch.backends.mkl.is_available(),
            "onednn": torch.backends.mkldnn.is_available(),
            "build": torch.__config__.show(),
        },
        "openmp": openmp.name if (openmp := find_torch_openmp()) else None,
        "matmul": {"precision": get_matmul_precision(), "measured": msgspec.to_builtins(get_matmul_trial())},
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


def get_cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _make_key() -> str:
    """Return what the measurement depends on, as a key: processor, its instructions, torch, the sizes tried."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{get_cpu_model()} | {instructions} | torch {torch.__version__} | {count_cores()} cores | {SIZES}"


def _draw_operands(size: tuple[int, int, int, bool, bool], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return normal random operands of a product, as transposed views where the size says so."""
    rows, inner, columns, flip_left, flip_right = size
    left = torch.randn((inner, rows) if flip_left else (rows, inner), generator=rng)
    right = torch.randn((columns, inner) if flip_right else (inner, columns), generator=rng)
    return (left.T if flip_left else left), (right.T if flip_right else right)


@contextmanager
def _restore_settings() -> Iterator[None]:
    """Restore torch's matmul precision and threads after the block."""
    old, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(old)
        torch.set_num_threads(threads)


def _get_cache_path() -> Path:
    """Return the file that caches measurements."""
    return Path(platformdirs.user_cache_dir("layerwise")) / "matmul.json"


def _read_cache() -> dict[str, MatmulTrial]:
    """Return the cached measurements, or none where the file is absent, unreadable, damaged or foreign."""
    try:
        path = _get_cache_path()
        if not is_plain_file(path, root=path.parent) or path.stat().st_size > MAX_CACHE_BYTES:
            return {}
        trials: dict[str, MatmulTrial] = decode_json(path.read_bytes(), what=str(path), as_type=dict[str, MatmulTrial])
    except (OSError, LayerwiseError):
        return {}
    return {key: one for key, one in trials.items() if one.chosen in MATMUL_PRECISIONS and one.key == key}


def _write_cache(trials: dict[str, MatmulTrial]) -> None:
    """Write the measurements to the cache; a folder that cannot be written is no error."""
    with suppress(OSError, LayerwiseError):
        path = _get_cache_path()
        make_folder(path.parent)
        write_file(path, msgspec.json.encode(trials))


def _find_allocator_function(name: str) -> Any:
    """Return a function of glibc's allocator; None off glibc, and where somebody asked for another setting of it."""
    if not _is_glibc() or not _is_malloc_untuned():
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None


def _is_glibc() -> bool:
    """Whether this is 64-bit Linux on glibc."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        return False
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


def _is_malloc_untuned() -> bool:
    """Whether nobody asked for another allocator setting."""
    tuned = any(os.environ.get(name.replace("M_", "MALLOC_", 1) + "_") for name in THRESHOLDS)
    tunables = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return not tuned and not tunables and os.environ.get("LAYERWISE_MALLOC") != "system"

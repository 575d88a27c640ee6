"""The OpenMP library on whose threads torch's CPU kernels run, and how long its waiting threads spin.

Torch is imported only where it is needed: the spinning must be limited before libgomp is loaded.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from layerwise.runtime.resources import count_cores

ENTRY_POINT = "GOMP_parallel"  # GNU's; LLVM's and Intel's have it too
SPIN_COUNT = "GOMP_SPINCOUNT"
SPIN_VARIABLES = (SPIN_COUNT, "OMP_WAIT_POLICY")
SPINS = 1000  # a few microseconds; libgomp's own 300,000 are about a millisecond
LOAD_FILE = Path("/proc/loadavg")
LOAD_CHECKS, CHECK_INTERVAL = 5, 0.002  # seconds


def limit_spinning() -> None:
    """Let the threads of GNU OpenMP, which torch's CPU kernels use, sleep soon when they wait, if other programs keep
    our cores busy.

    A thread that spins uses up the time that it is then refused when its work comes: beside a neighbor on one of two
    cores a small network trained at half its speed (``layerwise bench neighbor``). Alone, spinning is right: the next
    kernel comes at once. Settings of the user's environment are not changed. Linux only.
    """
    if not any(name in os.environ for name in SPIN_VARIABLES) and cores_are_busy():
        os.environ[SPIN_COUNT] = str(SPINS)


def cores_are_busy() -> bool:
    """Whether other programs leave fewer cores free than we may use, at each of five checks within ten milliseconds."""
    try:
        for number in range(LOAD_CHECKS):
            time.sleep(CHECK_INTERVAL if number else 0)
            running = int(LOAD_FILE.read_text().split()[3].partition("/")[0])  # now, with us
            if (os.cpu_count() or 1) - (running - 1) >= count_cores():
                return False
    except (OSError, ValueError, IndexError):
        return False
    return True


@cache
def find_torch_openmp() -> Path | None:
    """Return the library that torch has loaded: the one in torch's folder, or the only one. None if there is none with
    GNU's entry point."""
    import torch
    from threadpoolctl import threadpool_info

    paths = [Path(library["filepath"]) for library in threadpool_info() if library["user_api"] == "openmp"]
    of_torch = [path for path in paths if Path(torch.__file__).parent in path.parents]
    candidates = of_torch or (paths if len(paths) == 1 else [])
    return next((path for path in candidates if _load_entry_point(path) is not None), None)


def call_in_parallel(library: Path, function: int, data: int, threads: int) -> None:
    """Call a C function (by its address) with one address on so many of the library's threads, this one among them,
    and wait for all."""
    _load_entry_point(library)(function, data, threads, 0)


@cache
def _load_entry_point(library: Path) -> Any:
    """Return the library's entry point as ctypes calls it; None if it has none."""
    import ctypes  # `--help` does without

    entry = getattr(ctypes.CDLL(str(library)), ENTRY_POINT, None)
    if entry is not None:
        entry.argtypes, entry.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return entry

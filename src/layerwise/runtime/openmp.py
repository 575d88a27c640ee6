"""The OpenMP on whose threads torch's CPU kernels run."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info

ENTRY = "GOMP_parallel"  # GNU's; LLVM's and Intel's have it too


@cache
def torchs_openmp() -> Path | None:
    """Return the library that torch has loaded: the one beside torch, or the only one. None if there is none that has
    GNU's entry."""
    places = [Path(found["filepath"]) for found in threadpool_info() if found["user_api"] == "openmp"]
    beside = [place for place in places if Path(torch.__file__).parent in place.parents]
    return next((place for place in beside or (places if len(places) == 1 else []) if _entry(place) is not None), None)


def in_parallel(library: Path, function: int, data: int, threads: int) -> None:
    """Have so many of its threads, this one among them, call a C function (its address) with an address, and wait for
    all."""
    _entry(library)(function, data, threads, 0)


@cache
def _entry(library: Path) -> Any:
    """Return the library's entry as ctypes calls it; None if it has none."""
    found = getattr(ctypes.CDLL(str(library)), ENTRY, None)
    if found is not None:
        found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return found

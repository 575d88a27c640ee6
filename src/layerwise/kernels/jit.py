"""How kernels are compiled: without the GIL, cached on disk where possible; and SplitMix64 for compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
import numpy as np

# Only what a vectorized sum needs: terms in any order, fused multiply-add. NaN stays NaN.
REORDER = {"reassoc", "contract"}


def compile_kernel(function: Callable[..., Any], *, fastmath: set[str] | bool = REORDER, inline: bool = False) -> Any:
    """Compile a function without the GIL, cached on disk, or in memory where neither the package nor the user's cache
    is writable.

    ``inline``: inline the function into its callers.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "inline": "always" if inline else "never"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "no locator available", a read-only install and a read-only home
        return numba.njit(**options)(function)


def compile_entry(function: Callable[[int], None]) -> Callable[[], int]:
    """Return a function that returns the address of a kernel for `kernels.parallel`: a C function, compiled on first
    use."""
    signature = numba.types.void(numba.types.int64)

    @cache
    def compile_once() -> Any:
        try:
            return numba.cfunc(signature, cache=True, error_model="numpy")(function)
        except RuntimeError:
            return numba.cfunc(signature, error_model="numpy")(function)

    return lambda: int(compile_once().address)


@partial(compile_kernel, inline=True)
def mix64(z: np.uint64) -> np.uint64:
    """Return SplitMix64's output for a state (Steele, Lea, Flood 2014), which grows by `runtime.rng.GOLDEN` for each
    draw."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

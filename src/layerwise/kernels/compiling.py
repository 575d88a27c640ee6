"""How every kernel of this room is compiled: without the GIL, kept on disk where that can be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba

# Only what a vectorized sum needs: terms in any order, fused multiply-add. NaN stays NaN.
REORDER = {"reassoc", "contract"}


def compiled(function: Callable[..., Any], *, fastmath: set[str] | bool = REORDER, inline: bool = False) -> Any:
    """Compile without the GIL, kept on disk; in memory where package and user's cache cannot be written.

    ``inline``: the function is a part of others and is written into them.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "inline": "always" if inline else "never"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba: "no locator available", a read-only install and a read-only home
        return numba.njit(**options)(function)


def entry(function: Callable[[int], None]) -> Callable[[], int]:
    """Return what gives the address of a kernel for `kernels.team`: its C function, compiled when first asked for."""
    signature = numba.types.void(numba.types.int64)

    @cache
    def made() -> Any:
        try:
            return numba.cfunc(signature, cache=True, error_model="numpy")(function)
        except RuntimeError:
            return numba.cfunc(signature, error_model="numpy")(function)

    return lambda: int(made().address)

"""Rosenblatt's rule over a batch, example by example, as a compiled loop (E09).

Shapes: ``N`` examples, ``D`` features, ``K`` classes, one against the rest. The idea: a class's weights never meet another
class's, so the classes are split over Python threads (the loop releases the GIL) and any split gives the same bits.

Source: F. Rosenblatt, The perceptron (1958).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from layerwise.errors import UsageError

Floats = NDArray[np.float32]
Signs = NDArray[np.float32] | NDArray[np.int8]
# Only what a vectorised dot product needs: sums in any order, fused multiply-add. NaN and infinity keep their meaning.
REORDER = {"reassoc", "contract"}


def _compiled(function: Callable[..., None]) -> Any:
    """Compile without the GIL, kept on disk; where neither the package nor the user's cache can be written, in memory."""
    try:
        return numba.njit(nogil=True, cache=True, fastmath=REORDER)(function)
    except RuntimeError:  # numba: "no locator available", a read-only install and a read-only home
        return numba.njit(nogil=True, fastmath=REORDER)(function)


def _rosenblatt(
    X: Floats,
    Y: Signs,
    W: Floats,
    b: Floats,
    rate: np.float32,
    first: int,
    last: int,
    mistakes: NDArray[np.int64],
) -> None:
    """Apply the rule for classes first ≤ k < last, examples in order; W, b and mistakes change in place."""
    features = X.shape[1]
    for n in range(X.shape[0]):
        x = X[n]
        for k in range(first, last):
            w = W[k]
            z = np.float32(0.0)
            for d in range(features):
                z += w[d] * x[d]
            y = np.float32(Y[n, k])
            if not y * (z + b[k]) > 0:  # y·z ≤ 0; a NaN counts as a mistake too
                step = rate * y
                for d in range(features):
                    w[d] += step * x[d]
                b[k] += step
                mistakes[k] += 1


_run = _compiled(_rosenblatt)


def update(
    X: Floats,
    Y: Signs,
    *,
    weights: Floats,
    bias: Floats,
    rate: float = 1.0,
    pool: Executor | None = None,
    threads: int = 1,
) -> NDArray[np.int64]:
    """Apply Rosenblatt's rule to each example in order, for every class, in place (E09).

    When y·z ≤ 0 with z = w·x + b: w ← w + η y x, b ← b + η y. The result does not depend on ``threads``.

    Args:
        X: examples (N, D) float32, C-contiguous.
        Y: labels (N, K) in {−1, +1}, float32 or int8, C-contiguous.
        weights: W (K, D) float32, C-contiguous, changed in place.
        bias: b (K,) float32, changed in place.
        rate: η.
        pool: the threads to run on, with ``threads − 1`` workers (the calling thread works too); without one, the
            calling thread does it all.
        threads: into how many parts the classes are split.

    Returns:
        how often each class was mistaken, (K,) int64.
    """
    _check(X, Y, weights, bias)
    classes = len(weights)
    mistakes = np.zeros(classes, dtype=np.int64)
    parts = min(threads, classes) if pool is not None else 1
    edges = [classes * part // max(parts, 1) for part in range(max(parts, 1) + 1)]
    eta = np.float32(rate)
    others = [
        pool.submit(_run, X, Y, weights, bias, eta, edges[part], edges[part + 1], mistakes)
        for part in range(1, parts)
        if pool is not None
    ]
    try:
        _run(X, Y, weights, bias, eta, edges[0], edges[1], mistakes)
    finally:
        for other in others:
            other.result()
    return mistakes


def _check(X: Floats, Y: Signs, weights: Floats, bias: Floats) -> None:
    """Refuse what the compiled loop would read wrongly: it checks no bounds."""
    want = {
        "X": (X, ("float32",), ("N", "D")),
        "Y": (Y, ("float32", "int8"), (len(X), len(weights))),
        "weights": (weights, ("float32",), ("K", X.shape[1] if X.ndim == 2 else "D")),
        "bias": (bias, ("float32",), (len(weights),)),
    }
    for name, (array, types, shape) in want.items():
        fits = array.ndim == len(shape) and all(
            isinstance(side, str) or side == size for side, size in zip(shape, array.shape, strict=True)
        )
        if not fits or str(array.dtype) not in types or not array.flags.c_contiguous:
            layout = "C-contiguous" if array.flags.c_contiguous else "strided"
            raise UsageError(
                f"the perceptron's kernel cannot take {name}",
                expected=f"a C-contiguous array ({', '.join(str(side) for side in shape)}) of {' or '.join(types)}",
                received=f"a {layout} array {array.shape} of {array.dtype}",
            )

"""Rosenblatt's rule over a batch, example by example, as a compiled loop (E09).

Shapes: ``N`` examples, ``D`` features, ``K`` classes, one against the rest. The idea: a class's weights
never meet another class's, so the classes are split over Python threads (the loop releases the GIL) and
any split gives the same bits.

Source: F. Rosenblatt, The perceptron (1958).
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.errors import UsageError
from layerwise.kernels.compiling import compiled
from layerwise.kernels.threads import over_parts

Floats = NDArray[np.float32]
Signs = NDArray[np.float32] | NDArray[np.int8]
Counts = NDArray[np.int64]
GROUP = 5  # classes whose dot products are taken together; threads get whole groups, so that sums stay the same
# Another thread costs some tenths of a millisecond; below so many multiply-adds it did not pay.
WORTH_SPLITTING = 1 << 26


def _rosenblatt(
    X: Floats, Y: Signs, W: Floats, b: Floats, rate: np.float32, first: int, last: int, mistakes: Counts
) -> None:
    """Apply the rule for classes first ≤ k < last, examples in order; W, b and mistakes change in place.

    `GROUP` classes share each load of x and hide each other's latency: 1.7 times as fast as one by one.
    """
    features = X.shape[1]
    products = np.empty(GROUP, dtype=np.float32)
    for n in range(X.shape[0]):
        x = X[n]
        for start in range(first, last, GROUP):
            stop = min(start + GROUP, last)
            if stop - start == GROUP:
                w0, w1, w2, w3, w4 = W[start], W[start + 1], W[start + 2], W[start + 3], W[start + 4]
                z0 = z1 = z2 = z3 = z4 = np.float32(0.0)
                for d in range(features):
                    z0 += w0[d] * x[d]
                    z1 += w1[d] * x[d]
                    z2 += w2[d] * x[d]
                    z3 += w3[d] * x[d]
                    z4 += w4[d] * x[d]
                products[0], products[1], products[2], products[3], products[4] = z0, z1, z2, z3, z4
            else:
                for k in range(start, stop):
                    w, z = W[k], np.float32(0.0)
                    for d in range(features):
                        z += w[d] * x[d]
                    products[k - start] = z
            for k in range(start, stop):
                y = np.float32(Y[n, k])
                if not y * (products[k - start] + b[k]) > 0:  # y·z ≤ 0; a NaN counts as a mistake too
                    w, step = W[k], rate * y
                    for d in range(features):
                        w[d] += step * x[d]
                    b[k] += step
                    mistakes[k] += 1


_run = compiled(_rosenblatt)


def update(
    X: Floats,
    Y: Signs,
    W: Floats,
    b: Floats,
    *,
    eta: float = 1.0,
    mistakes: Counts | None = None,
    pool: Executor | None = None,
    threads: int | None = None,
) -> Counts:
    """Apply Rosenblatt's rule to each example in order, for every class, in place (E09).

    When y·z ≤ 0 with z = w·x + b: w ← w + η y x, b ← b + η y. The result does not depend on ``threads``.

    Args:
        X: examples (N, D) float32, C-contiguous like all arrays here.
        Y: labels (N, K) in {−1, +1}, float32 or int8.
        W: weights (K, D) float32, changed in place.
        b: bias (K,) float32, changed in place.
        eta: η.
        mistakes: counts (K,) int64 that this call's mistakes are added to; made when not given.
        pool: Python threads to run on, ``threads − 1`` of them (the calling thread works too); made for the
            call when not given.
        threads: into how many parts the classes are split, where the batch is worth it (`WORTH_SPLITTING`);
            torch's number of threads when not given.

    Returns:
        ``mistakes``: how often each class was mistaken.
    """
    counts = np.zeros(len(W), dtype=np.int64) if mistakes is None else mistakes
    _check(X, Y, W, b, counts)
    classes, rate = len(W), np.float32(eta)
    wanted = torch.get_num_threads() if threads is None else threads
    groups = -(-classes // GROUP)
    parts = max(1, min(wanted, groups)) if X.size * classes >= WORTH_SPLITTING else 1
    edges = [min(classes, groups * part // parts * GROUP) for part in range(parts + 1)]
    over_parts(lambda first, last: _run(X, Y, W, b, rate, first, last, counts), edges, pool)
    return counts


def _check(X: Floats, Y: Signs, W: Floats, b: Floats, mistakes: Counts) -> None:
    """Refuse what the compiled loop would read wrongly: it checks no bounds."""
    want = {
        "X": (X, ("float32",), ("N", "D")),
        "W": (W, ("float32",), ("K", X.shape[-1])),
        "Y": (Y, ("float32", "int8"), (len(X), len(W))),
        "b": (b, ("float32",), (len(W),)),
        "mistakes": (mistakes, ("int64",), (len(W),)),
    }
    for name, (array, types, shape) in want.items():
        fits = array.ndim == len(shape) and all(
            isinstance(side, str) or side == size for side, size in zip(shape, array.shape, strict=True)
        )
        if not fits or str(array.dtype) not in types or not array.flags.c_contiguous:
            layout = "C-contiguous" if array.flags.c_contiguous else "strided"
            wanted = ", ".join(str(side) for side in shape)
            raise UsageError(
                f"the perceptron's kernel cannot take {name}",
                expected=f"a C-contiguous array ({wanted}) of {' or '.join(types)}",
                received=f"a {layout} array {array.shape} of {array.dtype}",
            )

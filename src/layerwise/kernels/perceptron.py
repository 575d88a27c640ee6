"""Rosenblatt's rule over a batch, example by example, as a compiled loop (E09).

Shapes: ``N`` examples, ``D`` features, ``K`` classes, one against the rest. The weights of different classes are
independent, so the classes are split over Python threads (the loop releases the GIL), and any split gives the same
bits.

Source: F. Rosenblatt, The perceptron (1958).
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.errors import UsageError
from layerwise.kernels.jit import compile_kernel
from layerwise.kernels.parallel import run_parts

Floats = NDArray[np.float32]
Signs = NDArray[np.float32] | NDArray[np.int8]
Counts = NDArray[np.int64]
GROUP = 5  # classes whose dot products are computed together; threads get complete groups, so that sums stay the same
# Another thread costs some tenths of a millisecond; below this many multiply-adds it did not pay off.
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


_run = compile_kernel(_rosenblatt)


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
        mistakes: counts (K,) int64 to which this call's mistakes are added; new zeros if None.
        pool: an executor with ``threads − 1`` threads (the calling thread works too); created for the call if None.
        threads: into how many parts the classes are split, for batches of at least `WORTH_SPLITTING`; torch's number
            of threads if None.

    Returns:
        ``mistakes``: the number of mistakes for each class.
    """
    counts = np.zeros(len(W), dtype=np.int64) if mistakes is None else mistakes
    _check(X, Y, W, b, counts)
    classes, rate = len(W), np.float32(eta)
    parts_wanted = torch.get_num_threads() if threads is None else threads
    groups = -(-classes // GROUP)
    parts = max(1, min(parts_wanted, groups)) if X.size * classes >= WORTH_SPLITTING else 1
    edges = [min(classes, groups * part // parts * GROUP) for part in range(parts + 1)]
    run_parts(lambda first, last: _run(X, Y, W, b, rate, first, last, counts), edges, pool)
    return counts


def _check(X: Floats, Y: Signs, W: Floats, b: Floats, mistakes: Counts) -> None:
    """Raise `UsageError` for arrays of wrong shape, type or layout: the compiled loop checks no bounds."""
    checks = {
        "X": (X, ("float32",), ("N", "D")),
        "W": (W, ("float32",), ("K", X.shape[-1])),
        "Y": (Y, ("float32", "int8"), (len(X), len(W))),
        "b": (b, ("float32",), (len(W),)),
        "mistakes": (mistakes, ("int64",), (len(W),)),
    }
    for name, (array, types, shape) in checks.items():
        matches = array.ndim == len(shape) and all(
            isinstance(side, str) or side == size for side, size in zip(shape, array.shape, strict=True)
        )
        if not matches or str(array.dtype) not in types or not array.flags.c_contiguous:
            layout = "C-contiguous" if array.flags.c_contiguous else "strided"
            expected = ", ".join(str(side) for side in shape)
            raise UsageError(
                f"the perceptron's kernel cannot take {name}",
                expected=f"a C-contiguous array ({expected}) of {' or '.join(types)}",
                received=f"a {layout} array {array.shape} of {array.dtype}",
            )

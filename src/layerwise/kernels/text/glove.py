"""GloVe's step over a batch of co-occurrences, in place and on threads without locks (E31).

Shapes: ``N`` records, ``V`` words, ``D`` dimensions. Most of the time is spent on loading rows: each record changes
16·D bytes somewhere in the tables. So rows are prefetched a few records ahead, and records sorted by i (as
`cooccurrence.distribute` writes them) find row i in the cache.

Source: J. Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word Representation (2014). AdaGrad as in their
program: sums of squares start at 1 and are of steps η g, not of gradients; gradients are clipped at 100.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.errors import UsageError
from layerwise.kernels.jit import compile_kernel
from layerwise.kernels.parallel import run_parts, split_range
from layerwise.kernels.simd import LANES
from layerwise.kernels.text import simd_rows

Floats = NDArray[np.float32]
CLIP = 100.0  # a gradient's largest absolute value
AHEAD = 4  # records between prefetching a row and using it


class Tables(NamedTuple):
    """Numbers of each word as word and as context, float32: the parameters of GloVe, or their sums of squares.

    ``vectors`` W (V, D), ``context`` W̃ (V, D), ``bias`` b (V,), ``context_bias`` b̃ (V,).
    """

    vectors: Floats
    context: Floats
    bias: Floats
    context_bias: Floats


@compile_kernel
def _find_invalid(records: Floats, words: int) -> int:
    """Return the index of the first record with unknown words or with a count that is NaN or below 0; −1 if there is
    none."""
    for n in range(len(records)):
        if not (0 <= records[n, 0] < words and 0 <= records[n, 1] < words and records[n, 2] >= 0):
            return n
    return -1


@compile_kernel
def _take_clipped_step(
    w: Floats, v: Floats, w2: Floats, v2: Floats, slope: np.float32, lr: np.float32, clip: np.float32
) -> None:
    """Take the step of two rows (D,) with each entry of the gradient clipped at ±clip."""
    for d in range(len(w)):
        x, y, s, t = w[d], v[d], w2[d], v2[d]
        g = min(max(slope * y, -clip), clip) * lr
        h = min(max(slope * x, -clip), clip) * lr
        w[d] = x - g / np.sqrt(s)
        v[d] = y - h / np.sqrt(t)
        w2[d] = s + g * g
        v2[d] = t + h * h


@compile_kernel
def _run(
    records: Floats,
    logs: Floats,
    shares: Floats,
    W: Floats,
    C: Floats,
    b: Floats,
    c: Floats,
    W2: Floats,
    C2: Floats,
    b2: Floats,
    c2: Floats,
    lr: np.float32,
    clip: np.float32,
) -> float:
    """Learn from the records in order; return the sum of f(X)·diff², each before its step."""
    loss, last, width, stride = 0.0, len(records) - 1, W.shape[1], W.strides[0]
    at_w, at_c, at_w2, at_c2 = W.ctypes.data, C.ctypes.data, W2.ctypes.data, C2.ctypes.data
    sums = np.empty(LANES, dtype=np.float32)
    prefetched = np.int64(-1)
    for n in range(len(records)):
        ahead = min(n + AHEAD, last)
        i, j = np.int64(records[ahead, 0]), np.int64(records[ahead, 1])
        if i != prefetched:  # records come in the order of i
            simd_rows.prefetch(at_w + i * stride, width)
            simd_rows.prefetch(at_w2 + i * stride, width)
            prefetched = i
        simd_rows.prefetch(at_c + j * stride, width)
        simd_rows.prefetch(at_c2 + j * stride, width)
        if records[n, 2] == 0:
            continue
        i, j = np.int64(records[n, 0]), np.int64(records[n, 1])
        w, v, w2, v2 = at_w + i * stride, at_c + j * stride, at_w2 + i * stride, at_c2 + j * stride
        simd_rows.dot_and_squares(w, v, width, sums.ctypes.data)
        diff = sums[0] + b[i] + c[j] - logs[n]
        slope = shares[n] * diff
        loss += float(slope) * float(diff)
        if slope * slope * max(sums[1], sums[2]) <= clip * clip:  # no entry of the gradient is clipped: the common case
            simd_rows.adagrad(w, v, w2, v2, slope * lr, width)
        else:
            _take_clipped_step(W[i], C[j], W2[i], C2[j], slope, lr, clip)
        g = min(max(slope, -clip), clip) * lr
        b[i] -= g / np.sqrt(b2[i])
        c[j] -= g / np.sqrt(c2[j])
        b2[i] += g * g
        c2[j] += g * g
    return loss


def update(
    records: Floats,
    parameters: Tables,
    squares: Tables,
    *,
    x_max: float = 100.0,
    alpha: float = 0.75,
    lr: float = 0.05,
    pool: Executor | None = None,
    threads: int | None = None,
) -> float:
    """Take an AdaGrad step on f(X)(wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ − log X)² / 2 for each record in order, in place (E31).

    With g the gradient, clipped at ±`CLIP`: θ ← θ − η g/√s, then s ← s + (η g)². One thread gives the same bits every
    time. Several threads each take a range of the records and write without locks (Recht et al. 2011), so that results
    differ a little between runs.

    Args:
        records: (N, 3) float32: i, j and X; records with X = 0 (padding of a block) are skipped. C-contiguous like all
            arrays here.
        parameters: changed in place.
        squares: s, changed in place; ones at the start.
        x_max: from this count on f is 1.
        alpha: f(x) = (x/x_max)^alpha below.
        lr: η.
        pool: an executor with ``threads − 1`` threads (the calling thread works too); created for the call if None.
        threads: into how many parts the records are split; torch's number of threads if None.

    Returns:
        The sum of f(X)·diff² over the records (E31's J), each before its step: twice the sum of the authors'
        program. Not finite if the steps diverged.

    Raises:
        UsageError: for arrays of another shape or type, for words that the tables do not have, and for counts below 0.
    """
    _check(records, parameters, squares)

    def run(first: int, last: int) -> float:
        part = records[first:last]
        with np.errstate(divide="ignore"):  # X = 0
            logs = np.log(part[:, 2])
        shares = np.exp(np.float32(alpha) * np.minimum(logs - np.float32(np.log(x_max)), np.float32(0.0)))
        return float(_run(part, logs, shares, *parameters, *squares, np.float32(lr), np.float32(CLIP)))

    parts = max(1, torch.get_num_threads() if threads is None else threads)
    return sum(run_parts(run, split_range(len(records), parts), pool))


def _check(records: Floats, parameters: Tables, squares: Tables) -> None:
    """Raise `UsageError` for arrays of wrong shape, type or layout: the compiled loop checks no bounds."""
    words, width = parameters.vectors.shape if parameters.vectors.ndim == 2 else (0, 0)
    for name, array, shape in _expected_shapes(records, parameters, squares, words, width):
        if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
            layout = "C-contiguous" if array.flags.c_contiguous else "strided"
            raise UsageError(
                f"GloVe's kernel cannot take {name}",
                expected=f"a C-contiguous array {shape} of float32",
                received=f"a {layout} array {array.shape} of {array.dtype}",
            )
    position = _find_invalid(records, words)
    if position >= 0:
        i, j, count = records[position].tolist()
        raise UsageError(
            f"co-occurrence {position} is none",
            expected=f"words from 0 to {words - 1} and a count of at least 0",
            received=f"words {i:g} and {j:g}, count {count:g}",
        )


def _expected_shapes(
    records: Floats, parameters: Tables, squares: Tables, words: int, width: int
) -> Iterator[tuple[str, Floats, tuple[int, ...]]]:
    """Yield each array with its name and the shape it must have."""
    yield "the records", records, (len(records), 3)
    for kind, tables in (("parameters", parameters), ("squares", squares)):
        for name, array in zip(Tables._fields, tables, strict=True):
            yield f"{kind}.{name}", array, (words, width) if name in ("vectors", "context") else (words,)

"""GloVe's step over a batch of co-occurrences, in place and on threads without locks (E31).

Shapes: ``N`` records, ``V`` words, ``D`` dimensions. Source: J. Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word
Representation (2014); AdaGrad as in their program (sums of squares start at 1 and hold squares of steps, gradients are clipped at 100).
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.errors import UsageError
from layerwise.kernels.compiling import compiled as _compiled

Floats = NDArray[np.float32]
CLIP = 100.0  # the most that a gradient may be, as in the authors' program


def _steps(
    records: Floats, logs: Floats, shares: Floats, W: Floats, C: Floats, b: Floats, c: Floats,
    W2: Floats, C2: Floats, b2: Floats, c2: Floats, lr: np.float32, clip: np.float32,
) -> np.float64:  # fmt: skip
    """Learn from the records in order; return the sum of f(X)·diff² of each before its step."""
    loss = 0.0
    for n in range(len(records)):
        i, j = int(records[n, 0]), int(records[n, 1])
        w, v, w2, v2 = W[i], C[j], W2[i], C2[j]
        z = np.float32(0.0)
        for d in range(W.shape[1]):
            z += w[d] * v[d]
        diff = z + b[i] + c[j] - logs[n]
        pull = shares[n] * diff
        loss += np.float64(pull) * np.float64(diff)
        for d in range(W.shape[1]):
            x, y = w[d], v[d]
            g = min(max(pull * y, -clip), clip) * lr
            h = min(max(pull * x, -clip), clip) * lr
            w[d] = x - g / np.sqrt(w2[d])
            v[d] = y - h / np.sqrt(v2[d])
            w2[d] += g * g
            v2[d] += h * h
        g = min(max(pull, -clip), clip) * lr
        b[i] -= g / np.sqrt(b2[i])
        c[j] -= g / np.sqrt(c2[j])
        b2[i] += g * g
        c2[j] += g * g
    return loss


_run = _compiled(_steps)


def update(
    records: Floats,
    parameters: tuple[Floats, Floats, Floats, Floats],
    squares: tuple[Floats, Floats, Floats, Floats],
    *,
    x_max: float = 100.0,
    alpha: float = 0.75,
    lr: float = 0.05,
    pool: Executor | None = None,
    threads: int | None = None,
) -> float:
    """Take an AdaGrad step on f(X)(wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ − log X)² / 2 for each record in order, in place (E31).

    With g the gradient, clipped at ±100: θ ← θ − η g/√s, then s ← s + (η g)². One thread gives the same bits again and again; several
    write to the same rows without locks (Recht et al. 2011), so that their result differs a little from run to run.

    Args:
        records: (N, 3) float32: i, j and X > 0. C-contiguous like all arrays here.
        parameters: W (V, D), W̃ (V, D), b (V,), b̃ (V,) float32, changed in place.
        squares: s of the same shapes, changed in place; ones at the start.
        x_max: from this count on f is 1.
        alpha: f(x) = (x/x_max)^alpha below.
        lr: η.
        pool: Python threads to run on, ``threads − 1`` of them; made for the call when not given.
        threads: into how many runs of records the batch is split; torch's number of threads when not given.

    Returns:
        The sum of f(X)·diff² over the records, each before its step: twice what the authors' program adds up.
    """
    wanted = torch.get_num_threads() if threads is None else threads
    edges = [len(records) * part // wanted for part in range(wanted + 1)]

    def run(first: int, last: int) -> float:
        part = records[first:last]
        logs = np.log(part[:, 2])
        shares = np.exp(np.float32(alpha) * np.minimum(logs - np.float32(np.log(x_max)), np.float32(0)))
        return float(_run(part, logs, shares, *parameters, *squares, np.float32(lr), np.float32(CLIP)))

    with ExitStack() as stack:
        hands = pool or (stack.enter_context(ThreadPoolExecutor(wanted - 1)) if wanted > 1 else None)
        others = [hands.submit(run, *edge) for edge in pairwise(edges[1:])] if hands else []
        own = run(edges[0], edges[1])
        return own + sum(other.result() for other in others)

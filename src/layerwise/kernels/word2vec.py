"""word2vec over blocks of tokens, as compiled loops that change the tables in place (E30).

Shapes: ``N`` blocks of ``L`` tokens, ``V`` words, ``D`` dimensions, ``K`` negatives. The idea: a pair's scores are taken in one
pass over its rows and all its rows are changed in a second one (`rows`), so the arithmetic runs at the speed of the processor's
loads and stores; a draw costs a hash and one look into an alias table.

Sources: Mikolov et al., Efficient estimation of word representations in vector space, and Distributed representations of words and
phrases and their compositionality (both 2013); Walker's alias method (1977); SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.kernels import rows
from layerwise.kernels.compiling import compiled
from layerwise.kernels.tokens import END

Tokens = NDArray[np.int32]
Floats = NDArray[np.float32]
States = NDArray[np.uint64]
MOST = 1 << 10  # negatives of a pair at most


@dataclass(frozen=True)
class Covered:
    """What a call went through: the summed loss −log σ, the pairs (or windows) it is of, words of the text, words kept."""

    loss: float
    pairs: int
    words: int
    kept: int


def _mixed(z: np.uint64) -> np.uint64:
    """Return SplitMix64's output for a state."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


GOLDEN = np.uint64(0x9E3779B97F4A7C15)
mix = compiled(_mixed)


def _drawn(bits: np.uint64, alias: NDArray[np.uint32]) -> np.int64:
    """Return a word ∝ the alias table's weights: the high half chooses the column, the low half the column's word or its alias."""
    place = (bits >> np.uint64(32)) * np.uint64(alias.shape[0]) >> np.uint64(32)
    low = np.uint32(bits & np.uint64(0xFFFFFFFF))
    return np.int64(place) if low < alias[place, 0] else np.int64(alias[place, 1])


drawn = compiled(_drawn)


def _sentence(block: Tokens, start: int, keep: Floats, state: np.uint64, out: Tokens) -> tuple[int, int, int, np.uint64]:
    """Take one sentence's words that subsampling keeps. Returns (how many, where the next begins, words seen, state)."""
    count, seen, place = 0, 0, start
    while place < block.shape[0] and block[place] != END:
        word = block[place]
        place += 1
        seen += 1
        if word >= 0:
            state += GOLDEN
            u = np.float32(np.int64(mix(state) >> np.uint64(40))) * np.float32(2.0**-24)
            if u < keep[word]:
                out[count] = word
                count += 1
    return count, place + 1, seen, state


sentence = compiled(_sentence)


def _scores(table: int, stride: int, numbers: int, count: int, x: int, width: int, out: int) -> None:
    """out[r] = table[numbers[r]] · x for r < count, in tiles."""
    for done in range(0, count, 8):
        n, at, to = count - done, numbers + 4 * done, out + 4 * done
        if n >= 8:
            rows.products8(table, stride, at, x, width, to)
        elif n == 6:
            rows.products6(table, stride, at, x, width, to)
        elif n == 5:
            rows.products5(table, stride, at, x, width, to)
        elif n == 4:
            rows.products4(table, stride, at, x, width, to)
        elif n == 3:
            rows.products3(table, stride, at, x, width, to)
        elif n == 2:
            rows.products2(table, stride, at, x, width, to)
        elif n == 1:
            rows.products1(table, stride, at, x, width, to)
        else:
            rows.products7(table, stride, at, x, width, to)


def _changes(table: int, stride: int, numbers: int, count: int, x: int, steps: int, out: int, width: int) -> None:
    """out += Σ steps[r] table[numbers[r]] and table[numbers[r]] += steps[r] x for r < count, in tiles."""
    for done in range(0, count, 8):
        n, at, by = count - done, numbers + 4 * done, steps + 4 * done
        if n >= 8:
            rows.updates8(table, stride, at, x, by, out, width)
        elif n == 6:
            rows.updates6(table, stride, at, x, by, out, width)
        elif n == 5:
            rows.updates5(table, stride, at, x, by, out, width)
        elif n == 4:
            rows.updates4(table, stride, at, x, by, out, width)
        elif n == 3:
            rows.updates3(table, stride, at, x, by, out, width)
        elif n == 2:
            rows.updates2(table, stride, at, x, by, out, width)
        elif n == 1:
            rows.updates1(table, stride, at, x, by, out, width)
        else:
            rows.updates7(table, stride, at, x, by, out, width)


scores, changes = compiled(_scores), compiled(_changes)


def _skipgram(
    blocks: Tokens, first: int, last: int, vectors: Floats, context: Floats, keep: Floats, alias: NDArray[np.uint32], states: States,
    rate: float, slope: float, window: int, negatives: int, found: NDArray[np.float64],
) -> None:  # fmt: skip
    """Skip-gram with negative sampling over blocks first ≤ n < last; ``found``: loss, pairs, words, words kept."""
    length, width = blocks.shape[1], vectors.shape[1]
    kept = np.empty(length, dtype=np.int32)
    numbers = np.zeros(negatives + 9, dtype=np.int32)
    values = np.zeros(2 * (negatives + 16) + width + 16, dtype=np.float32)
    losses = np.zeros(24, dtype=np.float32)
    losses[:8] = 1.0
    exponents = losses[8:16].view(np.int32)
    places, z, lost = numbers.ctypes.data, values.ctypes.data, losses.ctypes.data
    labels = z + 4 * (negatives + 16)
    x = labels + 4 * (negatives + 16)
    values[negatives + 16] = 1.0
    base, stride = vectors.ctypes.data, vectors.strides[0]
    table, step = context.ctypes.data, context.strides[0]
    loss, pairs, words, used = 0.0, 0, 0, 0
    for n in range(first, last):
        state, place = states[n], 0
        while place < length:
            alpha = np.float32(rate + slope * (n * length + place))
            count, place, seen, state = sentence(blocks[n], place, keep, state, kept)
            words += seen
            used += count
            for i in range(count):
                state += GOLDEN
                reach = 1 + np.int64((mix(state) >> np.uint64(32)) * np.uint64(window) >> np.uint64(32))
                word = kept[i]
                for j in range(max(0, int(i - reach)), min(count, int(i + reach + 1))):
                    if j == i:
                        continue
                    numbers[0], total = word, 1
                    for _ in range(negatives):
                        state += GOLDEN
                        other = drawn(mix(state), alias)
                        numbers[total] = other
                        total += other != word
                    row = base + np.int64(kept[j]) * stride
                    scores(table, step, places, total, row, width, z)
                    for done in range(0, total, 8):
                        rows.slopes(z + 4 * done, labels + 4 * done, total - done, alpha, lost)
                    if total <= 8:
                        changes(table, step, places, total, row, z, row, width)
                    else:
                        rows.put(x, row, np.float32(1.0), width)
                        changes(table, step, places, total, x, z, row, width)
                    pairs += 1
            for k in range(8):
                loss += np.log(np.float64(losses[k])) + exponents[k] * np.log(2.0) + losses[16 + k]
                losses[k], exponents[k], losses[16 + k] = 1.0, 0, 0.0
    found[0], found[1], found[2], found[3] = loss, pairs, words, used


_run_skipgram = compiled(_skipgram)


def skipgram(
    blocks: Tokens,
    vectors: Floats,
    context: Floats,
    *,
    keep: Floats,
    alias: NDArray[np.uint32],
    states: States,
    rates: tuple[float, float],
    window: int = 5,
    negatives: int = 5,
    threads: int | None = None,
    pool: Executor | None = None,
) -> Covered:
    """Train skip-gram with negative sampling on blocks of tokens, in place (E30)."""
    size = len(blocks) * blocks.shape[1]
    slope = (rates[1] - rates[0]) / max(1, size)
    wanted = torch.get_num_threads() if threads is None else threads
    parts = max(1, min(wanted, len(blocks)))
    edges = [len(blocks) * part // parts for part in range(parts + 1)]
    found = np.zeros((parts, 4))
    calls: list[tuple[Any, ...]] = [
        (blocks, lo, hi, vectors, context, keep, alias, states, rates[0], slope, window, negatives, found[p])
        for p, (lo, hi) in enumerate(pairwise(edges))
    ]
    with ExitStack() as stack:
        if parts > 1:
            hands = pool or stack.enter_context(ThreadPoolExecutor(parts - 1))
            for call in calls[1:]:
                stack.callback(hands.submit(_run_skipgram, *call).result)
        _run_skipgram(*calls[0])
    loss, pairs, words, kept = found.sum(0)
    return Covered(float(loss), int(pairs), int(words), int(kept))

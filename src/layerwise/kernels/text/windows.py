"""The compiled loops of word2vec: sentences, their windows, and the rows each window learns against (E30).

Shapes: ``L`` tokens of a block, ``D`` dimensions, ``K`` negatives. Every context of a window has a *group* of rows: the
center word and K negatives, of which the labels say 1 and 0; or, with hierarchical softmax, the inner nodes on the
word's path. Contexts that share a group are scored together before any of them changes a row. The next window's
negatives are drawn, and their rows sent for,
before this window is learned: on a large vocabulary most of the time goes by in waiting for rows.

Sources: Mikolov et al. 2013 (both papers of `word2vec`); Ji et al., Parallelizing word2vec in shared and distributed
memory (2016): negatives shared by a window's contexts; SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.compiling import compiled
from layerwise.kernels.convolution import simd_rows
from layerwise.kernels.splitmix import GOLDEN, mix
from layerwise.kernels.text.tokens import END

Tokens = NDArray[np.int32]
Floats = NDArray[np.float32]
Alias = NDArray[np.uint32]
States = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Sums = NDArray[np.float64]
TILE = simd_rows.TILE


def _drawn(bits: np.uint64, alias: Alias) -> np.int32:
    """Return a word from 32 random bits: the whole part of bits/2³² · V is the column of the alias table, the rest
    decides."""
    scaled = bits * np.uint64(alias.shape[0])
    place, low = scaled >> np.uint64(32), np.uint32(scaled & np.uint64(0xFFFFFFFF))
    return np.int32(place) if low < alias[place, 0] else np.int32(alias[place, 1])


_draw = compiled(_drawn, inline=True)


def _sentence(
    block: Tokens, start: int, keep: Floats, state: np.uint64, out: Tokens
) -> tuple[int, int, int, np.uint64]:
    """Take one sentence's words that subsampling keeps. Returns (how many, where the next begins, tokens seen,
    state)."""
    count, place = 0, start
    while place < block.shape[0] and block[place] != END:
        word = block[place]
        place += 1
        if word >= 0:
            state += GOLDEN
            u = np.float32(np.int64(mix(state) >> np.uint64(40))) * np.float32(2.0**-24)
            if u < keep[word]:
                out[count] = word
                count += 1
    return count, place + 1, place - start, state


_take = compiled(_sentence)


def _noise(
    word: int, groups: int, negatives: int, tile: int, alias: Alias, state: np.uint64, numbers: Tokens, labels: Floats
) -> np.uint64:
    """Write the rows of each group: the word itself, then its negatives; a negative that is the word itself does not
    count."""
    for g in range(groups):
        at = g * tile
        numbers[at] = word
        for k in range(1, negatives + 1, 2):
            state += GOLDEN
            bits = mix(state)
            one = _draw(bits >> np.uint64(32), alias)
            two = _draw(bits & np.uint64(0xFFFFFFFF), alias)
            numbers[at + k] = one
            labels[at + k] = np.float32(-1.0) if one == word else np.float32(0.0)
            if k < negatives:
                numbers[at + k + 1] = two
                labels[at + k + 1] = np.float32(-1.0) if two == word else np.float32(0.0)
    return state


_negatives = compiled(_noise)


def _scored(table: int, step: int, numbers: int, total: int, x: int, out: int, width: int) -> None:
    """out[r] = table[numbers[r]] · x for r < total, in tiles."""
    for done in range(0, total, TILE):
        n, at, to = total - done, numbers + 4 * done, out + 4 * done
        if n == 6:
            simd_rows.products6(table, step, at, x, width, to)
        elif n >= 8:
            simd_rows.products8(table, step, at, x, width, to)
        elif n == 1:
            simd_rows.products1(table, step, at, x, width, to)
        elif n == 2:
            simd_rows.products2(table, step, at, x, width, to)
        elif n == 3:
            simd_rows.products3(table, step, at, x, width, to)
        elif n == 4:
            simd_rows.products4(table, step, at, x, width, to)
        elif n == 5:
            simd_rows.products5(table, step, at, x, width, to)
        else:
            simd_rows.products7(table, step, at, x, width, to)


def _changed(table: int, step: int, numbers: int, total: int, x: int, steps: int, out: int, width: int) -> None:
    """out += Σ steps[r] table[numbers[r]] and table[numbers[r]] += steps[r] x for r < total, row after row, in
    tiles."""
    for done in range(0, total, TILE):
        n, at, by = total - done, numbers + 4 * done, steps + 4 * done
        if n == 6:
            simd_rows.updates6(table, step, at, x, by, out, width)
        elif n >= 8:
            simd_rows.updates8(table, step, at, x, by, out, width)
        elif n == 1:
            simd_rows.updates1(table, step, at, x, by, out, width)
        elif n == 2:
            simd_rows.updates2(table, step, at, x, by, out, width)
        elif n == 3:
            simd_rows.updates3(table, step, at, x, by, out, width)
        elif n == 4:
            simd_rows.updates4(table, step, at, x, by, out, width)
        elif n == 5:
            simd_rows.updates5(table, step, at, x, by, out, width)
        else:
            simd_rows.updates7(table, step, at, x, by, out, width)


_score, _change = compiled(_scored), compiled(_changed)


def _logs(losses: Floats) -> float:
    """Return the loss that `rows.slopes` gathered, and begin anew."""
    total, exponents = 0.0, losses[8:16].view(np.int32)
    for k in range(8):
        total += np.log(np.float64(losses[k])) + exponents[k] * np.log(2.0) + np.float64(losses[16 + k])
        losses[k], exponents[k], losses[16 + k] = 1.0, 0, 0.0
    return total


_loss = compiled(_logs)


def _skipgram(
    blocks: Tokens,
    first: int,
    last: int,
    vectors: Floats,
    context: Floats,
    keep: Floats,
    alias: Alias,
    nodes: Tokens,
    signs: Floats,
    starts: Numbers,
    lengths: Numbers,
    states: States,
    rate: float,
    slope: float,
    window: int,
    negatives: int,
    share: int,
    settled: np.float32,
    found: Sums,
) -> None:
    """Skip-gram over blocks first ≤ n < last. ``negatives`` = 0: hierarchical softmax. ``found``: loss, pairs, tokens,
    words kept."""
    length, width = blocks.shape[1], vectors.shape[1]
    tile = (negatives + TILE) // TILE * TILE
    most = 2 * window
    kept = np.empty(length, dtype=np.int32)
    numbers = np.zeros((2, most * tile), dtype=np.int32)
    labels = np.full((2, most * tile), np.float32(-1.0), dtype=np.float32)
    labels[:, ::tile] = np.float32(1.0)
    longest = tile
    if negatives == 0:
        share, tile = 1, 0
        longest = (lengths.max() + TILE - 1) // TILE * TILE
    scores, copy = np.zeros((most, longest), dtype=np.float32), np.zeros(width + 8, dtype=np.float32)
    losses = np.zeros(24, dtype=np.float32)
    losses[:8] = np.float32(1.0)
    z, lost, x = scores.ctypes.data, losses.ctypes.data, copy.ctypes.data
    base, stride = vectors.ctypes.data, vectors.strides[0]
    table, step = context.ctypes.data, context.strides[0]
    los, his = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    loss, pairs, tokens, words = 0.0, 0, 0, 0
    for n in range(first, last):
        state, place = states[n], 0
        while place < length:
            alpha = np.float32(rate + slope * (n * length + place))
            count, place, seen, state = _take(blocks[n], place, keep, state, kept)
            tokens += seen
            words += count
            for ahead in range(count + 1):
                if ahead < count:
                    state += GOLDEN
                    reach = 1 + int(np.int64((mix(state) >> np.uint64(32)) * np.uint64(window) >> np.uint64(32)))
                    lo, hi = max(0, ahead - reach), min(count, ahead + reach + 1)
                    los[ahead & 1], his[ahead & 1] = lo, hi
                    if negatives > 0:
                        groups = (hi - lo - 1 + share - 1) // share
                        state = _negatives(
                            kept[ahead], groups, negatives, tile, alias, state, numbers[ahead & 1], labels[ahead & 1]
                        )
                        for g in range(groups):
                            for r in range(g * tile + (g > 0), g * tile + negatives + 1):
                                simd_rows.fetch(table + np.int64(numbers[ahead & 1, r]) * step, width)
                if ahead == 0:
                    continue
                i = ahead - 1
                lo, around = los[i & 1], his[i & 1] - los[i & 1] - 1
                if negatives > 0:
                    places, marks, total = numbers[i & 1].ctypes.data, labels[i & 1].ctypes.data, negatives + 1
                else:
                    at, total = starts[kept[i]], lengths[kept[i]]
                    places, marks = nodes[at:].ctypes.data, signs[at:].ctypes.data
                for begin in range(0, around, share):
                    end = min(begin + share, around)
                    for c in range(begin, end):
                        row = base + np.int64(kept[lo + c + (lo + c >= i)]) * stride
                        _score(table, step, places, total, row, z + 4 * longest * (c - begin), width)
                    for c in range(end - begin):
                        for done in range(0, total, TILE):
                            simd_rows.slopes(z + 4 * (longest * c + done), marks + 4 * done, alpha, settled, lost)
                    for c in range(begin, end):
                        row, by = base + np.int64(kept[lo + c + (lo + c >= i)]) * stride, z + 4 * longest * (c - begin)
                        if total <= TILE:
                            _change(table, step, places, total, row, by, row, width)
                        else:  # in several tiles: all of them with the row as it was
                            simd_rows.put(x, row, np.float32(1.0), width)
                            _change(table, step, places, total, x, by, row, width)
                    places += 4 * tile
                    marks += 4 * tile
                pairs += around
            loss += _loss(losses)
    found[0], found[1], found[2], found[3] = loss, pairs, tokens, words


run_skipgram = compiled(_skipgram)


def _cbow(
    blocks: Tokens,
    first: int,
    last: int,
    vectors: Floats,
    context: Floats,
    keep: Floats,
    alias: Alias,
    nodes: Tokens,
    signs: Floats,
    starts: Numbers,
    lengths: Numbers,
    states: States,
    rate: float,
    slope: float,
    window: int,
    negatives: int,
    divided: bool,
    settled: np.float32,
    found: Sums,
) -> None:
    """CBOW over blocks first ≤ n < last, as `_skipgram`; ``divided``: a context word gets its share of the mean's
    gradient only."""
    length, width = blocks.shape[1], vectors.shape[1]
    tile = (negatives + TILE) // TILE * TILE
    kept = np.empty(length, dtype=np.int32)
    numbers = np.zeros((2, tile), dtype=np.int32)
    labels = np.full((2, tile), np.float32(-1.0), dtype=np.float32)
    labels[:, 0] = np.float32(1.0)
    longest = tile
    if negatives == 0:
        longest = (lengths.max() + TILE - 1) // TILE * TILE
    scores, means = np.zeros(longest, dtype=np.float32), np.zeros((2, width + 8), dtype=np.float32)
    losses = np.zeros(24, dtype=np.float32)
    losses[:8] = np.float32(1.0)
    z, lost, mean, work = scores.ctypes.data, losses.ctypes.data, means[0].ctypes.data, means[1].ctypes.data
    base, stride = vectors.ctypes.data, vectors.strides[0]
    table, step = context.ctypes.data, context.strides[0]
    around = np.zeros(2 * window, dtype=np.int32)
    los, his = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    loss, pairs, tokens, words = 0.0, 0, 0, 0
    for n in range(first, last):
        state, place = states[n], 0
        while place < length:
            alpha = np.float32(rate + slope * (n * length + place))
            count, place, seen, state = _take(blocks[n], place, keep, state, kept)
            tokens += seen
            words += count
            for ahead in range(count + 1):
                if ahead < count:
                    state += GOLDEN
                    reach = 1 + int(np.int64((mix(state) >> np.uint64(32)) * np.uint64(window) >> np.uint64(32)))
                    los[ahead & 1], his[ahead & 1] = max(0, ahead - reach), min(count, ahead + reach + 1)
                    if negatives > 0:
                        state = _negatives(
                            kept[ahead], 1, negatives, tile, alias, state, numbers[ahead & 1], labels[ahead & 1]
                        )
                        for r in range(negatives + 1):
                            simd_rows.fetch(table + np.int64(numbers[ahead & 1, r]) * step, width)
                if ahead == 0:
                    continue
                i = ahead - 1
                lo, near = los[i & 1], his[i & 1] - los[i & 1] - 1
                if near == 0:
                    continue
                for c in range(near):
                    around[c] = kept[lo + c + (lo + c >= i)]
                if negatives > 0:
                    places, marks, total = numbers[i & 1].ctypes.data, labels[i & 1].ctypes.data, negatives + 1
                else:
                    at, total = starts[kept[i]], lengths[kept[i]]
                    places, marks = nodes[at:].ctypes.data, signs[at:].ctypes.data
                part = np.float32(1.0) / np.float32(near)
                simd_rows.gather(base, stride, around.ctypes.data, near, part, mean, width)
                _score(table, step, places, total, mean, z, width)
                for done in range(0, total, TILE):
                    simd_rows.slopes(z + 4 * done, marks + 4 * done, alpha, settled, lost)
                simd_rows.put(work, mean, np.float32(0.0), width)
                _change(table, step, places, total, mean, z, work, width)
                for c in range(near):
                    simd_rows.add(
                        base + np.int64(around[c]) * stride, work, part if divided else np.float32(1.0), width
                    )
                pairs += 1
            loss += _loss(losses)
    found[0], found[1], found[2], found[3] = loss, pairs, tokens, words


run_cbow = compiled(_cbow)

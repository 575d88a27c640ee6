"""The compiled loops of word2vec over sentences, their windows, and the output rows of each window (E30).

Shapes: ``L`` tokens of a block, ``D`` dimensions, ``K`` negatives. Each context word of a window belongs to a *group*
of output rows: the center word and K negatives, with labels 1 and 0; or, with hierarchical softmax, the inner nodes on
the word's path. Contexts that share a group are scored together before any of them changes a row. The negatives of the
next window are drawn, and their rows prefetched, before the current window is learned: on a large vocabulary most of
the time is spent waiting for rows.

Sources: Mikolov et al. 2013 (both papers of `word2vec`); Ji et al., Parallelizing word2vec in shared and distributed
memory (2016): negatives shared by a window's contexts; SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.jit import compile_kernel, mix64
from layerwise.kernels.text import END, simd_rows
from layerwise.runtime.rng import GOLDEN

Tokens = NDArray[np.int32]
Floats = NDArray[np.float32]
Alias = NDArray[np.uint32]
States = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Sums = NDArray[np.float64]
TILE = simd_rows.TILE


@partial(compile_kernel, inline=True)
def _draw_word(bits: np.uint64, alias: Alias) -> np.int32:
    """Return a word from 32 random bits: the integer part of bits/2³² · V is the column of the alias table, the
    fraction chooses between its two words."""
    scaled = bits * np.uint64(alias.shape[0])
    column, low = scaled >> np.uint64(32), np.uint32(scaled & np.uint64(0xFFFFFFFF))
    return np.int32(column) if low < alias[column, 0] else np.int32(alias[column, 1])


@compile_kernel
def _sample_sentence(
    block: Tokens, start: int, keep: Floats, state: np.uint64, out: Tokens
) -> tuple[int, int, int, np.uint64]:
    """Write one sentence's words that subsampling keeps. Return (their number, the start of the next sentence, the
    number of tokens read, state)."""
    count, position = 0, start
    while position < block.shape[0] and block[position] != END:
        word = block[position]
        position += 1
        if word >= 0:
            state += GOLDEN
            u = np.float32(np.int64(mix64(state) >> np.uint64(40))) * np.float32(2.0**-24)
            if u < keep[word]:
                out[count] = word
                count += 1
    return count, position + 1, position - start, state


@compile_kernel
def _draw_negatives(
    word: int, groups: int, negatives: int, tile: int, alias: Alias, state: np.uint64, numbers: Tokens, labels: Floats
) -> np.uint64:
    """Write the rows of each group: the word itself, then its negatives; a negative that is the word itself does not
    count."""
    for g in range(groups):
        at = g * tile
        numbers[at] = word
        for k in range(1, negatives + 1, 2):
            state += GOLDEN
            bits = mix64(state)
            one = _draw_word(bits >> np.uint64(32), alias)
            two = _draw_word(bits & np.uint64(0xFFFFFFFF), alias)
            numbers[at + k] = one
            labels[at + k] = np.float32(-1.0) if one == word else np.float32(0.0)
            if k < negatives:
                numbers[at + k + 1] = two
                labels[at + k + 1] = np.float32(-1.0) if two == word else np.float32(0.0)
    return state


@compile_kernel
def _score_rows(table: int, step: int, numbers: int, total: int, x: int, out: int, width: int) -> None:
    """Set out[r] = table[numbers[r]] · x for r < total, tile by tile."""
    for start in range(0, total, TILE):
        n, at, to = total - start, numbers + 4 * start, out + 4 * start
        if n == 6:
            simd_rows.dot6(table, step, at, x, width, to)
        elif n >= 8:
            simd_rows.dot8(table, step, at, x, width, to)
        elif n == 1:
            simd_rows.dot1(table, step, at, x, width, to)
        elif n == 2:
            simd_rows.dot2(table, step, at, x, width, to)
        elif n == 3:
            simd_rows.dot3(table, step, at, x, width, to)
        elif n == 4:
            simd_rows.dot4(table, step, at, x, width, to)
        elif n == 5:
            simd_rows.dot5(table, step, at, x, width, to)
        else:
            simd_rows.dot7(table, step, at, x, width, to)


@compile_kernel
def _update_rows(table: int, step: int, numbers: int, total: int, x: int, steps: int, out: int, width: int) -> None:
    """Add Σ steps[r] table[numbers[r]] to out and steps[r] x to table[numbers[r]] for r < total, row by row, tile by
    tile."""
    for start in range(0, total, TILE):
        n, at, by = total - start, numbers + 4 * start, steps + 4 * start
        if n == 6:
            simd_rows.update6(table, step, at, x, by, out, width)
        elif n >= 8:
            simd_rows.update8(table, step, at, x, by, out, width)
        elif n == 1:
            simd_rows.update1(table, step, at, x, by, out, width)
        elif n == 2:
            simd_rows.update2(table, step, at, x, by, out, width)
        elif n == 3:
            simd_rows.update3(table, step, at, x, by, out, width)
        elif n == 4:
            simd_rows.update4(table, step, at, x, by, out, width)
        elif n == 5:
            simd_rows.update5(table, step, at, x, by, out, width)
        else:
            simd_rows.update7(table, step, at, x, by, out, width)


@compile_kernel
def _collect_loss(losses: Floats) -> float:
    """Return the loss that `simd_rows.logistic_steps` accumulated, and reset it."""
    total, exponents = 0.0, losses[8:16].view(np.int32)
    for k in range(8):
        total += np.log(np.float64(losses[k])) + exponents[k] * np.log(2.0) + np.float64(losses[16 + k])
        losses[k], exponents[k], losses[16 + k] = 1.0, 0, 0.0
    return total


@compile_kernel
def run_skipgram(
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
    group_size: int,
    max_exp: np.float32,
    sums: Sums,
) -> None:
    """Run skip-gram over blocks first ≤ n < last. ``negatives`` = 0: hierarchical softmax. ``sums``: loss, pairs,
    tokens, words after subsampling."""
    length, width = blocks.shape[1], vectors.shape[1]
    tile = (negatives + TILE) // TILE * TILE
    max_contexts = 2 * window
    sentence = np.empty(length, dtype=np.int32)
    numbers = np.zeros((2, max_contexts * tile), dtype=np.int32)
    labels = np.full((2, max_contexts * tile), np.float32(-1.0), dtype=np.float32)
    labels[:, ::tile] = np.float32(1.0)
    max_path = tile
    if negatives == 0:
        group_size, tile = 1, 0
        max_path = (lengths.max() + TILE - 1) // TILE * TILE
    scores, copy = np.zeros((max_contexts, max_path), dtype=np.float32), np.zeros(width + 8, dtype=np.float32)
    losses = np.zeros(24, dtype=np.float32)
    losses[:8] = np.float32(1.0)
    z, losses_address, x = scores.ctypes.data, losses.ctypes.data, copy.ctypes.data
    base, stride = vectors.ctypes.data, vectors.strides[0]
    table, step = context.ctypes.data, context.strides[0]
    los, his = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    loss, pairs, tokens, words = 0.0, 0, 0, 0
    for n in range(first, last):
        state, position = states[n], 0
        while position < length:
            alpha = np.float32(rate + slope * (n * length + position))
            count, position, seen, state = _sample_sentence(blocks[n], position, keep, state, sentence)
            tokens += seen
            words += count
            for ahead in range(count + 1):
                if ahead < count:
                    state += GOLDEN
                    reach = 1 + int(np.int64((mix64(state) >> np.uint64(32)) * np.uint64(window) >> np.uint64(32)))
                    lo, hi = max(0, ahead - reach), min(count, ahead + reach + 1)
                    los[ahead & 1], his[ahead & 1] = lo, hi
                    if negatives > 0:
                        groups = (hi - lo - 1 + group_size - 1) // group_size
                        state = _draw_negatives(
                            sentence[ahead],
                            groups,
                            negatives,
                            tile,
                            alias,
                            state,
                            numbers[ahead & 1],
                            labels[ahead & 1],
                        )
                        for g in range(groups):
                            for r in range(g * tile + (g > 0), g * tile + negatives + 1):
                                simd_rows.prefetch(table + np.int64(numbers[ahead & 1, r]) * step, width)
                if ahead == 0:
                    continue
                i = ahead - 1
                lo, contexts = los[i & 1], his[i & 1] - los[i & 1] - 1
                if negatives > 0:
                    rows, label_address, total = numbers[i & 1].ctypes.data, labels[i & 1].ctypes.data, negatives + 1
                else:
                    at, total = starts[sentence[i]], lengths[sentence[i]]
                    rows, label_address = nodes[at:].ctypes.data, signs[at:].ctypes.data
                for begin in range(0, contexts, group_size):
                    end = min(begin + group_size, contexts)
                    for c in range(begin, end):
                        row = base + np.int64(sentence[lo + c + (lo + c >= i)]) * stride
                        _score_rows(table, step, rows, total, row, z + 4 * max_path * (c - begin), width)
                    for c in range(end - begin):
                        for start in range(0, total, TILE):
                            simd_rows.logistic_steps(
                                z + 4 * (max_path * c + start),
                                label_address + 4 * start,
                                alpha,
                                max_exp,
                                losses_address,
                            )
                    for c in range(begin, end):
                        row, by = (
                            base + np.int64(sentence[lo + c + (lo + c >= i)]) * stride,
                            z + 4 * max_path * (c - begin),
                        )
                        if total <= TILE:
                            _update_rows(table, step, rows, total, row, by, row, width)
                        else:  # in several tiles: all of them with the row as it was
                            simd_rows.copy_scaled(x, row, np.float32(1.0), width)
                            _update_rows(table, step, rows, total, x, by, row, width)
                    rows += 4 * tile
                    label_address += 4 * tile
                pairs += contexts
            loss += _collect_loss(losses)
    sums[0], sums[1], sums[2], sums[3] = loss, pairs, tokens, words


@compile_kernel
def run_cbow(
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
    average_gradient: bool,
    max_exp: np.float32,
    sums: Sums,
) -> None:
    """Run CBOW over blocks first ≤ n < last, as `run_skipgram`; ``average_gradient``: a context word gets 1/n of the
    gradient of the mean of n words."""
    length, width = blocks.shape[1], vectors.shape[1]
    tile = (negatives + TILE) // TILE * TILE
    sentence = np.empty(length, dtype=np.int32)
    numbers = np.zeros((2, tile), dtype=np.int32)
    labels = np.full((2, tile), np.float32(-1.0), dtype=np.float32)
    labels[:, 0] = np.float32(1.0)
    max_path = tile
    if negatives == 0:
        max_path = (lengths.max() + TILE - 1) // TILE * TILE
    scores, means = np.zeros(max_path, dtype=np.float32), np.zeros((2, width + 8), dtype=np.float32)
    losses = np.zeros(24, dtype=np.float32)
    losses[:8] = np.float32(1.0)
    z, losses_address, mean, work = scores.ctypes.data, losses.ctypes.data, means[0].ctypes.data, means[1].ctypes.data
    base, stride = vectors.ctypes.data, vectors.strides[0]
    table, step = context.ctypes.data, context.strides[0]
    around = np.zeros(2 * window, dtype=np.int32)
    los, his = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    loss, pairs, tokens, words = 0.0, 0, 0, 0
    for n in range(first, last):
        state, position = states[n], 0
        while position < length:
            alpha = np.float32(rate + slope * (n * length + position))
            count, position, seen, state = _sample_sentence(blocks[n], position, keep, state, sentence)
            tokens += seen
            words += count
            for ahead in range(count + 1):
                if ahead < count:
                    state += GOLDEN
                    reach = 1 + int(np.int64((mix64(state) >> np.uint64(32)) * np.uint64(window) >> np.uint64(32)))
                    los[ahead & 1], his[ahead & 1] = max(0, ahead - reach), min(count, ahead + reach + 1)
                    if negatives > 0:
                        state = _draw_negatives(
                            sentence[ahead], 1, negatives, tile, alias, state, numbers[ahead & 1], labels[ahead & 1]
                        )
                        for r in range(negatives + 1):
                            simd_rows.prefetch(table + np.int64(numbers[ahead & 1, r]) * step, width)
                if ahead == 0:
                    continue
                i = ahead - 1
                lo, near = los[i & 1], his[i & 1] - los[i & 1] - 1
                if near == 0:
                    continue
                for c in range(near):
                    around[c] = sentence[lo + c + (lo + c >= i)]
                if negatives > 0:
                    rows, label_address, total = numbers[i & 1].ctypes.data, labels[i & 1].ctypes.data, negatives + 1
                else:
                    at, total = starts[sentence[i]], lengths[sentence[i]]
                    rows, label_address = nodes[at:].ctypes.data, signs[at:].ctypes.data
                part = np.float32(1.0) / np.float32(near)
                simd_rows.sum_rows(base, stride, around.ctypes.data, near, part, mean, width)
                _score_rows(table, step, rows, total, mean, z, width)
                for start in range(0, total, TILE):
                    simd_rows.logistic_steps(z + 4 * start, label_address + 4 * start, alpha, max_exp, losses_address)
                simd_rows.copy_scaled(work, mean, np.float32(0.0), width)
                _update_rows(table, step, rows, total, mean, z, work, width)
                for c in range(near):
                    simd_rows.add_scaled(
                        base + np.int64(around[c]) * stride, work, part if average_gradient else np.float32(1.0), width
                    )
                pairs += 1
            loss += _collect_loss(losses)
    sums[0], sums[1], sums[2], sums[3] = loss, pairs, tokens, words

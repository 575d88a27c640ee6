"""The compiled loops of word2vec: sentences, their windows, and the rows that each window learns against (E30).

Shapes: ``N`` blocks of ``L`` tokens, ``V`` words, ``D`` dimensions, ``K`` negatives. Every context of a window has a *group* of rows:
the centre word and K negatives, of which the labels say 1 and 0; or, with hierarchical softmax, the inner nodes on the word's path.
Contexts that share a group are scored together before any of them changes a row. The next window's negatives are drawn, and their rows
sent for, before this window is learnt: on a large vocabulary most of the time goes by in waiting for rows.

Sources: Mikolov et al. 2013 (both papers of `word2vec`); Ji et al., Parallelizing word2vec in shared and distributed memory (2016):
negatives shared by a window's contexts; SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels import rows
from layerwise.kernels.compiling import compiled
from layerwise.kernels.tokens import END

Tokens = NDArray[np.int32]
Floats = NDArray[np.float32]
Alias = NDArray[np.uint32]
States = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Sums = NDArray[np.float64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
TILE = rows.TILE


class Text(NamedTuple):
    """Blocks (N, L), the random state of each (N,), and the chance of each word's occurrence to stay (V,)."""

    blocks: Tokens
    states: States
    keep: Floats


class Tables(NamedTuple):
    """Where the rows of both tables lie: addresses, bytes from row to row, and D."""

    vectors: int
    vectors_step: int
    context: int
    context_step: int
    width: int


class Targets(NamedTuple):
    """What words are told apart from: the alias table (V, 2), or a Huffman tree's flat arrays."""

    alias: Alias
    nodes: Tokens
    signs: Floats
    starts: Numbers
    lengths: Numbers


class Method(NamedTuple):
    """How to learn. η = ``rate`` + ``slope`` · tokens before; ``negatives`` = 0: hierarchical softmax; ``pooled``: CBOW."""

    rate: float
    slope: float
    window: int
    negatives: int
    share: int
    pooled: bool
    divided: bool


class Scratch(NamedTuple):
    """A thread's memory, made once for a call; of the pairs one is of this window and one of the next."""

    kept: Tokens
    bounds: Numbers
    numbers: Tokens
    labels: Floats
    scores: Floats
    row: Floats
    work: Floats
    around: Tokens
    losses: Floats


def scratch(length: int, width: int, method: Method, longest: int) -> Scratch:
    """Return the memory for blocks of ``length`` tokens, ``longest`` the rows of a group."""
    most, tile, tiles = 2 * method.window, padded(method.negatives + 1), padded(longest)
    labels = np.full((2, most * tile), -1.0, dtype=np.float32)
    labels[:, ::tile] = 1.0
    losses = np.zeros(24, dtype=np.float32)
    losses[:8] = 1.0
    return Scratch(
        np.empty(length, dtype=np.int32), np.zeros((2, 2), dtype=np.int64), np.zeros((2, most * tile), dtype=np.int32), labels,
        np.zeros(min(most, method.share) * tiles, dtype=np.float32), np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.float32),
        np.zeros(most, dtype=np.int32), losses,
    )  # fmt: skip


def padded(count: int) -> int:
    """Return a number of rows rounded up to whole tiles."""
    return (count + TILE - 1) // TILE * TILE


def _mixed(z: np.uint64) -> np.uint64:
    """Return SplitMix64's output for a state."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


_mix = compiled(_mixed, inline=True)


def _drawn(bits: np.uint64, alias: Alias) -> np.int32:
    """Return a word from 32 random bits: the whole part of bits/2³² · V is the column of the alias table, the rest decides."""
    scaled = bits * np.uint64(alias.shape[0])
    place, low = scaled >> np.uint64(32), np.uint32(scaled & np.uint64(0xFFFFFFFF))
    return np.int32(place) if low < alias[place, 0] else np.int32(alias[place, 1])


_draw = compiled(_drawn, inline=True)


def _sentence(block: Tokens, start: int, keep: Floats, state: np.uint64, out: Tokens) -> tuple[int, int, int, np.uint64]:
    """Take one sentence's words that subsampling keeps. Returns (how many, where the next begins, tokens seen, state)."""
    count, place = 0, start
    while place < block.shape[0] and block[place] != END:
        word = block[place]
        place += 1
        if word >= 0:
            state += GOLDEN
            u = np.float32(np.int64(_mix(state) >> np.uint64(40))) * np.float32(2.0**-24)
            if u < keep[word]:
                out[count] = word
                count += 1
    return count, place + 1, place - start, state


_take = compiled(_sentence)


def _scored(table: int, step: int, numbers: int, total: int, x: int, out: int, width: int) -> None:
    """out[r] = table[numbers[r]] · x for r < total, in tiles."""
    for done in range(0, total, TILE):
        n, at, to = total - done, numbers + 4 * done, out + 4 * done
        if n == 6:
            rows.products6(table, step, at, x, width, to)
        elif n >= 8:
            rows.products8(table, step, at, x, width, to)
        elif n == 1:
            rows.products1(table, step, at, x, width, to)
        elif n == 2:
            rows.products2(table, step, at, x, width, to)
        elif n == 3:
            rows.products3(table, step, at, x, width, to)
        elif n == 4:
            rows.products4(table, step, at, x, width, to)
        elif n == 5:
            rows.products5(table, step, at, x, width, to)
        else:
            rows.products7(table, step, at, x, width, to)


def _changed(table: int, step: int, numbers: int, total: int, x: int, steps: int, out: int, width: int) -> None:
    """out += Σ steps[r] table[numbers[r]] and table[numbers[r]] += steps[r] x for r < total, row after row, in tiles."""
    for done in range(0, total, TILE):
        n, at, by = total - done, numbers + 4 * done, steps + 4 * done
        if n == 6:
            rows.updates6(table, step, at, x, by, out, width)
        elif n >= 8:
            rows.updates8(table, step, at, x, by, out, width)
        elif n == 1:
            rows.updates1(table, step, at, x, by, out, width)
        elif n == 2:
            rows.updates2(table, step, at, x, by, out, width)
        elif n == 3:
            rows.updates3(table, step, at, x, by, out, width)
        elif n == 4:
            rows.updates4(table, step, at, x, by, out, width)
        elif n == 5:
            rows.updates5(table, step, at, x, by, out, width)
        else:
            rows.updates7(table, step, at, x, by, out, width)


_score, _change = compiled(_scored), compiled(_changed)


def _logs(losses: Floats) -> float:
    """Return the loss that `rows.slopes` gathered, and begin anew."""
    total, exponents = 0.0, losses[8:16].view(np.int32)
    for k in range(8):
        total += np.log(np.float64(losses[k])) + exponents[k] * 0.6931471805599453 + np.float64(losses[16 + k])
        losses[k], exponents[k], losses[16 + k] = 1.0, 0, 0.0
    return total


_loss = compiled(_logs)


def _noise(word: int, groups: int, negatives: int, alias: Alias, state: np.uint64, numbers: Tokens, labels: Floats) -> np.uint64:
    """Write the rows of each group: the word itself, then its negatives; a negative that is the word itself does not count."""
    tile = (negatives + TILE) // TILE * TILE
    for g in range(groups):
        at = g * tile
        numbers[at] = word
        for k in range(1, negatives + 1, 2):
            state += GOLDEN
            bits = _mix(state)
            one = _draw(bits >> np.uint64(32), alias)
            two = _draw(bits & np.uint64(0xFFFFFFFF), alias)
            numbers[at + k] = one
            labels[at + k] = np.float32(-1.0) if one == word else np.float32(0.0)
            if k < negatives:
                numbers[at + k + 1] = two
                labels[at + k + 1] = np.float32(-1.0) if two == word else np.float32(0.0)
    return state


_negatives = compiled(_noise)


def _prepared(i: int, count: int, tables: Tables, targets: Targets, method: Method, memory: Scratch, state: np.uint64) -> np.uint64:
    """Draw the window of word i, and its negatives; send for their rows."""
    side = i & 1
    state += GOLDEN
    reach = 1 + np.int64((_mix(state) >> np.uint64(32)) * np.uint64(method.window) >> np.uint64(32))
    low, high = max(0, i - reach), min(count, i + reach + 1)
    memory.bounds[side, 0], memory.bounds[side, 1] = low, high
    if method.negatives > 0:
        groups = 1 if method.pooled else (high - low + method.share - 2) // method.share
        numbers = memory.numbers[side]
        state = _negatives(memory.kept[i], groups, method.negatives, targets.alias, state, numbers, memory.labels[side])
        tile = (method.negatives + TILE) // TILE * TILE
        for first in range(0, groups * tile, tile):
            for r in range(first, first + method.negatives + 1):
                rows.fetch(tables.context + np.int64(numbers[r]) * tables.context_step, tables.width)
    return state


def _pairs(
    around: int, places: int, marks: int, total: int, tile: int, tables: Tables, share: int, memory: Scratch, rate: np.float32
) -> None:
    """Skip-gram: learn the rows at ``places`` from the vector of each context, group after group."""
    vectors, step, width = tables.vectors, tables.vectors_step, tables.width
    z, each = np.int64(memory.scores.ctypes.data), 4 * ((total + TILE - 1) // TILE * TILE)
    lost, copy = np.int64(memory.losses.ctypes.data), np.int64(memory.row.ctypes.data)
    for begin in range(0, around, share):
        end = min(begin + share, around)
        for c in range(begin, end):
            row = vectors + np.int64(memory.around[c]) * step
            _score(tables.context, tables.context_step, places, total, row, z + each * (c - begin), width)
        for c in range(end - begin):
            for done in range(0, total, TILE):
                rows.slopes(z + each * c + 4 * done, marks + 4 * done, rate, lost)
        for c in range(begin, end):
            row, by = vectors + np.int64(memory.around[c]) * step, z + each * (c - begin)
            x = row
            if total > TILE:  # in several tiles: all of them with the row as it was
                rows.put(copy, row, np.float32(1.0), width)
                x = copy
            _change(tables.context, tables.context_step, places, total, x, by, row, width)
        places += 4 * tile
        marks += 4 * tile


def _pool(around: int, places: int, marks: int, total: int, tables: Tables, divided: bool, memory: Scratch, rate: np.float32) -> None:
    """CBOW: learn the rows at ``places`` from the mean of the contexts' vectors, and give each of them the whole of what the mean gets."""
    vectors, step, width = tables.vectors, tables.vectors_step, tables.width
    z, lost = np.int64(memory.scores.ctypes.data), np.int64(memory.losses.ctypes.data)
    mean, work = np.int64(memory.row.ctypes.data), np.int64(memory.work.ctypes.data)
    part = np.float32(1.0) / np.float32(around)
    rows.gather(vectors, step, np.int64(memory.around.ctypes.data), around, part, mean, width)
    _score(tables.context, tables.context_step, places, total, mean, z, width)
    for done in range(0, total, TILE):
        rows.slopes(z + 4 * done, marks + 4 * done, rate, lost)
    rows.put(work, mean, np.float32(0.0), width)
    _change(tables.context, tables.context_step, places, total, mean, z, work, width)
    for c in range(around):
        rows.add(vectors + np.int64(memory.around[c]) * step, work, part if divided else np.float32(1.0), width)


_prepare, _learn_pairs, _learn_pool = compiled(_prepared), compiled(_pairs), compiled(_pool)


def _learnt(i: int, tables: Tables, targets: Targets, method: Method, memory: Scratch, rate: np.float32) -> int:
    """Learn the window of word i, drawn before. Returns its pairs (CBOW: 1, or 0 where it is alone)."""
    side, around = i & 1, 0
    for j in range(memory.bounds[side, 0], memory.bounds[side, 1]):
        if j != i:
            memory.around[around] = memory.kept[j]
            around += 1
    if around == 0:
        return 0
    if method.negatives > 0:
        places, marks = np.int64(memory.numbers[side].ctypes.data), np.int64(memory.labels[side].ctypes.data)
        total, tile, share = method.negatives + 1, (method.negatives + TILE) // TILE * TILE, method.share
    else:
        word = memory.kept[i]
        at, total, tile, share = targets.starts[word], targets.lengths[word], 0, 1
        places, marks = np.int64(targets.nodes.ctypes.data) + 4 * at, np.int64(targets.signs.ctypes.data) + 4 * at
    if method.pooled:
        _learn_pool(around, places, marks, total, tables, method.divided, memory, rate)
        return 1
    _learn_pairs(around, places, marks, total, tile, tables, share, memory, rate)
    return around


_learn = compiled(_learnt)


def _blocks(text: Text, first: int, last: int, tables: Tables, targets: Targets, method: Method, memory: Scratch, found: Sums) -> None:
    """Learn blocks first ≤ n < last. ``found``: loss, pairs, tokens, words kept."""
    length = text.blocks.shape[1]
    loss, pairs, tokens, words = 0.0, 0, 0, 0
    for n in range(first, last):
        state, place = text.states[n], 0
        while place < length:
            rate = np.float32(method.rate + method.slope * (n * length + place))
            count, place, seen, state = _take(text.blocks[n], place, text.keep, state, memory.kept)
            tokens += seen
            words += count
            for i in range(count):
                if i == 0:
                    state = _prepare(0, count, tables, targets, method, memory, state)
                if i + 1 < count:
                    state = _prepare(i + 1, count, tables, targets, method, memory, state)
                pairs += _learn(i, tables, targets, method, memory, rate)
            loss += _loss(memory.losses)
    found[0], found[1], found[2], found[3] = loss, pairs, tokens, words


run = compiled(_blocks)

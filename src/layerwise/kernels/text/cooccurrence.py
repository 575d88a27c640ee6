"""Co-occurrence counts of words within a window, each pair weighted by 1/distance (E31).

Shapes: ``T`` tokens, ``V`` words, ``window`` W. A counting sort finds the positions of each word. The neighbors of all
positions of a word are added to one row (V,), which fits the cache; its nonzero entries are the word's counts. No pair
is looked up or sorted, and rows are independent, so any split over threads gives the same bits.

Source: J. Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word Representation (2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.jit import compile_kernel, mix64
from layerwise.kernels.text import END
from layerwise.runtime.rng import GOLDEN

Ids = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@compile_kernel
def compact(tokens: Ids, out: Ids, end: int) -> int:
    """Append the tokens to ``out`` after its first ``end`` ≥ 1, without GAP and without END after END; return the new
    end."""
    for token in tokens:
        if token >= 0 or (token == END and out[end - 1] != END):
            out[end] = token
            end += 1
    return end


@compile_kernel
def sort_positions(tokens: Ids, first: int, last: int, starts: Longs, positions: Ids) -> None:
    """Sort the positions first ≤ p < last by word: those of w become ``positions[starts[w]:starts[w + 1]]``, ascending.

    ``starts`` (V + 1,) must be zeros; ``positions`` holds at least ``last − first``.
    """
    for p in range(first, last):
        if tokens[p] >= 0:
            starts[tokens[p] + 1] += 1
    for w in range(1, len(starts)):
        starts[w] += starts[w - 1]
    for p in range(first, last):
        token = tokens[p]
        if token >= 0:
            positions[starts[token]] = p
            starts[token] += 1
    for w in range(len(starts) - 1, 0, -1):
        starts[w] = starts[w - 1]
    starts[0] = 0


@compile_kernel
def _move_counts(row: Doubles, among: Ids, columns: Ids, counts: Floats, size: int) -> int:
    """Move the nonzero entries of a row in the columns ``among`` to the end of ``columns`` and ``counts``, and clear
    them; return the new number of counts."""
    for column in among:
        if row[column] != 0.0:
            columns[size] = column
            counts[size] = row[column]
            row[column] = 0.0
            size += 1
    return size


@compile_kernel
def count_rows(
    tokens: Ids,
    starts: Longs,
    positions: Ids,
    first: int,
    last: int,
    weights: Doubles,
    row: Doubles,
    columns: Ids,
    counts: Floats,
    ends: Longs,
) -> int:
    """Count the rows of the words first ≤ w < last; return how many counts there are.

    Row w becomes ``columns`` and ``counts`` from where the last one ends to ``ends[w - first]``. ``row`` (V,) is zero
    before and after. ``weights`` (W + 1,) are the weights of a pair by distance. ``tokens`` are compact, with END or at
    least W more tokens before and after the positions.
    """
    filled, window = 0, len(weights) - 1
    words = np.arange(len(row), dtype=np.int32)
    near = np.empty(len(row) + 1, dtype=np.int32)
    for w in range(first, last):
        # list the neighbors of a rare word instead of scanning all words
        is_rare = 8 * window * (starts[w + 1] - starts[w]) < len(row)
        step, size = 1 if is_rare else 0, 0
        for index in range(starts[w], starts[w + 1]):
            p = positions[index]
            for distance in range(1, window + 1):
                token = tokens[p - distance]
                if token < 0:
                    break
                row[token] += weights[distance]
                near[size] = token
                size += step
            for distance in range(1, window + 1):
                token = tokens[p + distance]
                if token < 0:
                    break
                row[token] += weights[distance]
                near[size] = token
                size += step
        filled = _move_counts(row, near[:size] if is_rare else words, columns, counts, filled)
        ends[w - first] = filled
    return filled


@compile_kernel
def merge_counts(
    edges: Longs, many_columns: Ids, many_counts: Floats, row: Doubles, columns: Ids, counts: Floats, ends: Longs
) -> int:
    """Add the rows of several counts of the same words; return how many counts there are.

    ``edges`` (words, runs, 2) say where the rows begin and end in ``many_columns`` and ``many_counts``; the rest is as
    in `count_rows`.
    """
    filled = 0
    for w in range(edges.shape[0]):
        for run in range(edges.shape[1]):
            for k in range(edges[w, run, 0], edges[w, run, 1]):
                row[many_columns[k]] += np.float64(many_counts[k])
        for run in range(edges.shape[1]):
            filled = _move_counts(row, many_columns[edges[w, run, 0] : edges[w, run, 1]], columns, counts, filled)
        ends[w] = filled
    return filled


@compile_kernel
def distribute(
    starts: Longs,
    columns: Ids,
    counts: Floats,
    first: int,
    last: int,
    order: Ids,
    state: NDArray[np.uint64],
    out: Floats,
) -> None:
    """Distribute the records of the rows first ≤ w < last over blocks in rounds, each round in a new random order.

    ``out`` (B, R, 3) gets (w, column, count): round r fills record r of each block. So each block is an evenly drawn
    sample of all records, in the order of the rows. ``order`` (B,) is that of the round, ``state`` (2,) the generator's
    state and the number of records distributed so far.
    """
    blocks = len(order)
    z, dealt = state[0], np.int64(state[1])
    for w in range(first, last):
        for k in range(starts[w], starts[w + 1]):
            position = dealt % blocks
            if position == 0:
                for block in range(blocks):
                    order[block] = block
            z += GOLDEN
            other = position + np.int64((mix64(z) >> np.uint64(32)) * np.uint64(blocks - position) >> np.uint64(32))
            order[position], order[other] = order[other], order[position]
            record = out[order[position], dealt // blocks]
            record[0], record[1], record[2] = w, columns[k], counts[k]
            dealt += 1
    state[0], state[1] = z, np.uint64(dealt)

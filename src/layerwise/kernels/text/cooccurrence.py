"""Counting which words stand near each other, each pair weighted by 1/distance (E31).

Shapes: ``T`` tokens, ``V`` words, ``window`` W. The idea: word by word. The places of each word are found by a counting
sort; the neighbors of all places of a word are added to one row (V,), which the cache holds, and what is not zero in
it is the word's counts. No pair is looked up or sorted, and a row depends on no other, so that any split over threads
gives the same bits.

Source: J. Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word Representation (2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.compiling import compiled
from layerwise.kernels.splitmix import GOLDEN, mix
from layerwise.kernels.text.tokens import END

Ids = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@compiled
def compact(tokens: Ids, out: Ids, at: int) -> int:
    """Write the tokens to ``out`` from place ``at`` ≥ 1 on, without GAP and without END after END; return where they
    end."""
    for token in tokens:
        if token >= 0 or (token == END and out[at - 1] != END):
            out[at] = token
            at += 1
    return at


@compiled
def index(tokens: Ids, first: int, last: int, starts: Longs, places: Ids) -> None:
    """Sort the places first ≤ p < last by word: those of w become ``places[starts[w]:starts[w + 1]]``, rising.

    ``starts`` (V + 1,) are zeros before; ``places`` holds at least ``last − first``.
    """
    for p in range(first, last):
        if tokens[p] >= 0:
            starts[tokens[p] + 1] += 1
    for w in range(1, len(starts)):
        starts[w] += starts[w - 1]
    for p in range(first, last):
        token = tokens[p]
        if token >= 0:
            places[starts[token]] = p
            starts[token] += 1
    for w in range(len(starts) - 1, 0, -1):
        starts[w] = starts[w - 1]
    starts[0] = 0


@compiled
def _take(row: Doubles, among: Ids, columns: Ids, counts: Floats, found: int) -> int:
    """Move what is not zero in a row out of it, asking for the columns ``among``; return how many counts there are."""
    for column in among:
        if row[column] != 0.0:
            columns[found] = column
            counts[found] = row[column]
            row[column] = 0.0
            found += 1
    return found


@compiled
def count(
    tokens: Ids,
    starts: Longs,
    places: Ids,
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
    before and after. ``weights`` (W + 1,) are what a pair at this distance counts. ``tokens`` are compact, and before
    and after the places they have END or at least W more.
    """
    found, window = 0, len(weights) - 1
    words = np.arange(len(row), dtype=np.int32)
    near = np.empty(len(row) + 1, dtype=np.int32)
    for w in range(first, last):
        rare = 8 * window * (starts[w + 1] - starts[w]) < len(
            row
        )  # then its neighbors are noted, and not all words looked at
        step, size = 1 if rare else 0, 0
        for at in range(starts[w], starts[w + 1]):
            p = places[at]
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
        found = _take(row, near[:size] if rare else words, columns, counts, found)
        ends[w - first] = found
    return found


@compiled
def merge(
    edges: Longs, many_columns: Ids, many_counts: Floats, row: Doubles, columns: Ids, counts: Floats, ends: Longs
) -> int:
    """Add the rows of several counts of the same words; return how many counts there are.

    ``edges`` (words, runs, 2) say where the rows begin and end in ``many_columns`` and ``many_counts``; the rest is as
    in `count`.
    """
    found = 0
    for w in range(edges.shape[0]):
        for run in range(edges.shape[1]):
            for k in range(edges[w, run, 0], edges[w, run, 1]):
                row[many_columns[k]] += np.float64(many_counts[k])
        for run in range(edges.shape[1]):
            found = _take(row, many_columns[edges[w, run, 0] : edges[w, run, 1]], columns, counts, found)
        ends[w] = found
    return found


@compiled
def deal(
    starts: Longs,
    columns: Ids,
    counts: Floats,
    first: int,
    last: int,
    order: Ids,
    state: NDArray[np.uint64],
    out: Floats,
) -> None:
    """Deal the records of the rows first ≤ w < last out over blocks, a round at a time, each round in a new random
    order.

    ``out`` (B, R, 3) gets (w, column, count): round r is place r of each block. So each block is a sample of all
    records, as evenly drawn as can be, in the order of the rows. ``order`` (B,) is the round's, ``state`` (2,) the
    generator's and the number dealt.
    """
    blocks = len(order)
    z, done = state[0], np.int64(state[1])
    for w in range(first, last):
        for k in range(starts[w], starts[w + 1]):
            place = done % blocks
            if place == 0:
                for block in range(blocks):
                    order[block] = block
            z += GOLDEN
            other = place + np.int64((mix(z) >> np.uint64(32)) * np.uint64(blocks - place) >> np.uint64(32))
            order[place], order[other] = order[other], order[place]
            record = out[order[place], done // blocks]
            record[0], record[1], record[2] = w, columns[k], counts[k]
            done += 1
    state[0], state[1] = z, np.uint64(done)

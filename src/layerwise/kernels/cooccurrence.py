"""Counting which words stand near each other, each pair weighted by 1/distance (E31).

Shapes: ``T`` tokens, ``V`` words. The idea: word by word, so that all sums of one word lie in one row that the cache holds. The places of
each word are found by a counting sort; a place's neighbours on both sides are added to the row, and the row is then complete: rows
depend on no other and on no thread.

Source: J. Pennington, R. Socher, C. Manning, GloVe: Global Vectors for Word Representation (2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.compiling import compiled as _compiled

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
END, GAP = -1, -2


def _compact(tokens: Ints, out: Ints, at: int) -> int:
    """Append the tokens to ``out[:at]`` without GAP and repeated END; return the new length. ``out`` begins with END."""
    for token in tokens:
        if token >= 0 or (token == END and out[at - 1] != END):
            out[at] = token
            at += 1
    return at


def _places(tokens: Ints, starts: Longs, places: Ints) -> None:
    """Sort the places of words by word: those of w become ``places[starts[w]:starts[w + 1]]``, rising. ``starts`` (V + 1,) are zeros before."""
    for token in tokens:
        if token >= 0:
            starts[token + 1] += 1
    for w in range(1, len(starts)):
        starts[w] += starts[w - 1]
    for p in range(len(tokens)):
        token = tokens[p]
        if token >= 0:
            places[starts[token]] = p
            starts[token] += 1
    for w in range(len(starts) - 1, 0, -1):
        starts[w] = starts[w - 1]
    starts[0] = 0


def _rows(
    tokens: Ints, starts: Longs, places: Ints, first: int, last: int, window: int, row: Doubles, columns: Ints, counts: Floats, ends: Longs
) -> int:
    """Count the rows of the words first ≤ w < last; return how many counts there are.

    ``tokens`` begins and ends with END. Row w becomes ``columns`` and ``counts`` from the last row's end to ``ends[w - first]``.
    ``row`` (V,) float64 is zero before and after.
    """
    found = 0
    weights = np.empty(window + 1)
    for distance in range(1, window + 1):
        weights[distance] = 1.0 / distance
    for w in range(first, last):
        for at in range(starts[w], starts[w + 1]):
            p = places[at]
            for distance in range(1, window + 1):
                token = tokens[p - distance]
                if token < 0:
                    break
                row[token] += weights[distance]
            for distance in range(1, window + 1):
                token = tokens[p + distance]
                if token < 0:
                    break
                row[token] += weights[distance]
        for token in range(len(row)):
            if row[token] != 0.0:
                columns[found] = token
                counts[found] = row[token]
                found += 1
                row[token] = 0.0
        ends[w - first] = found
    return found


compact, places_of, rows_of = _compiled(_compact), _compiled(_places), _compiled(_rows)


def count(tokens: Ints, vocabulary: int, *, window: int = 15) -> Floats:
    """Return the co-occurrences of a stream of tokens (T,) as records (N, 3) float32: i, j, Σ 1/distance; by word, not shuffled.

    Symmetric: (j, i) has the same count. END (−1) ends a sentence, GAP (−2) is left out and the window closes over it.
    """
    kept = np.full(len(tokens) + 2, END, dtype=np.int32)
    length = compact(tokens, kept, 1)
    kept[length] = END
    kept = kept[: length + 1]
    starts, places = np.zeros(vocabulary + 1, dtype=np.int64), np.empty(length, dtype=np.int32)
    places_of(kept, starts, places)
    most = min(2 * window * length, vocabulary * vocabulary)
    columns, counts = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float32)
    ends = np.empty(vocabulary, dtype=np.int64)
    found = rows_of(kept, starts, places, 0, vocabulary, window, np.zeros(vocabulary), columns, counts, ends)
    words = np.repeat(np.arange(vocabulary), np.diff(ends, prepend=0))
    return np.column_stack([words, columns[:found], counts[:found]]).astype(np.float32)

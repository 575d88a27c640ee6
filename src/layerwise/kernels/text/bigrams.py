"""Pairs of neighbors in a stream of tokens: counts in bounded memory, and merging of pairs into one word.

Shapes: a table of pairs has ``S`` slots, a power of two; a key is ``a·2³² + b + 1`` (0: the slot is empty). Pairs do
not reach over `END` or `GAP`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.jit import compile_kernel
from layerwise.kernels.text import END

Ids = NDArray[np.int32]
Keys = NDArray[np.uint64]

MAX_SLOTS = 1 << 23  # of the table: 12 bytes each
INITIAL_SLOTS = 1 << 12
MAX_LOAD = 0.7  # share of the slots in use
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / φ
HALF, LOW, ONE, EMPTY = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1), np.uint64(0)
POSITION, LAST, TAKEN, COUNT = range(4)  # indices of the state


class PairCounts(NamedTuple):
    """Pairs ``first`` (P,), ``second`` (P,) and their ``counts`` (P,), sorted by first, then second."""

    first: Ids
    second: Ids
    counts: NDArray[np.int64]


@compile_kernel
def _find_slot(keys: Keys, key: Any) -> Any:
    """Return the slot of a key, or the empty slot where it belongs."""
    mask = np.uint64(len(keys) - 1)
    slot = (key * FACTOR >> HALF) & mask
    while keys[slot] != EMPTY and keys[slot] != key:
        slot = (slot + ONE) & mask
    return slot


@compile_kernel
def _make_key(first: Any, second: Any) -> Any:
    """Return the key of a pair."""
    return (np.uint64(first) << HALF | np.uint64(second)) + ONE


@compile_kernel
def _count_pairs(tokens: Ids, keys: Keys, counts: NDArray[np.uint32], limit: int, state: NDArray[np.int64]) -> None:
    """Count pairs from ``state[AT]`` on, until the tokens end or ``limit`` slots are taken."""
    last, taken = state[LAST], state[TAKEN]
    position = state[POSITION]
    while position < len(tokens) and taken < limit:
        token = tokens[position]
        if last >= 0 and token >= 0:
            key = _make_key(last, token)
            slot = _find_slot(keys, key)
            if keys[slot] == EMPTY:
                keys[slot] = key
                counts[slot] = 0
                taken += 1
            counts[slot] += 1
        last = token
        position += 1
    state[POSITION], state[LAST], state[TAKEN] = position, last, taken


@compile_kernel
def _insert(new_keys: Keys, values: Any, keys: Keys, table: Any) -> None:
    """Insert keys with their values into a table with enough empty slots."""
    for k in range(len(new_keys)):
        slot = _find_slot(keys, new_keys[k])
        keys[slot] = new_keys[k]
        table[slot] = values[k]


@compile_kernel
def _merge_pairs(tokens: Ids, last: bool, keys: Keys, ids: Ids, out: Ids, state: NDArray[np.int64]) -> None:
    """Merge pairs into one word, from left to right; a token belongs to one pair at most.

    ``state[LAST]`` is a word that waits for its neighbor, or `END`.
    """
    pending, count = state[LAST], 0
    for k in range(len(tokens)):
        token = np.int64(tokens[k])
        if pending >= 0:
            if token >= 0:
                slot = _find_slot(keys, _make_key(pending, token))
                if keys[slot] != EMPTY:
                    out[count] = ids[slot]
                    count += 1
                    pending = END
                    continue
            out[count] = pending
            count += 1
        pending = token
        if token < 0:
            out[count] = token
            count += 1
    if last and pending >= 0:
        out[count] = pending
        count += 1
        pending = END
    state[LAST], state[COUNT] = pending, count


class PairCounter:
    """Counts pairs of neighbors in a stream that comes in pieces.

    ``slots`` is the maximum size of the table: when it is full, the rarest pairs are forgotten until half of them are
    left; they are counted from 0 if they come again.
    """

    def __init__(self, *, slots: int = MAX_SLOTS) -> None:
        self.slots = slots
        size = min(INITIAL_SLOTS, slots)
        self._keys, self._counts = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.uint32)
        self._state = np.array([0, END, 0, 0], dtype=np.int64)
        self.forgotten = 0  # pairs with at most this many occurrences were forgotten

    @property
    def max_pairs(self) -> int:
        """The maximum number of different pairs in the table."""
        return int(MAX_LOAD * self.slots)

    def count(self, tokens: Ids) -> None:
        """Count the pairs of the next piece."""
        self._state[POSITION] = 0
        while True:
            _count_pairs(tokens, self._keys, self._counts, int(MAX_LOAD * len(self._keys)), self._state)
            if self._state[POSITION] == len(tokens):
                return
            self._reserve_space()

    def _reserve_space(self) -> None:
        """Enlarge the table, or forget the rarest pairs."""
        taken = np.flatnonzero(self._keys)
        keys, counts = self._keys[taken], self._counts[taken]
        size = len(self._keys)
        if size >= self.slots:
            middle = len(counts) // 2
            threshold = int(np.partition(counts, middle)[middle])
            self.forgotten = max(self.forgotten, threshold)
            mask = counts > threshold
            keys, counts = keys[mask], counts[mask]
            self._keys[:] = 0
        else:
            size *= 2
            self._keys, self._counts = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.uint32)
        _insert(keys, counts, self._keys, self._counts)
        self._state[TAKEN] = len(keys)

    def find_frequent(self, threshold: float) -> PairCounts:
        """Return the pairs that came more than ``threshold`` times."""
        taken = np.flatnonzero((self._keys != EMPTY) & (self._counts > threshold))
        keys = self._keys[taken] - ONE
        order = np.argsort(keys)
        first, second = (keys >> HALF).astype(np.int32), (keys & LOW).astype(np.int32)
        return PairCounts(first[order], second[order], self._counts[taken].astype(np.int64)[order])


class PairMerger:
    """Merges pairs into one word: ``first[k]`` followed by ``second[k]`` becomes ``ids[k]``, in a stream that comes in
    pieces."""

    def __init__(self, first: Ids, second: Ids, ids: Ids) -> None:
        size = 1 << max(4, (2 * len(first)).bit_length())
        self._keys, self._ids = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.int32)
        keys = (first.astype(np.uint64) << HALF | second.astype(np.uint64)) + ONE
        _insert(keys, ids, self._keys, self._ids)
        self._state = np.array([0, END, 0, 0], dtype=np.int64)

    def merge(self, tokens: Ids, *, last: bool = False) -> Ids:
        """Return the next piece, which may be one token shorter than this one, or one longer. ``last``: the stream ends
        here."""
        out = np.empty(len(tokens) + 1, dtype=np.int32)
        _merge_pairs(tokens, last, self._keys, self._ids, out, self._state)
        return out[: self._state[COUNT]]

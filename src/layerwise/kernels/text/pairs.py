"""Neighbors in a stream of tokens: how often each pair of words comes, in bounded memory, and pairs written as one
word.

Shapes: a table of pairs has ``S`` slots, a power of two; a key is ``a·2³² + b + 1`` (0: the slot is empty). Pairs do
not reach over `END` nor over `GAP`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.compiling import compiled
from layerwise.kernels.text.tokens import END

Ids = NDArray[np.int32]
Keys = NDArray[np.uint64]

SLOTS = 1 << 23  # of the table at most: 12 bytes each
FIRST = 1 << 12  # of the table at the beginning
LOAD = 0.7  # share of the slots that are taken at most
FACTOR, HALF, LOW, ONE, EMPTY = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(32),
    np.uint64(0xFFFFFFFF),
    np.uint64(1),
    np.uint64(0),
)
AT, LAST, TAKEN, MADE = range(4)  # places of the states


class Counted(NamedTuple):
    """Pairs ``first`` (P,), ``second`` (P,) and how often they come, ``counts`` (P,); in order of first, then
    second."""

    first: Ids
    second: Ids
    counts: NDArray[np.int64]


@compiled
def _place(keys: Keys, key: Any) -> Any:
    """Return the slot of a key, or the empty one where it belongs."""
    mask = np.uint64(len(keys) - 1)
    place = (key * FACTOR >> HALF) & mask
    while keys[place] != EMPTY and keys[place] != key:
        place = (place + ONE) & mask
    return place


@compiled
def _key(first: Any, second: Any) -> Any:
    """Return the key of a pair."""
    return (np.uint64(first) << HALF | np.uint64(second)) + ONE


@compiled
def _count(tokens: Ids, keys: Keys, counts: NDArray[np.uint32], most: int, state: NDArray[np.int64]) -> None:
    """Count pairs from ``state[AT]`` on, until the tokens end or ``most`` slots are taken."""
    last, taken = state[LAST], state[TAKEN]
    at = state[AT]
    while at < len(tokens) and taken < most:
        token = tokens[at]
        if last >= 0 and token >= 0:
            key = _key(last, token)
            place = _place(keys, key)
            if keys[place] == EMPTY:
                keys[place] = key
                counts[place] = 0
                taken += 1
            counts[place] += 1
        last = token
        at += 1
    state[AT], state[LAST], state[TAKEN] = at, last, taken


@compiled
def _enter(found: Keys, values: Any, keys: Keys, held: Any) -> None:
    """Enter keys with their values in a table that has room for them."""
    for k in range(len(found)):
        place = _place(keys, found[k])
        keys[place] = found[k]
        held[place] = values[k]


@compiled
def _join(tokens: Ids, last: bool, keys: Keys, ids: Ids, out: Ids, state: NDArray[np.int64]) -> None:
    """Write pairs as one word, left to right; what a pair was made of is in no other.

    ``state[LAST]`` is a word that waits for its neighbor, or `END`.
    """
    held, made = state[LAST], 0
    for k in range(len(tokens)):
        token = np.int64(tokens[k])
        if held >= 0:
            if token >= 0:
                place = _place(keys, _key(held, token))
                if keys[place] != EMPTY:
                    out[made] = ids[place]
                    made += 1
                    held = END
                    continue
            out[made] = held
            made += 1
        held = token
        if token < 0:
            out[made] = token
            made += 1
    if last and held >= 0:
        out[made] = held
        made += 1
        held = END
    state[LAST], state[MADE] = held, made


class Pairs:
    """Counts neighbors in a stream that comes in pieces.

    ``slots`` is the size of the table at most: when it is full, the rarest pairs are forgotten until half of them are
    left, and are counted from 0 if they come again.
    """

    def __init__(self, *, slots: int = SLOTS) -> None:
        self.slots = slots
        size = min(FIRST, slots)
        self._keys, self._counts = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.uint32)
        self._state = np.array([0, END, 0, 0], dtype=np.int64)
        self.forgotten = 0  # pairs with so few occurrences, or fewer, were forgotten

    @property
    def most(self) -> int:
        """How many different pairs are held at most."""
        return int(LOAD * self.slots)

    def count(self, tokens: Ids) -> None:
        """Read on."""
        self._state[AT] = 0
        while True:
            _count(tokens, self._keys, self._counts, int(LOAD * len(self._keys)), self._state)
            if self._state[AT] == len(tokens):
                return
            self._make_room()

    def _make_room(self) -> None:
        """Enlarge the table, or forget the rarest pairs."""
        taken = np.flatnonzero(self._keys)
        keys, counts = self._keys[taken], self._counts[taken]
        size = len(self._keys)
        if size >= self.slots:
            middle = len(counts) // 2
            rare = int(np.partition(counts, middle)[middle])
            self.forgotten = max(self.forgotten, rare)
            kept = counts > rare
            keys, counts = keys[kept], counts[kept]
            self._keys[:] = 0
        else:
            size *= 2
            self._keys, self._counts = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.uint32)
        _enter(keys, counts, self._keys, self._counts)
        self._state[TAKEN] = len(keys)

    def found(self, least: float) -> Counted:
        """Return the pairs that came more than ``least`` times."""
        taken = np.flatnonzero((self._keys != EMPTY) & (self._counts > least))
        keys = self._keys[taken] - ONE
        order = np.argsort(keys)
        first, second = (keys >> HALF).astype(np.int32), (keys & LOW).astype(np.int32)
        return Counted(first[order], second[order], self._counts[taken].astype(np.int64)[order])


class Joiner:
    """Writes pairs as one word: ``first[k]`` and ``second[k]`` side by side become ``ids[k]``, in a stream that comes
    in pieces."""

    def __init__(self, first: Ids, second: Ids, ids: Ids) -> None:
        size = 1 << max(4, (2 * len(first)).bit_length())
        self._keys, self._ids = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.int32)
        keys = (first.astype(np.uint64) << HALF | second.astype(np.uint64)) + ONE
        _enter(keys, ids, self._keys, self._ids)
        self._state = np.array([0, END, 0, 0], dtype=np.int64)

    def join(self, tokens: Ids, *, last: bool = False) -> Ids:
        """Return the next piece, which may be a token short of this one, or have one more. ``last``: the stream ends
        here."""
        out = np.empty(len(tokens) + 1, dtype=np.int32)
        _join(tokens, last, self._keys, self._ids, out, self._state)
        return out[: self._state[MADE]]

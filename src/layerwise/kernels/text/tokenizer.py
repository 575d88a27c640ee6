"""A tokenizer that is fed piece by piece, and the table of words that it fills (`kernels.tokenize`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.text.tokenize import (
    AT,
    BREAK,
    FULL,
    INVALID,
    LETTER,
    MADE,
    POINTS,
    ROOM,
    STATUS,
    USED,
    WORDS,
    Bytes,
    Ids,
    Longs,
    close_up,
    read_on,
    rehash,
)
from layerwise.kernels.text.tokens import GAP

FIRST = 1 << 12  # words that there is room for at the beginning
MOST = 1 << 22  # words kept at most; beyond it the rarest are forgotten


class NotUtf8(ValueError):
    """Bytes that are no UTF-8. ``at`` counts from the first byte that was fed."""

    def __init__(self, at: int, byte: int) -> None:
        self.at, self.byte = at, byte
        super().__init__(f"byte {at} (0x{byte:02x}) is no UTF-8")


class Sink(Protocol):
    """Where tokens go."""

    def write(self, tokens: Ids) -> None:
        """Take further tokens; the array is used again afterwards."""
        ...

    def renumber(self, mapping: Ids) -> None:
        """Send all ids taken so far through the mapping (of the old words; `GAP` for those that are forgotten)."""
        ...


class WordTable:
    """Words, their numbers and counts.

    When more than ``most`` different ones have come, the rarest are forgotten until at most half are left, as
    word2vec's ReduceVocab does; one that comes again is counted from 0.
    """

    def __init__(self, *, most: int = MOST) -> None:
        self.most = most
        room = min(FIRST, most)
        self.slots = np.zeros(_slots_for(room), dtype=np.uint64)
        self._starts = np.zeros(room + 1, dtype=np.int64)
        self._counts = np.zeros(room, dtype=np.int64)
        self._arena = np.empty(2 * ROOM, dtype=np.uint8)
        self.state = np.zeros(6, dtype=np.int64)
        self.forgotten = 0  # words with so few occurrences, or fewer, were forgotten

    def __len__(self) -> int:
        return int(self.state[WORDS])

    @property
    def counts(self) -> Longs:
        """How often each word came, (V,) int64; a view."""
        return self._counts[: len(self)]

    @property
    def starts(self) -> Longs:
        """Where each word begins in `arena`, and where the last one ends, (V + 1,) int64."""
        return self._starts[: len(self) + 1]

    @property
    def arena(self) -> Bytes:
        """The words' bytes, one after the other."""
        return self._arena[: self.state[USED]]

    def word(self, number: int) -> bytes:
        """Return a word."""
        return self._arena[self._starts[number] : self._starts[number + 1]].tobytes()

    def read_on(self, data: Bytes, last: bool, classes: Bytes, fold: Ids, out: Ids) -> None:
        """Run the compiled loop from where the state says (`kernels.tokenize.read_on`)."""
        read_on(data, last, classes, fold, self.slots, self._starts, self._arena, self._counts, out, self.state)

    def make_room(self) -> Ids | None:
        """Enlarge what is full; or forget the rarest words, and return the new numbers of all (`keep`)."""
        used = int(self.state[USED])
        if len(self._arena) - used < ROOM:
            self._arena = _longer(self._arena, 2 * len(self._arena), used)
        if len(self) < len(self._counts):
            return None
        if len(self) >= self.most:
            middle = len(self) // 2
            rare = int(np.partition(self.counts, middle)[middle])
            self.forgotten = max(self.forgotten, rare)
            return self.keep(self.counts > rare)
        self.grow(2 * len(self))
        return None

    def grow(self, room: int) -> None:
        """Make room for so many words, but no more than the most that are kept."""
        words, room = len(self), min(room, self.most)
        if room <= len(self._counts):
            return
        self._starts = _longer(self._starts, room + 1, words + 1)
        self._counts = _longer(self._counts, room, words)
        self._enter(np.arange(words, dtype=np.int32), _slots_for(room))

    def keep(self, kept: NDArray[np.bool_]) -> Ids:
        """Forget the words (V,) that are not kept; return the new number of each (V,), `GAP` for the forgotten."""
        mapping = np.where(kept, np.cumsum(kept) - 1, GAP).astype(np.int32)
        self._enter(mapping, len(self.slots))
        used = close_up(mapping, self._starts, self._arena, self._counts, len(self))
        self.state[USED], self.state[WORDS] = used, int(kept.sum())
        self._starts[len(self)] = used
        return mapping

    def _enter(self, mapping: Ids, slots: int) -> None:
        """Enter all words in a new table, under new numbers."""
        old, self.slots = self.slots, np.zeros(slots, dtype=np.uint64)
        rehash(old, mapping, self.slots)


class Tokenizer:
    """Reads UTF-8 in pieces of any size and gives ids of words, counted from 0 in order of first occurrence.

    Args:
        classes: the class of each code point, (`POINTS`,) uint8.
        fold: the code point that each is written as, (`POINTS`,) int32.
        table: the words. Those that it forgets become `GAP` in what was written.
        sink: where the tokens go.
    """

    def __init__(self, classes: Bytes, fold: Ids, table: WordTable, sink: Sink) -> None:
        self.classes, self.fold, self.table, self.sink = classes, fold, table, sink
        self._out = np.empty(0, dtype=np.int32)
        self._tail = b""
        self._fed = 0

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """Read on. ``last``: the text ends here, and with it its last word and sentence; another may follow.

        Raises `NotUtf8`.
        """
        piece = np.frombuffer(self._tail + data, dtype=np.uint8)
        if len(self._out) < len(piece) + 2:
            self._out = np.empty(len(piece) + 2, dtype=np.int32)
        state = self.table.state
        state[AT] = 0
        while True:
            state[MADE] = 0
            self.table.read_on(piece, last, self.classes, self.fold, self._out)
            self.sink.write(self._out[: state[MADE]])
            if state[STATUS] != FULL:
                break
            mapping = self.table.make_room()
            if mapping is not None:
                self.sink.renumber(mapping)
        at = int(state[AT])
        if state[STATUS] == INVALID:
            raise NotUtf8(self._fed - len(self._tail) + at, int(piece[at]))
        self._fed = 0 if last else self._fed + len(data)
        self._tail = b"" if last else piece[at:].tobytes()


class _Held:
    """A sink that holds words."""

    def __init__(self) -> None:
        self.pieces: list[Ids] = []

    def write(self, tokens: Ids) -> None:
        self.pieces.append(tokens[tokens >= 0])

    def renumber(self, mapping: Ids) -> None:
        raise AssertionError("there was room for all")


def numbered(table: WordTable, words: Sequence[bytes]) -> Ids:
    """Return the numbers of words (N,), which are entered if they are new, and counted.

    Each is at most `kernels.tokenize.LONGEST` bytes long, and has no line feed. All are kept, even beyond the most.
    """
    classes = np.full(POINTS, LETTER, dtype=np.uint8)
    classes[ord("\n")] = BREAK
    table.most = max(table.most, len(table) + len(words) + 1)
    held = _Held()
    Tokenizer(classes, np.arange(POINTS, dtype=np.int32), table, held).feed(b"\n".join(words), last=True)
    return np.concatenate([np.empty(0, dtype=np.int32), *held.pieces])


def _slots_for(words: int) -> int:
    """Return how many slots a table of so many words has: a power of two, at most half of them taken."""
    return 1 << max(4, (2 * words - 1).bit_length())


def _longer(array: NDArray[Any], length: int, used: int) -> NDArray[Any]:
    """Return a longer array with the same beginning."""
    out = np.empty(length, dtype=array.dtype)
    out[:used] = array[:used]
    return out

"""A streaming tokenizer and the table of words that it fills (`kernels.text.tokenizer_loops`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.text import GAP
from layerwise.kernels.text.tokenizer_loops import (
    ARENA_SLACK,
    BREAK,
    CODE_POINTS,
    COUNT,
    FULL,
    INVALID,
    LETTER,
    POSITION,
    STATUS,
    USED,
    WORDS,
    Bytes,
    Ids,
    Longs,
    compact_words,
    rehash,
    scan,
)

INITIAL_WORDS = 1 << 12  # capacity at the start
MAX_WORDS = 1 << 22  # beyond it the rarest words are forgotten


class InvalidUtf8Error(ValueError):
    """Bytes are not UTF-8. ``at`` counts from the first byte that was fed."""

    def __init__(self, at: int, byte: int) -> None:
        self.at, self.byte = at, byte
        super().__init__(f"byte {at} (0x{byte:02x}) is not valid UTF-8")


class TokenSink(Protocol):
    """A receiver of tokens."""

    def write(self, tokens: Ids) -> None:
        """Receive further tokens; the array is reused afterwards."""
        ...

    def renumber(self, mapping: Ids) -> None:
        """Replace all ids received so far by those of the mapping (of the old words; `GAP` for forgotten words)."""
        ...


class WordTable:
    """Words, their numbers and counts.

    Beyond ``max_words`` different words the rarest are forgotten until at most half are left, like word2vec's
    ReduceVocab; a word that comes again is counted from 0.
    """

    def __init__(self, *, max_words: int = MAX_WORDS) -> None:
        self.max_words = max_words
        capacity = min(INITIAL_WORDS, max_words)
        self.slots = np.zeros(_count_slots(capacity), dtype=np.uint64)
        self._starts = np.zeros(capacity + 1, dtype=np.int64)
        self._counts = np.zeros(capacity, dtype=np.int64)
        self._arena = np.empty(2 * ARENA_SLACK, dtype=np.uint8)
        self.state = np.zeros(6, dtype=np.int64)
        self.forgotten = 0  # words with at most this many occurrences were forgotten

    def __len__(self) -> int:
        return int(self.state[WORDS])

    @property
    def counts(self) -> Longs:
        """The count of each word, (V,) int64; a view."""
        return self._counts[: len(self)]

    @property
    def starts(self) -> Longs:
        """The start of each word in `arena`, and the end of the last one, (V + 1,) int64."""
        return self._starts[: len(self) + 1]

    @property
    def arena(self) -> Bytes:
        """The concatenated bytes of the words."""
        return self._arena[: self.state[USED]]

    def word(self, number: int) -> bytes:
        """Return a word."""
        return self._arena[self._starts[number] : self._starts[number + 1]].tobytes()

    def scan(self, data: Bytes, last: bool, classes: Bytes, fold: Ids, out: Ids) -> None:
        """Continue the compiled loop from the position in the state (`tokenizer_loops.scan`)."""
        scan(data, last, classes, fold, self.slots, self._starts, self._arena, self._counts, out, self.state)

    def reserve_space(self) -> Ids | None:
        """Enlarge the full arrays, or forget the rarest words and return the new numbers of all (`keep`)."""
        used = int(self.state[USED])
        if len(self._arena) - used < ARENA_SLACK:
            self._arena = _grow_array(self._arena, 2 * len(self._arena), used)
        if len(self) < len(self._counts):
            return None
        if len(self) >= self.max_words:
            middle = len(self) // 2
            threshold = int(np.partition(self.counts, middle)[middle])
            self.forgotten = max(self.forgotten, threshold)
            return self.keep(self.counts > threshold)
        self.grow(2 * len(self))
        return None

    def grow(self, capacity: int) -> None:
        """Raise the capacity to so many words, at most `max_words`."""
        words, capacity = len(self), min(capacity, self.max_words)
        if capacity <= len(self._counts):
            return
        self._starts = _grow_array(self._starts, capacity + 1, words + 1)
        self._counts = _grow_array(self._counts, capacity, words)
        self._reindex(np.arange(words, dtype=np.int32), _count_slots(capacity))

    def keep(self, mask: NDArray[np.bool_]) -> Ids:
        """Forget the words outside the mask (V,); return the new number of each word (V,), `GAP` for the forgotten."""
        mapping = np.where(mask, np.cumsum(mask) - 1, GAP).astype(np.int32)
        self._reindex(mapping, len(self.slots))
        used = compact_words(mapping, self._starts, self._arena, self._counts, len(self))
        self.state[USED], self.state[WORDS] = used, int(mask.sum())
        self._starts[len(self)] = used
        return mapping

    def _reindex(self, mapping: Ids, slots: int) -> None:
        """Insert all words into a new table, under new numbers."""
        old, self.slots = self.slots, np.zeros(slots, dtype=np.uint64)
        rehash(old, mapping, self.slots)


class Tokenizer:
    """Tokenizes UTF-8 in pieces of any size into ids of words, numbered from 0 in order of first occurrence.

    Args:
        classes: the class of each code point, (`CODE_POINTS`,) uint8.
        fold: the code point that replaces each code point, (`CODE_POINTS`,) int32.
        table: the words. Those that it forgets become `GAP` in the sink.
        sink: the receiver of the tokens.
    """

    def __init__(self, classes: Bytes, fold: Ids, table: WordTable, sink: TokenSink) -> None:
        self.classes, self.fold, self.table, self.sink = classes, fold, table, sink
        self._out = np.empty(0, dtype=np.int32)
        self._tail = b""
        self._fed = 0

    def feed(self, data: bytes, *, last: bool = False) -> None:
        """Tokenize the next piece. ``last``: the text, its last word and sentence end here; another text may follow.

        Raises `InvalidUtf8Error`.
        """
        piece = np.frombuffer(self._tail + data, dtype=np.uint8)
        if len(self._out) < len(piece) + 2:
            self._out = np.empty(len(piece) + 2, dtype=np.int32)
        state = self.table.state
        state[POSITION] = 0
        while True:
            state[COUNT] = 0
            self.table.scan(piece, last, self.classes, self.fold, self._out)
            self.sink.write(self._out[: state[COUNT]])
            if state[STATUS] != FULL:
                break
            mapping = self.table.reserve_space()
            if mapping is not None:
                self.sink.renumber(mapping)
        at = int(state[POSITION])
        if state[STATUS] == INVALID:
            raise InvalidUtf8Error(self._fed - len(self._tail) + at, int(piece[at]))
        self._fed = 0 if last else self._fed + len(data)
        self._tail = b"" if last else piece[at:].tobytes()


class _WordCollector:
    """A sink that collects words."""

    def __init__(self) -> None:
        self.pieces: list[Ids] = []

    def write(self, tokens: Ids) -> None:
        self.pieces.append(tokens[tokens >= 0])

    def renumber(self, mapping: Ids) -> None:
        raise AssertionError("the table is large enough for all words")


def index_words(table: WordTable, words: Sequence[bytes]) -> Ids:
    """Count words, insert the new ones, and return their numbers (N,).

    Each is at most `tokenizer_loops.MAX_TOKEN_BYTES` bytes long, without line feeds. The table grows beyond `max_words`
    where needed.
    """
    classes = np.full(CODE_POINTS, LETTER, dtype=np.uint8)
    classes[ord("\n")] = BREAK
    table.max_words = max(table.max_words, len(table) + len(words) + 1)
    collector = _WordCollector()
    Tokenizer(classes, np.arange(CODE_POINTS, dtype=np.int32), table, collector).feed(b"\n".join(words), last=True)
    return np.concatenate([np.empty(0, dtype=np.int32), *collector.pieces])


def _count_slots(words: int) -> int:
    """Return the number of slots of a table for so many words: a power of two, at most half of them in use."""
    return 1 << max(4, (2 * words - 1).bit_length())


def _grow_array(array: NDArray[Any], length: int, used: int) -> NDArray[Any]:
    """Return a longer array with the same beginning."""
    out = np.empty(length, dtype=array.dtype)
    out[:used] = array[:used]
    return out

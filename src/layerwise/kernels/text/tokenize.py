"""Text to numbers of words, as a compiled loop over the bytes of UTF-8.

The idea: one pass. Each code point is looked up in two tables, its class and what it is folded to (lower case); what
belongs to the open word is written at the end of an arena of bytes, and hashed as it is written. When the word ends it
is looked up in an
open-addressing table: a word that is new stays in the arena, one that is known gives its place back. A slot of the
table holds 32 bits of the hash beside the number, so that a miss rarely touches the arena, and growing needs no hash
again.

What ends where (`BLANK` … `BREAK`):

    token = SINGLE MARK*  |  (LETTER | MARK) (LETTER | MARK | INNER LETTER)*

with `HIDDEN` code points left out wherever they are within a token, and `END` where a line that has tokens ends. A
token of more than `LONGEST` bytes is cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.compiling import compiled
from layerwise.kernels.text.tokens import END

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int32]
Longs = NDArray[np.int64]
Slots = NDArray[np.uint64]

BLANK, LETTER, MARK, SINGLE, INNER, HIDDEN, BREAK = range(7)  # classes of code points
POINTS = 0x110000  # code points there are
LONGEST = 1000  # bytes of a token; what is longer is cut there
ROOM = 4 * LONGEST  # bytes that the arena must have left: folding can lengthen a code point
AT, MADE, WORDS, USED, OPEN, STATUS = range(6)  # places of the state
DONE, FULL, INVALID = range(3)  # its statuses
SEED, FACTOR = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)  # digits of π; 2⁶⁴ / φ
HALF, LOW, ONE = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)
EMPTY = np.uint64(0)


@compiled
def _decode(data: Bytes, at: int) -> Any:
    """Return the code point of several bytes and their number; (0, 0) where the data end within it, (0, -1) if it is
    none."""
    first = np.int64(data[at])
    if first < 0xC2 or first > 0xF4:
        return 0, -1
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    point = first & (0x7F >> size)
    for k in range(1, size):
        if at + k >= len(data):
            return 0, 0
        more = np.int64(data[at + k])
        low, high = 0x80, 0xBF
        if k == 1:  # no overlong forms, surrogates, or numbers beyond the last code point
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
            elif first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        if more < low or more > high:
            return 0, -1
        point = point << 6 | (more & 0x3F)
    return point, size


@compiled
def _put(arena: Bytes, end: int, point: int) -> int:
    """Write a code point as UTF-8 and return where it ends."""
    if point < 0x80:
        arena[end] = point
        return end + 1
    if point < 0x800:
        arena[end] = 0xC0 | point >> 6
        arena[end + 1] = 0x80 | point & 0x3F
        return end + 2
    if point < 0x10000:
        arena[end] = 0xE0 | point >> 12
        arena[end + 1] = 0x80 | point >> 6 & 0x3F
        arena[end + 2] = 0x80 | point & 0x3F
        return end + 3
    arena[end] = 0xF0 | point >> 18
    arena[end + 1] = 0x80 | point >> 12 & 0x3F
    arena[end + 2] = 0x80 | point >> 6 & 0x3F
    arena[end + 3] = 0x80 | point & 0x3F
    return end + 4


@compiled
def _intern(tag: Any, end: int, slots: Slots, starts: Longs, arena: Bytes, words: int) -> Any:
    """Return the number of the word at the end of the arena; that of a new word is ``words``, and it is entered."""
    begin = starts[words]
    length = end - begin
    mask = np.uint64(len(slots) - 1)
    place = tag & mask
    while slots[place] != EMPTY:
        if slots[place] >> HALF == tag:
            number = np.int64(slots[place] & LOW) - 1
            start = starts[number]
            if starts[number + 1] - start == length:
                same = True
                for k in range(length):
                    if arena[start + k] != arena[begin + k]:
                        same = False
                        break
                if same:
                    return number
        place = (place + ONE) & mask
    slots[place] = tag << HALF | np.uint64(words + 1)
    starts[words + 1] = end
    return words


@compiled
def read_on(
    data: Bytes,
    last: bool,
    classes: Bytes,
    fold: Ids,
    slots: Slots,
    starts: Longs,
    arena: Bytes,
    counts: Longs,
    out: Ids,
    state: Longs,
) -> None:
    """Read on from ``state[AT]`` until the data end, a table is full or a byte is wrong. A word that the data end
    within is left for the next call, unless they are the ``last``; ``state[AT]`` is then where it begins."""
    at, made, words, used, opened = state[AT], state[MADE], state[WORDS], state[USED], state[OPEN]
    status, kind, begun, end, tag = DONE, BLANK, at, used, SEED
    pending: Any = 0  # an apostrophe that belongs to the word only if a letter follows
    found: Any = BLANK
    size = 1
    while True:
        if at < len(data):
            point = np.int64(data[at])
            size = 1
            if point >= 0x80:
                point, size = _decode(data, at)
                if size <= 0:
                    if size < 0 or last:
                        status = INVALID
                    break
            found = np.int64(classes[point])
        elif last:
            found = BREAK
        else:
            break
        if kind != BLANK:
            if at - begun < LONGEST:
                if found == HIDDEN:
                    at += size
                    continue
                if found == INNER and kind == LETTER and pending == 0:
                    pending = np.int64(fold[point])
                    at += size
                    continue
                if (found == LETTER and kind == LETTER) or (found == MARK and pending == 0):
                    if pending:
                        end = _put(arena, end, pending)
                        tag = (tag ^ np.uint64(pending)) * FACTOR
                        pending = 0
                    point = np.int64(fold[point])
                    end = _put(arena, end, point)
                    tag = (tag ^ np.uint64(point)) * FACTOR
                    at += size
                    continue
            number = _intern(tag >> HALF, end, slots, starts, arena, words)
            if number == words:
                counts[number] = 0
                words += 1
                used = end
            counts[number] += 1
            out[made] = number
            made += 1
            opened, kind, pending = 1, BLANK, 0
        if found in (LETTER, SINGLE, MARK):
            if words == len(counts) or len(arena) - used < ROOM:
                status = FULL
                break
            begun, kind = at, SINGLE if found == SINGLE else LETTER
            point = np.int64(fold[point])
            end = _put(arena, used, point)
            tag = (SEED ^ np.uint64(point)) * FACTOR
        elif found == BREAK and opened:
            out[made] = END
            made += 1
            opened = 0
        if at >= len(data):
            break
        at += size
    state[AT] = begun if kind != BLANK and status != INVALID else at
    state[MADE], state[WORDS], state[USED], state[OPEN], state[STATUS] = made, words, used, opened, status


@compiled
def rehash(slots: Slots, mapping: Ids, new: Slots) -> None:
    """Enter the words of a table in another one under other numbers; those that the mapping sends below 0 are left
    out."""
    mask = np.uint64(len(new) - 1)
    for slot in slots:
        if slot == EMPTY:
            continue
        number = mapping[np.int64(slot & LOW) - 1]
        if number < 0:
            continue
        tag = slot >> HALF
        place = tag & mask
        while new[place] != EMPTY:
            place = (place + ONE) & mask
        new[place] = tag << HALF | np.uint64(number + 1)


@compiled
def close_up(mapping: Ids, starts: Longs, arena: Bytes, counts: Longs, words: int) -> int:
    """Move the words that are kept together, in order; return how many bytes they take."""
    used = 0
    for number in range(words):
        new = np.int64(mapping[number])
        if new < 0:
            continue
        begin, end = starts[number], starts[number + 1]
        for k in range(begin, end):
            arena[used + k - begin] = arena[k]
        counts[new] = counts[number]
        starts[new] = used  # new ≤ number, and what lies there has been read
        used += end - begin
    return used


@compiled
def _tally(tokens: Ids, counts: Longs) -> None:
    """Add how often each word comes."""
    for token in tokens:
        if token >= 0:
            counts[token] += 1


@compiled
def _recode(tokens: Ids, mapping: Ids) -> None:
    """Send ids through a mapping, in place; marks stay."""
    for k in range(len(tokens)):
        if tokens[k] >= 0:
            tokens[k] = mapping[tokens[k]]


def tally(tokens: Ids, counts: Longs) -> None:
    """Add to ``counts`` (V,) how often each of the words comes in ``tokens`` (any shape); ids are below V."""
    _tally(np.ascontiguousarray(tokens, dtype=np.int32).reshape(-1), counts)


def recode(tokens: Ids, mapping: Ids) -> None:
    """Send the ids in ``tokens`` (any shape, C-contiguous) through ``mapping`` (V,) in place; `END` and `GAP` stay."""
    _recode(tokens.reshape(-1), mapping)

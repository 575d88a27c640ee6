"""Text to numbers of words: a compiled loop over the bytes of UTF-8.

One pass. Each code point is looked up in two tables: its class, and its folded form (lower case). The bytes of the
current word are appended to an arena and hashed on the way. At its end the word is looked up in an open-addressing
table: a new word stays in the arena, the bytes of a known one are overwritten. A slot of the table holds 32 bits of the
hash beside the number, so that a miss rarely reads the arena, and growing the table needs no new hashes.

The token rules (classes `BLANK` … `BREAK`):

    token = SINGLE MARK*  |  (LETTER | MARK) (LETTER | MARK | INNER LETTER)*

`HIDDEN` code points inside a token are dropped, and `END` is emitted at the end of a line that has tokens. A token of
more than `MAX_TOKEN_BYTES` bytes is cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.jit import compile_kernel
from layerwise.kernels.text import END

Bytes = NDArray[np.uint8]
Ids = NDArray[np.int32]
Longs = NDArray[np.int64]
Slots = NDArray[np.uint64]

BLANK, LETTER, MARK, SINGLE, INNER, HIDDEN, BREAK = range(7)  # classes of code points
CODE_POINTS = 0x110000  # of Unicode
MAX_TOKEN_BYTES = 1000  # a longer token is cut there
ARENA_SLACK = 4 * MAX_TOKEN_BYTES  # free bytes that the arena must have: folding can lengthen a code point
POSITION, COUNT, WORDS, USED, IN_SENTENCE, STATUS = range(6)  # indices of the state
DONE, FULL, INVALID = range(3)  # values of the status
SEED, FACTOR = np.uint64(0x243F6A8885A308D3), np.uint64(0x9E3779B97F4A7C15)  # digits of π; 2⁶⁴ / φ
HALF, LOW, ONE = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)
EMPTY = np.uint64(0)


@compile_kernel
def _decode(data: Bytes, position: int) -> Any:
    """Return the code point of a sequence of several bytes and its length; (0, 0) if the data end within it, (0, -1) if
    it is invalid."""
    first = np.int64(data[position])
    if first < 0xC2 or first > 0xF4:
        return 0, -1
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    code_point = first & (0x7F >> size)
    for k in range(1, size):
        if position + k >= len(data):
            return 0, 0
        byte = np.int64(data[position + k])
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
        if byte < low or byte > high:
            return 0, -1
        code_point = code_point << 6 | (byte & 0x3F)
    return code_point, size


@compile_kernel
def _write_code_point(arena: Bytes, end: int, code_point: int) -> int:
    """Write a code point as UTF-8 and return its end."""
    if code_point < 0x80:
        arena[end] = code_point
        return end + 1
    if code_point < 0x800:
        arena[end] = 0xC0 | code_point >> 6
        arena[end + 1] = 0x80 | code_point & 0x3F
        return end + 2
    if code_point < 0x10000:
        arena[end] = 0xE0 | code_point >> 12
        arena[end + 1] = 0x80 | code_point >> 6 & 0x3F
        arena[end + 2] = 0x80 | code_point & 0x3F
        return end + 3
    arena[end] = 0xF0 | code_point >> 18
    arena[end + 1] = 0x80 | code_point >> 12 & 0x3F
    arena[end + 2] = 0x80 | code_point >> 6 & 0x3F
    arena[end + 3] = 0x80 | code_point & 0x3F
    return end + 4


@compile_kernel
def _intern(tag: Any, end: int, slots: Slots, starts: Longs, arena: Bytes, words: int) -> Any:
    """Return the number of the word at the end of the arena; a new word is inserted with the number ``words``."""
    begin = starts[words]
    length = end - begin
    mask = np.uint64(len(slots) - 1)
    slot = tag & mask
    while slots[slot] != EMPTY:
        if slots[slot] >> HALF == tag:
            number = np.int64(slots[slot] & LOW) - 1
            start = starts[number]
            if starts[number + 1] - start == length:
                same = True
                for k in range(length):
                    if arena[start + k] != arena[begin + k]:
                        same = False
                        break
                if same:
                    return number
        slot = (slot + ONE) & mask
    slots[slot] = tag << HALF | np.uint64(words + 1)
    starts[words + 1] = end
    return words


@compile_kernel
def scan(
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
    """Scan from ``state[POSITION]`` until the data end, a table is full or a byte is invalid. A word cut by the end of
    the data is left for the next call, unless this piece is the ``last``; ``state[POSITION]`` is then its start."""
    position, count, words, used, in_sentence = (
        state[POSITION],
        state[COUNT],
        state[WORDS],
        state[USED],
        state[IN_SENTENCE],
    )
    status, kind, begin, end, tag = DONE, BLANK, position, used, SEED
    pending: Any = 0  # an apostrophe that belongs to the word only if a letter follows
    char_class: Any = BLANK
    size = 1
    while True:
        if position < len(data):
            code_point = np.int64(data[position])
            size = 1
            if code_point >= 0x80:
                code_point, size = _decode(data, position)
                if size <= 0:
                    if size < 0 or last:
                        status = INVALID
                    break
            char_class = np.int64(classes[code_point])
        elif last:
            char_class = BREAK
        else:
            break
        if kind != BLANK:
            if position - begin < MAX_TOKEN_BYTES:
                if char_class == HIDDEN:
                    position += size
                    continue
                if char_class == INNER and kind == LETTER and pending == 0:
                    pending = np.int64(fold[code_point])
                    position += size
                    continue
                if (char_class == LETTER and kind == LETTER) or (char_class == MARK and pending == 0):
                    if pending:
                        end = _write_code_point(arena, end, pending)
                        tag = (tag ^ np.uint64(pending)) * FACTOR
                        pending = 0
                    code_point = np.int64(fold[code_point])
                    end = _write_code_point(arena, end, code_point)
                    tag = (tag ^ np.uint64(code_point)) * FACTOR
                    position += size
                    continue
            number = _intern(tag >> HALF, end, slots, starts, arena, words)
            if number == words:
                counts[number] = 0
                words += 1
                used = end
            counts[number] += 1
            out[count] = number
            count += 1
            in_sentence, kind, pending = 1, BLANK, 0
        if char_class in (LETTER, SINGLE, MARK):
            if words == len(counts) or len(arena) - used < ARENA_SLACK:
                status = FULL
                break
            begin, kind = position, SINGLE if char_class == SINGLE else LETTER
            code_point = np.int64(fold[code_point])
            end = _write_code_point(arena, used, code_point)
            tag = (SEED ^ np.uint64(code_point)) * FACTOR
        elif char_class == BREAK and in_sentence:
            out[count] = END
            count += 1
            in_sentence = 0
        if position >= len(data):
            break
        position += size
    state[POSITION] = begin if kind != BLANK and status != INVALID else position
    state[COUNT], state[WORDS], state[USED], state[IN_SENTENCE], state[STATUS] = count, words, used, in_sentence, status


@compile_kernel
def rehash(slots: Slots, mapping: Ids, new: Slots) -> None:
    """Insert the words of a table into another one under the numbers of the mapping; words with a number below 0 are
    dropped."""
    mask = np.uint64(len(new) - 1)
    for slot in slots:
        if slot == EMPTY:
            continue
        number = mapping[np.int64(slot & LOW) - 1]
        if number < 0:
            continue
        tag = slot >> HALF
        index = tag & mask
        while new[index] != EMPTY:
            index = (index + ONE) & mask
        new[index] = tag << HALF | np.uint64(number + 1)


@compile_kernel
def compact_words(mapping: Ids, starts: Longs, arena: Bytes, counts: Longs, words: int) -> int:
    """Move the kept words together, in order; return how many bytes they take."""
    used = 0
    for number in range(words):
        new = np.int64(mapping[number])
        if new < 0:
            continue
        begin, end = starts[number], starts[number + 1]
        for k in range(begin, end):
            arena[used + k - begin] = arena[k]
        counts[new] = counts[number]
        starts[new] = used  # new ≤ number, so that entry has been read
        used += end - begin
    return used


@compile_kernel
def _tally(tokens: Ids, counts: Longs) -> None:
    """Count the words."""
    for token in tokens:
        if token >= 0:
            counts[token] += 1


@compile_kernel
def _recode(tokens: Ids, mapping: Ids) -> None:
    """Map ids in place; markers stay."""
    for k in range(len(tokens)):
        if tokens[k] >= 0:
            tokens[k] = mapping[tokens[k]]


def tally(tokens: Ids, counts: Longs) -> None:
    """Add the number of occurrences in ``tokens`` (any shape) to ``counts`` (V,); ids are below V."""
    _tally(np.ascontiguousarray(tokens, dtype=np.int32).reshape(-1), counts)


def recode(tokens: Ids, mapping: Ids) -> None:
    """Map the ids in ``tokens`` (any shape, C-contiguous) by ``mapping`` (V,) in place; `END` and `GAP` stay."""
    _recode(tokens.reshape(-1), mapping)

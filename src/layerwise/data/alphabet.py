"""How text is cut into tokens: the class of every code point, told from the Unicode database of this Python."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from layerwise.data.reading import Tokens
from layerwise.kernels.tokenize import BLANK, BREAK, HIDDEN, INNER, LETTER, MARK, POINTS, SINGLE

LINE_ENDS = "\n\r\u2028\u2029"
APOSTROPHES = "'\u2019"
JOINERS = "\u200c\u200d"  # inside words of Persian and of Indic scripts
SOFT_HYPHEN = "\u00ad"
PLANES = (0, 1, 2, 3, 14)  # planes with assigned characters; the others are for private use or empty
ALONE = (  # written without blanks between words: each letter is a token
    (0x3005, 0x3007),  # iteration mark, ideographic zero
    (0x3021, 0x3029),
    (0x3031, 0x303C),
    (0x3041, 0x30FF),  # kana
    (0x3100, 0x312F),  # bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width kana
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)


@lru_cache(maxsize=4)
def classes(tokens: Tokens) -> NDArray[np.uint8]:
    """Return the class of every code point (`kernels.tokenize`) for a way to cut: ``words``, ``whitespace`` or ``characters``.

    ``words``: letters, marks and numbers make words, with an apostrophe or a joiner between two letters; ideographs and kana are one
    token each; everything else stands between. ``whitespace``: everything but blanks makes words. ``characters``: each character is a
    token, with the marks on it; blanks and controls stand between.
    """
    rest = {"words": BLANK, "characters": SINGLE}.get(tokens, LETTER)
    table = np.full(POINTS, rest, dtype=np.uint8)
    for plane in PLANES:
        for point in range(plane << 16, (plane + 1) << 16):
            table[point] = _class(chr(point), tokens)
    if tokens == "words":
        for first, last in ALONE:
            span = table[first : last + 1]
            span[span == LETTER] = SINGLE
    table[[ord(c) for c in LINE_ENDS]] = BREAK
    return table


def _class(character: str, tokens: Tokens) -> int:
    """Return the class of a code point."""
    if tokens in ("whitespace", "jieba"):
        return BLANK if character.isspace() else LETTER
    category = unicodedata.category(character)
    if tokens == "characters":
        return BLANK if character.isspace() or category in ("Cc", "Cf", "Cs") else MARK if category[0] == "M" else SINGLE
    if character == SOFT_HYPHEN:
        return HIDDEN
    if character in APOSTROPHES or character in JOINERS:
        return INNER
    return {"L": LETTER, "N": LETTER, "M": MARK}.get(category[0], BLANK)


@lru_cache(maxsize=4)
def folds(tokens: Tokens, lower: bool) -> NDArray[np.int32]:
    """Return what every code point is written as: its simple lower case if ``lower``, and in ``words`` one kind of apostrophe."""
    table = np.arange(POINTS, dtype=np.int32)
    if lower:
        for plane in PLANES:
            for point in range(plane << 16, (plane + 1) << 16):
                small = chr(point).lower()
                if small[0] != chr(point):
                    table[point] = ord(small[0])  # of İ alone the full form is longer; its simple one is i
    if tokens == "words":
        table[[ord(c) for c in APOSTROPHES]] = ord("'")
    return table

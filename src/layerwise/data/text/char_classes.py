"""Classes of characters for cutting text into tokens, one for every code point, by Python's Unicode database."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from layerwise.data.tables.table_options import Tokens
from layerwise.kernels.text.tokenizer_loops import BLANK, BREAK, CODE_POINTS, HIDDEN, INNER, LETTER, MARK, SINGLE

LINE_ENDS = "\n\r\u2028\u2029"
APOSTROPHES = "'\u2019"
JOINERS = "\u200c\u200d"  # inside words of Persian and of Indic scripts
SOFT_HYPHEN = "\u00ad"
MARKS = dict.fromkeys(("Mn", "Mc", "Me"), MARK)
WORDS = dict.fromkeys(("Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No"), LETTER) | MARKS
CHARACTERS = dict.fromkeys(("Zs", "Zl", "Zp", "Cc", "Cf", "Cs"), BLANK) | MARKS
PLANES = (0, 1, 2, 3, 14)  # planes with assigned characters; the others are for private use or empty
SINGLE_RANGES = (  # written without blanks between words: each letter is a token
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
def compute_char_classes(tokens: Tokens) -> NDArray[np.uint8]:
    """Return the class of every code point (`kernels.text.tokenizer_loops`) for a kind of token.

    ``words``: letters, marks and numbers make words, with an apostrophe or a joiner between two letters; ideographs and
    kana are one token each; everything else separates words. ``whitespace`` and ``jieba``: everything but blanks makes
    words. ``characters``: each character is a token, with the marks on it; blanks and controls separate tokens.
    """
    if tokens == "characters":
        table = _build_table(SINGLE, lambda c: CHARACTERS.get(unicodedata.category(c), SINGLE))
    elif tokens == "words":
        table = _build_table(BLANK, lambda c: WORDS.get(unicodedata.category(c), BLANK))
        for first, last in SINGLE_RANGES:
            span = table[first : last + 1]
            span[span == LETTER] = SINGLE
        table[_get_code_points(APOSTROPHES + JOINERS)] = INNER
        table[_get_code_points(SOFT_HYPHEN)] = HIDDEN
    else:
        table = _build_table(LETTER, lambda c: BLANK if c.isspace() else LETTER)
    table[_get_code_points(LINE_ENDS)] = BREAK
    return table


@lru_cache(maxsize=4)
def compute_char_folds(tokens: Tokens, lower: bool) -> NDArray[np.int32]:
    """Return the code point that replaces each code point: its simple lower case if ``lower``, and for ``words`` one
    kind of apostrophe."""
    table = np.arange(CODE_POINTS, dtype=np.int32)
    if lower:
        for plane in PLANES:
            characters = list(map(chr, range(plane << 16, (plane + 1) << 16)))
            small = map(str.lower, characters)
            # of İ alone the full form is longer than one; its simple form is i
            table[plane << 16 : (plane + 1) << 16] = [ord(s[0]) for s in small]
    if tokens == "words":
        table[_get_code_points(APOSTROPHES)] = ord("'")
    return table


def _get_code_points(characters: str) -> list[int]:
    return list(map(ord, characters))


def _build_table(default: int, class_of: Callable[[str], int]) -> NDArray[np.uint8]:
    """Return the class of every code point, ``default`` in the planes that have no characters."""
    table = np.full(CODE_POINTS, default, dtype=np.uint8)
    for plane in PLANES:
        table[plane << 16 : (plane + 1) << 16] = [
            class_of(chr(point)) for point in range(plane << 16, (plane + 1) << 16)
        ]
    return table

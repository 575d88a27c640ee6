"""Which encoding a text is probably in, told from its first bytes."""

from __future__ import annotations

import codecs

import numpy as np

from layerwise.errors import UsageError

MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LOOK = 1 << 20  # bytes that are looked at: what is shorter is whole


def marked(head: bytes) -> str:
    """Return the encoding that a mark at the beginning names, or the empty text."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "")


def guess(data: bytes, encoding: str) -> str:
    """Return what a text, of which these bytes are no valid ``encoding``, is probably written in."""
    return "gbk" if encoding != "gbk" and _looks_double(data) else "cp1252"


def _looks_double(data: bytes) -> bool:
    """Tell whether bytes past ASCII come in pairs, as in GBK, instead of alone, as accented letters do."""
    try:
        data[: len(data) - 1].decode("gbk", "strict" if len(data) < LOOK else "ignore")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:
            return False
    high = np.frombuffer(data, dtype=np.uint8) >= 0x80
    neighbors = np.zeros_like(high)
    neighbors[1:] |= high[:-1]
    neighbors[:-1] |= high[1:]
    return bool(high.any() and (neighbors & high).sum() > 0.8 * high.sum())


def is_utf8(encoding: str) -> bool:
    """Whether this is the name of UTF-8. Raises `UsageError` for an unknown encoding."""
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError as error:
        raise UsageError(f"there is no text encoding '{encoding}'", expected="for example utf-8 or gbk") from error

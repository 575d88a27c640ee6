"""Guessing the encoding of a text from its first bytes."""

from __future__ import annotations

import codecs

import numpy as np

from layerwise.errors import UsageError

BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SAMPLE_BYTES = 1 << 20  # bytes to guess from; fewer bytes are the full text


def detect_byte_order_mark(head: bytes) -> str:
    """Return the encoding that a byte-order mark names, or an empty string."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), "")


def guess_encoding(data: bytes, encoding: str) -> str:
    """Return the probable encoding of a text whose bytes are not valid in ``encoding``."""
    return "gbk" if encoding != "gbk" and _is_double_byte(data) else "cp1252"


def _is_double_byte(data: bytes) -> bool:
    """Whether bytes past ASCII come in pairs, as in GBK, and not alone, as accented letters do."""
    try:
        data[: len(data) - 1].decode("gbk", "strict" if len(data) < SAMPLE_BYTES else "ignore")
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
        raise UsageError(f"unknown text encoding '{encoding}'", expected="for example utf-8 or gbk") from error

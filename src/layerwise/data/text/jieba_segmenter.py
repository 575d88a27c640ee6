"""Chinese text with blanks between its words, as jieba finds them (Sun Junyi; a prefix dictionary, and an HMM for words
outside it)."""

from __future__ import annotations

import codecs
import logging
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

from layerwise.data.text.texts import Piece
from layerwise.errors import UsageError
from layerwise.kernels.text.tokenizer import NotUtf8

LONGEST_LINE = 1 << 20  # characters; a longer line is cut, wherever that is


def version() -> str:
    """Return jieba's version: another may find other words."""
    return str(_jieba().__version__)


def _jieba() -> ModuleType:
    """Import jieba, or raise the `UsageError` that says how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own old code
            import jieba
    except ImportError as error:
        raise UsageError(
            "words of Chinese text are found by the package jieba, which is not installed",
            do="pip install 'layerwise[jieba]'; or take characters: leave data.tokens out",
        ) from error
    jieba.setLogLevel(logging.WARNING)
    found: ModuleType = jieba
    return found


def segmented(found: Iterator[Piece]) -> Iterator[Piece]:
    """Yield a text with blanks between the words that jieba finds, line by line; what is no word (punctuation) is left
    out.

    Raises `NotUtf8`, and `UsageError` where jieba is not installed.
    """
    cut: Callable[[str], Iterator[str]] = _jieba().cut

    def line_of(line: str) -> str:
        return " ".join(word for word in cut(line) if any(map(str.isalnum, word))) + "\n"

    decoder = codecs.getincrementaldecoder("utf-8")()
    fed, rest, read = 0, "", 0
    for piece in found:
        text = rest + _decoded(decoder, piece.data, fed)
        fed, read = fed + len(piece.data), piece.read
        *lines, rest = text.split("\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        yield Piece("".join(map(line_of, lines)).encode(), read)
    rest += _decoded(decoder, b"", fed, last=True)
    yield Piece(line_of(rest).encode(), read)


def _decoded(decoder: codecs.IncrementalDecoder, data: bytes, fed: int, *, last: bool = False) -> str:
    """Decode on. Raises `NotUtf8` with the byte's place in the whole text."""
    waiting = len(decoder.getstate()[0])
    try:
        return decoder.decode(data, last)
    except UnicodeDecodeError as error:
        raise NotUtf8(fed - waiting + error.start, error.object[error.start]) from error

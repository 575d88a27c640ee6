"""Chinese text split into words by jieba (Sun Junyi; a prefix dictionary, and an HMM for words outside it)."""

from __future__ import annotations

import codecs
import logging
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

from layerwise.data.text.text_files import Piece
from layerwise.errors import UsageError
from layerwise.kernels.text.tokenizer import InvalidUtf8Error

LONGEST_LINE = 1 << 20  # characters; a longer line is cut, wherever that is


def get_version() -> str:
    """Return jieba's version: another may find other words."""
    return str(_import_jieba().__version__)


def _import_jieba() -> ModuleType:
    """Import jieba, or raise the `UsageError` that tells how to install it."""
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
    module: ModuleType = jieba
    return module


def segment_words(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yield a text with blanks between the words that jieba finds, line by line, without punctuation.

    Raises `InvalidUtf8Error`, and `UsageError` where jieba is not installed.
    """
    cut: Callable[[str], Iterator[str]] = _import_jieba().cut

    def segment_line(line: str) -> str:
        return " ".join(word for word in cut(line) if any(map(str.isalnum, word))) + "\n"

    decoder = codecs.getincrementaldecoder("utf-8")()
    decoded_bytes, rest, read = 0, "", 0
    for piece in pieces:
        text = rest + _decode(decoder, piece.data, decoded_bytes)
        decoded_bytes, read = decoded_bytes + len(piece.data), piece.read
        *lines, rest = text.split("\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        yield Piece("".join(map(segment_line, lines)).encode(), read)
    rest += _decode(decoder, b"", decoded_bytes, last=True)
    yield Piece(segment_line(rest).encode(), read)


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, decoded_bytes: int, *, last: bool = False) -> str:
    """Decode the next bytes. Raises `InvalidUtf8Error` with the byte's offset in the full text."""
    waiting = len(decoder.getstate()[0])
    try:
        return decoder.decode(data, last)
    except UnicodeDecodeError as error:
        raise InvalidUtf8Error(decoded_bytes - waiting + error.start, error.object[error.start]) from error

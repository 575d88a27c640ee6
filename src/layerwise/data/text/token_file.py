"""A file of tokens (int32) while it is made: written once, then changed in place, piece by piece."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.text.pairs import Joiner
from layerwise.kernels.text.tokenize import Ids, recode, tally
from layerwise.kernels.text.tokens import END

PIECE = 1 << 20  # bytes read at once: a multiple of a token's


class TokenFile:
    """Tokens in a stream that can be read and written. It is a tokenizer's `Sink`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.tokens = 0

    def write(self, tokens: Ids) -> None:
        """Add tokens."""
        self.stream.write(tokens.data)
        self.tokens += len(tokens)

    def pieces(self) -> Iterator[Ids]:
        """Yield all tokens, in pieces that may be changed."""
        at = 0
        while True:
            self.stream.seek(at)
            data = bytearray(self.stream.read(PIECE))
            if not data:
                return
            at += len(data)
            yield np.frombuffer(data, dtype=np.int32)

    def renumber(self, mapping: Ids) -> None:
        """Send all ids through a mapping."""
        at = 0
        for tokens in self.pieces():
            recode(tokens, mapping)
            self.stream.seek(at)
            self.stream.write(tokens.data)
            at += tokens.nbytes
        self.stream.seek(0, os.SEEK_END)

    def join(self, joiner: Joiner) -> None:
        """Write pairs as one word: the file gets shorter."""
        at = 0
        for tokens in self.pieces():
            at = self._put(joiner.join(tokens), at)  # never beyond what has been read
        at = self._put(joiner.join(np.empty(0, dtype=np.int32), last=True), at)
        self.stream.truncate(at)
        self.stream.seek(at)
        self.tokens = at // 4

    def _put(self, tokens: Ids, at: int) -> int:
        """Write tokens at a place; return where they end."""
        self.stream.seek(at)
        self.stream.write(tokens.data)
        return at + tokens.nbytes

    def tally(self, words: int) -> NDArray[np.int64]:
        """Return how often each word comes, (V,)."""
        counts = np.zeros(words, dtype=np.int64)
        for tokens in self.pieces():
            tally(tokens, counts)
        return counts

    def finish(self, block: int) -> NDArray[np.uint32]:
        """Fill the last block with sentence ends; return the CRC-32 of each block, (blocks,)."""
        self.stream.seek(0, os.SEEK_END)
        self.stream.write(np.full(-self.tokens % block, END, dtype=np.int32).data)
        self.stream.seek(0)
        size, sums = 4 * block, []
        while data := self.stream.read(PIECE // size * size or size):
            view = memoryview(data)
            sums += [zlib.crc32(view[at : at + size]) for at in range(0, len(view), size)]
        return np.array(sums, dtype=np.uint32)

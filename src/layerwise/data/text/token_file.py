"""A file of tokens (int32) under construction: written once, then changed in place, piece by piece."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from layerwise.kernels.text import END
from layerwise.kernels.text.bigrams import PairMerger
from layerwise.kernels.text.tokenizer_loops import Ids, recode, tally

PIECE_BYTES = 1 << 20  # bytes read at once: a multiple of a token's size


class TokenFile:
    """Tokens in a stream that can be read and written; a tokenizer's `TokenSink`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.tokens = 0

    def write(self, tokens: Ids) -> None:
        """Add tokens."""
        self.stream.write(tokens.data)
        self.tokens += len(tokens)

    def read_pieces(self) -> Iterator[Ids]:
        """Yield all tokens, in writable pieces."""
        offset = 0
        while True:
            self.stream.seek(offset)
            data = bytearray(self.stream.read(PIECE_BYTES))
            if not data:
                return
            offset += len(data)
            yield np.frombuffer(data, dtype=np.int32)

    def renumber(self, mapping: Ids) -> None:
        """Apply a mapping to all ids."""
        at = 0
        for tokens in self.read_pieces():
            recode(tokens, mapping)
            self.stream.seek(at)
            self.stream.write(tokens.data)
            at += tokens.nbytes
        self.stream.seek(0, os.SEEK_END)

    def join(self, joiner: PairMerger) -> None:
        """Join pairs to one word each: the file gets shorter."""
        at = 0
        for tokens in self.read_pieces():
            at = self._write_at(joiner.merge(tokens), at)  # never beyond what has been read
        at = self._write_at(joiner.merge(np.empty(0, dtype=np.int32), last=True), at)
        self.stream.truncate(at)
        self.stream.seek(at)
        self.tokens = at // 4

    def _write_at(self, tokens: Ids, at: int) -> int:
        """Write tokens at an offset; return the offset of their end."""
        self.stream.seek(at)
        self.stream.write(tokens.data)
        return at + tokens.nbytes

    def tally(self, words: int) -> NDArray[np.int64]:
        """Return the count of each word, (V,)."""
        counts = np.zeros(words, dtype=np.int64)
        for tokens in self.read_pieces():
            tally(tokens, counts)
        return counts

    def finish(self, block: int) -> NDArray[np.uint32]:
        """Fill the last block with sentence ends; return the CRC-32 of each block, (blocks,)."""
        self.stream.seek(0, os.SEEK_END)
        self.stream.write(np.full(-self.tokens % block, END, dtype=np.int32).data)
        self.stream.seek(0)
        size, sums = 4 * block, []
        while data := self.stream.read(PIECE_BYTES // size * size or size):
            view = memoryview(data)
            sums += [zlib.crc32(view[at : at + size]) for at in range(0, len(view), size)]
        return np.array(sums, dtype=np.uint32)

"""Word vectors as a table: words, a row of numbers for each, and how often each word was seen.

``V`` words, ``D`` dimensions. Files: `layerwise.weights.vector_files`; layers: `layerwise.weights.embedding_layer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import DataError, UsageError, find_nearest
from layerwise.functional.similarity import normalize_rows

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class VectorTable:
    """Word vectors.

    Args:
        words: the words, each once.
        matrix: their vectors, float32 (V, D), finite.
        counts: how often each was seen in training, (V,); None if unknown.

    Raises `DataError` for words that come twice, other shapes, and numbers that are not finite.
    """

    words: list[str]
    matrix: Floats
    counts: Counts | None = None

    def __post_init__(self) -> None:
        shape = self.matrix.shape
        if len(shape) != 2 or shape[0] != len(self.words) or not all(shape) or self.matrix.dtype != np.float32:
            raise DataError(
                "these are no word vectors",
                expected=f"float32 ({len(self.words)}, D), a row for each word, one word or more",
                received=f"{self.matrix.dtype} {shape}",
            )
        if self.counts is not None and (self.counts.shape != shape[:1] or int(self.counts.min()) < 0):
            raise DataError(
                "the counts do not fit the words",
                expected=f"{shape[0]} numbers that are not negative",
                received=f"shape {self.counts.shape}",
            )
        if len(self.index) < len(self.words):
            row = next(n for n, word in enumerate(self.words) if self.index[word] != n)
            raise DataError(
                f"the word '{self.words[row]}' comes twice: rows {row + 1} and {self.index[self.words[row]] + 1}",
                expected="each word once",
            )
        for start in range(0, shape[0], 65536):  # in pieces, to save memory
            rows = np.flatnonzero(~np.isfinite(self.matrix[start : start + 65536]).all(1))
            if len(rows):
                row = start + int(rows[0])
                raise DataError(
                    f"the vector of '{self.words[row]}' (row {row + 1}) has a number that is not finite",
                    expected="finite numbers",
                )

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    @property
    def dimensions(self) -> int:
        """The vectors' length D."""
        return int(self.matrix.shape[1])

    @cached_property
    def index(self) -> dict[str, int]:
        """Each word's row."""
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def unit(self) -> Floats:
        """The vectors at length one, (V, D); those of length zero stay."""
        return normalize_rows(self.matrix)

    def row(self, word: str) -> int:
        """Return a word's row. Raises `UsageError`, with the nearest word, if it has none."""
        index = self.index.get(word)
        if index is None:
            suggestion = find_nearest(word, self.words[:50_000])
            raise UsageError(
                f"there is no vector of '{word}'",
                expected=f"one of {len(self.words):,} words",
                received=f"'{word}'",
                do=f"did you mean '{suggestion}'?" if suggestion else "",
            )
        return index

    def rows(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of words, (N,), −1 for those without a vector."""
        return np.array([self.index.get(word, -1) for word in words], dtype=np.int64)

    def vector(self, word: str) -> Floats:
        """Return a word's vector (D,). Raises `UsageError` as `row` does."""
        values: Floats = self.matrix[self.row(word)]
        return values

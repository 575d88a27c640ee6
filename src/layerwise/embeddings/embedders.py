"""Embedders of texts: the protocol on which an index is built, and word vectors weighted by SIF.

``N`` texts, ``V`` words, ``D`` dimensions. S. Arora, Y. Liang, T. Ma, A simple but tough-to-beat baseline for sentence
embeddings, ICLR 2017. A text is the weighted mean of its words' vectors, with low weights for frequent words, minus the
direction common to all texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import DataError, UsageError
from layerwise.functional import similarity
from layerwise.functional.similarity import SMOOTHING
from layerwise.weights.vector_files import pack_texts, unpack_texts
from layerwise.weights.vectors import Counts, Floats, VectorTable

Json = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]
TOKEN = re.compile(r"\w+(?:['’]\w+)*")
MAX_PHRASE = 4  # words of a phrase like new_york_city
FIRST_UNSPACED = 0x3005  # of the characters that are written without blanks between words: kana, ideographs
UNSPACED = "\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
RUNS = re.compile(f"[{UNSPACED}]+|[^{UNSPACED}]+")
Chunks = Callable[[], Iterable[Sequence[str]]]


class Embedder(Protocol):
    """Maps texts to vectors."""

    @property
    def kind(self) -> str:
        """The name under which `restore_embedder` finds it."""
        ...

    @property
    def dimensions(self) -> int:
        """The vectors' length D."""
        ...

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the texts' vectors (N, D), float32; zero for a text without known words."""
        ...

    def fit(self, chunks: Chunks) -> Embedder:
        """Return the embedder fitted to these texts, which it may read several times."""
        ...

    def get_state(self) -> tuple[Arrays, Json]:
        """Return the arrays and JSON from which `restore_embedder` rebuilds the embedder."""
        ...


class WordEmbedder:
    """Means of word vectors weighted by SIF: v = (1/n) Σ a/(a + p(w)) v_w, then v − u uᵀv.

    Args:
        table: the word vectors. Its counts give p(w), or those of the texts where it has none (`fit`).
        a: SIF's smoothing.
        direction: u (D,), the direction common to all texts; None: nothing is removed.
        origin: where the vectors come from, for the record.
    """

    kind = "words"

    def __init__(
        self, table: VectorTable, *, a: float = SMOOTHING, direction: Floats | None = None, origin: str = ""
    ) -> None:
        if not a > 0:
            raise UsageError("SIF's smoothing must be above 0", expected="for example 0.001", received=str(a))
        self.table, self.a, self.direction, self.origin = table, a, direction, origin
        self.weights = (
            np.ones(len(table)) if table.counts is None else similarity.compute_sif_weights(table.counts, a=a)
        )

    @property
    def dimensions(self) -> int:
        """The vectors' length D."""
        return self.table.dimensions

    @cached_property
    def _has_phrases(self) -> bool:
        """Whether there are phrases among the words."""
        return any("_" in word[1:-1] for word in self.table.words)

    def rows(self, text: str) -> list[int]:
        """Return the rows of a text's words; words without a vector are skipped.

        Words are letters and digits, with an apostrophe inside; each is looked up as written, then in lower case.
        Scripts without spaces are cut into the longest known words.
        """
        row_list: list[int] = []
        tokens = TOKEN.findall(text)
        position = 0
        while position < len(tokens):
            length, row = self._phrase(tokens, position) if self._has_phrases else (1, self._row(tokens[position]))
            row_list += [row] if row is not None else self._parts(tokens[position])
            position += length
        return row_list

    def _row(self, word: str) -> int | None:
        """Return a word's row, as written or in lower case."""
        row = self.table.index.get(word)
        return self.table.index.get(word.lower()) if row is None else row

    def _phrase(self, tokens: Sequence[str], position: int) -> tuple[int, int | None]:
        """Return the number of words from here that form one phrase, and its row."""
        for length in range(min(MAX_PHRASE, len(tokens) - position), 1, -1):
            row = self._row("_".join(tokens[position : position + length]))
            if row is not None:
                return length, row
        return 1, self._row(tokens[position])

    def _parts(self, token: str) -> list[int]:
        """Return the rows of the known words inside an unknown token: runs of ideographs, and the parts between
        them."""
        rows: list[int] = []
        for run in RUNS.findall(token):
            start = 0
            while start < len(run):
                ends = (
                    range(min(len(run), start + MAX_PHRASE), start, -1)
                    if ord(run[0]) >= FIRST_UNSPACED
                    else (len(run),)
                )
                end, row = next(
                    ((end, row) for end in ends if (row := self._row(run[start:end])) is not None), (ends[-1], None)
                )
                rows += [] if row is None else [row]
                start = end
        return rows

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the texts' vectors (N, D); zero for a text without a known word."""
        rows = [self.rows(text) for text in texts]
        flat = np.array([row for text_rows in rows for row in text_rows], dtype=np.int64)
        vectors = similarity.compute_mean_vectors(
            self.table.matrix[flat], [len(text_rows) for text_rows in rows], self.weights[flat]
        )
        if self.direction is None:
            return vectors
        return similarity.remove_direction(vectors, self.direction)

    def fit(self, chunks: Chunks) -> WordEmbedder:
        """Return the embedder fitted to these texts: with their word counts, if its table has none, and with their
        common direction."""
        table = self.table
        if table.counts is None:
            counts = np.zeros(len(table), dtype=np.int64)
            for texts in chunks():
                rows = np.array([row for text in texts for row in self.rows(text)], dtype=np.int64)
                counts += np.bincount(rows, minlength=len(counts))
            table = VectorTable(table.words, table.matrix, counts)
        plain = WordEmbedder(table, a=self.a, origin=self.origin)
        gram = np.zeros((self.dimensions, self.dimensions))
        for texts in chunks():
            x = plain.embed(texts).astype(np.float64)
            gram += x.T @ x
        return WordEmbedder(table, a=self.a, direction=similarity.find_common_direction(gram), origin=self.origin)

    def get_state(self) -> tuple[Arrays, Json]:
        """Return vectors, words, counts and direction; and their description."""
        data, ends = pack_texts(self.table.words)
        arrays: dict[str, NDArray[Any]] = {"vectors": self.table.matrix, "words": data, "ends": ends}
        if self.table.counts is not None:
            arrays["counts"] = self.table.counts
        if self.direction is not None:
            arrays["direction"] = self.direction
        return arrays, {"kind": self.kind, "origin": self.origin, "words": len(self.table), "a": self.a}


def restore_embedder(arrays: Arrays, info: Json, path: Path) -> Embedder:
    """Rebuild an embedder from `Embedder.get_state`. Raises `DataError` for a kind that this version does not know."""
    if info.get("kind") != WordEmbedder.kind:
        raise DataError(
            f"{path} was made by an embedder of another kind",
            expected=WordEmbedder.kind,
            received=str(info.get("kind")),
            do="update layerwise",
        )
    counts: Counts | None = arrays.get("counts")
    table = VectorTable(unpack_texts(arrays["words"], arrays["ends"], path), arrays["vectors"], counts)
    return WordEmbedder(table, a=float(info["a"]), direction=arrays.get("direction"), origin=str(info["origin"]))

"""Texts to vectors: the protocol that an index is built on, and word vectors weighted by SIF.

``N`` texts, ``V`` words, ``D`` dimensions. S. Arora, Y. Liang, T. Ma, A simple but tough-to-beat baseline for sentence
embeddings, ICLR
2017. The one idea: a text is the mean of its words' vectors, frequent words counting little, without what all texts
    have in common.
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
from layerwise.weights.vector_files import packed, unpacked
from layerwise.weights.vectors import Counts, Floats, VectorTable

Json = dict[str, Any]
Arrays = Mapping[str, NDArray[Any]]
TOKEN = re.compile(r"\w+(?:['’]\w+)*")
JOINED = 4  # words of a phrase like new_york_city, at most
FIRST = 0x3005  # of the characters that are written without blanks between words: kana, ideographs
ALONE = "\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
RUNS = re.compile(f"[{ALONE}]+|[^{ALONE}]+")
Again = Callable[[], Iterable[Sequence[str]]]


class Embedder(Protocol):
    """What turns texts into vectors."""

    @property
    def kind(self) -> str:
        """The name under which `restored` knows it."""
        ...

    @property
    def dimensions(self) -> int:
        """The vectors' length D."""
        ...

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the texts' vectors (N, D), float32; zero for a text of which nothing is known."""
        ...

    def prepared(self, chunks: Again) -> Embedder:
        """Return the embedder as it is for these texts: it may go through all of them, as often as it likes, before it
        embeds any."""
        ...

    def state(self) -> tuple[Arrays, Json]:
        """Return what `restored` makes it again of: arrays, and plain JSON that tells what it is."""
        ...


class WordEmbedder:
    """Means of word vectors weighted by SIF: v = (1/n) Σ a/(a + p(w)) v_w, then v − u uᵀv.

    Args:
        table: the word vectors. Its counts give p(w), or those of the texts where it has none (`prepared`).
        a: SIF's smoothing.
        direction: u (D,), what all texts have in common; none yet: nothing is taken out.
        origin: where the vectors come from, to be told.
    """

    kind = "words"

    def __init__(
        self, table: VectorTable, *, a: float = SMOOTHING, direction: Floats | None = None, origin: str = ""
    ) -> None:
        if not a > 0:
            raise UsageError("SIF's smoothing must be above 0", expected="for example 0.001", received=str(a))
        self.table, self.a, self.direction, self.origin = table, a, direction, origin
        self.weights = np.ones(len(table)) if table.counts is None else similarity.sif_weights(table.counts, a=a)

    @property
    def dimensions(self) -> int:
        """The vectors' length D."""
        return self.table.dimensions

    @cached_property
    def _phrases(self) -> bool:
        """Whether there are phrases among the words."""
        return any("_" in word[1:-1] for word in self.table.words)

    def rows(self, text: str) -> list[int]:
        """Return the rows of a text's words; those without a vector are left out.

        Words are letters and numbers, with an apostrophe between; each is looked for as written, then in lower case.
        Characters that are written without blanks are cut where the longest known words end.
        """
        found: list[int] = []
        tokens = TOKEN.findall(text)
        at = 0
        while at < len(tokens):
            length, row = self._phrase(tokens, at) if self._phrases else (1, self._row(tokens[at]))
            found += [row] if row is not None else self._parts(tokens[at])
            at += length
        return found

    def _row(self, word: str) -> int | None:
        """Return a word's row, as written or in lower case."""
        found = self.table.index.get(word)
        return self.table.index.get(word.lower()) if found is None else found

    def _phrase(self, tokens: Sequence[str], at: int) -> tuple[int, int | None]:
        """Return how many words from here on are one phrase, and its row."""
        for length in range(min(JOINED, len(tokens) - at), 1, -1):
            row = self._row("_".join(tokens[at : at + length]))
            if row is not None:
                return length, row
        return 1, self._row(tokens[at])

    def _parts(self, token: str) -> list[int]:
        """Return the rows of the known words in a token that is none itself: runs of ideographs and what is between
        them."""
        found: list[int] = []
        for run in RUNS.findall(token):
            start = 0
            while start < len(run):
                ends = range(min(len(run), start + JOINED), start, -1) if ord(run[0]) >= FIRST else (len(run),)
                end, row = next(
                    ((end, row) for end in ends if (row := self._row(run[start:end])) is not None), (ends[-1], None)
                )
                found += [] if row is None else [row]
                start = end
        return found

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the texts' vectors (N, D); zero for a text without a known word."""
        rows = [self.rows(text) for text in texts]
        flat = np.array([row for mine in rows for row in mine], dtype=np.int64)
        found = similarity.mean_vectors(self.table.matrix[flat], [len(mine) for mine in rows], self.weights[flat])
        if self.direction is None:
            return found
        return similarity.without_direction(found, self.direction)

    def prepared(self, chunks: Again) -> WordEmbedder:
        """Return the embedder for these texts: with their counts, if its vectors came without any, and with what they
        have in common."""
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
        return WordEmbedder(table, a=self.a, direction=similarity.first_direction(gram), origin=self.origin)

    def state(self) -> tuple[Arrays, Json]:
        """Return vectors, words, counts and direction; and what is told of them."""
        data, ends = packed(self.table.words)
        arrays: dict[str, NDArray[Any]] = {"vectors": self.table.matrix, "words": data, "ends": ends}
        if self.table.counts is not None:
            arrays["counts"] = self.table.counts
        if self.direction is not None:
            arrays["direction"] = self.direction
        return arrays, {"kind": self.kind, "origin": self.origin, "words": len(self.table), "a": self.a}


def restored(arrays: Arrays, told: Json, path: Path) -> Embedder:
    """Return the embedder that `Embedder.state` told of. Raises `DataError` for a kind that this version does not
    know."""
    if told.get("kind") != WordEmbedder.kind:
        raise DataError(
            f"{path} was made by an embedder of another kind",
            expected=WordEmbedder.kind,
            received=str(told.get("kind")),
            do="update layerwise",
        )
    counts: Counts | None = arrays.get("counts")
    table = VectorTable(unpacked(arrays["words"], arrays["ends"], path), arrays["vectors"], counts)
    return WordEmbedder(table, a=float(told["a"]), direction=arrays.get("direction"), origin=str(told["origin"]))

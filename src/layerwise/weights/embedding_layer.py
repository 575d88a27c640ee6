"""An embedding layer for a vocabulary from a table of word vectors.

``D`` dimensions, ``K`` words that have a vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from layerwise.errors import UsageError
from layerwise.weights.vector_files import read_vectors
from layerwise.weights.vectors import Floats, VectorTable

MAX_SHOWN = 5  # words that a message lists
Missing = Literal["normal", "zeros"]


class Coverage(NamedTuple):
    """How many words of a vocabulary have vectors: ``exact`` as written, ``lowered`` by their lower-case form, of
    ``words`` in all."""

    words: int
    exact: int
    lowered: int
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of the words that have a vector."""
        return (self.exact + self.lowered) / self.words

    def __str__(self) -> str:
        text = f"{self.exact + self.lowered:,} of {self.words:,} words have a vector ({self.share:.1%})"
        text += f", {self.lowered:,} of them by their lower-case form" if self.lowered else ""
        if self.missing:
            text += f"; without: {', '.join(self.missing[:MAX_SHOWN])}{', …' if len(self.missing) > MAX_SHOWN else ''}"
        return text


def embedding(
    source: VectorTable | str | Path,
    words: Sequence[str],
    *,
    padding: str | None = None,
    missing: Missing = "normal",
    lower: bool = False,
    trainable: bool = True,
    seed: int = 0,
) -> tuple[nn.Embedding, Coverage]:
    """Return an embedding layer for a vocabulary, filled with word vectors, and how many of its words have one.

    Row i is the vector of ``words[i]``, bit for bit.

    Args:
        source: the vectors, or a file of them.
        words: the vocabulary, in the order of its numbers.
        padding: the word that pads short texts: its vector stays zero.
        missing: the initial vectors of words without one: ``normal``, draws with the mean and deviation of the known
            vectors in each dimension; or ``zeros``.
        lower: let a word without a vector take that of its lower-case form.
        trainable: whether training changes the vectors.
        seed: the seed of those draws.

    Raises `UsageError` for an empty vocabulary, a word that comes twice, a padding that is not in it, and where no word
    at all has a vector; for files what `read_vectors` does.
    """
    if not words or len(set(words)) < len(words):
        twice = next((word for word, count in Counter(words).items() if count > 1), "")
        raise UsageError(
            f"the vocabulary has the word '{twice}' twice" if words else "the vocabulary is empty",
            expected="each word once, one word or more",
        )
    if padding is not None and padding not in words:
        raise UsageError(f"the padding '{padding}' is not in the vocabulary", expected="one of its words")
    table = source if isinstance(source, VectorTable) else read_vectors(source)
    real = [word for word in words if word != padding]
    exact_rows, rows = table.rows(real), table.rows(real)
    if lower:
        rows = np.where(rows < 0, table.rows([word.lower() for word in real]), rows)
    known = rows >= 0
    if not known.any():
        raise UsageError(
            "no word of the vocabulary has a vector",
            expected=f"words like {', '.join(table.words[:MAX_SHOWN])}",
            received=", ".join(real[:MAX_SHOWN]),
            do="" if lower else "lower=True takes the vectors of lower-case forms",
        )
    vectors = table.matrix[rows[known]]  # (K, D)
    layer = nn.Embedding(
        len(words),
        table.dimensions,
        padding_idx=None if padding is None else list(words).index(padding),
        _weight=(torch.from_numpy(_fill_rows(words, padding, known, vectors, missing=missing, seed=seed))),
    )
    layer.weight.requires_grad_(trainable)
    without = tuple(word for word, has_vector in zip(real, known, strict=True) if not has_vector)
    return layer, Coverage(len(real), int((exact_rows >= 0).sum()), int((known & (exact_rows < 0)).sum()), without)


def _fill_rows(
    words: Sequence[str], padding: str | None, known: NDArray[np.bool_], vectors: Floats, *, missing: Missing, seed: int
) -> Floats:
    """Return the layer's rows (len(words), D): known vectors, zeros for the padding, initial vectors for the others."""
    weight = np.zeros((len(words), vectors.shape[1]), dtype=np.float32)
    real = np.flatnonzero([word != padding for word in words])
    weight[real[known]] = vectors
    if missing == "normal":
        mean, deviation = vectors.mean(0, dtype=np.float64), vectors.std(0, dtype=np.float64)
        noise = np.random.default_rng(seed).standard_normal((int((~known).sum()), vectors.shape[1]))
        weight[real[~known]] = mean + deviation * noise
    return weight

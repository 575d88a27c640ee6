"""Word vectors as a layer: a text model takes from a table the rows of its own vocabulary.

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

SHOWN = 5  # words that a message names
Missing = Literal["normal", "zeros"]


class Coverage(NamedTuple):
    """How many words of a vocabulary have vectors: ``found`` as written, ``lowered`` by their lower-case form, of
    ``words`` in all."""

    words: int
    found: int
    lowered: int
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of the words that have a vector."""
        return (self.found + self.lowered) / self.words

    def __str__(self) -> str:
        text = f"{self.found + self.lowered:,} of {self.words:,} words have a vector ({self.share:.1%})"
        text += f", {self.lowered:,} of them by their lower-case form" if self.lowered else ""
        if self.missing:
            text += f"; without: {', '.join(self.missing[:SHOWN])}{', …' if len(self.missing) > SHOWN else ''}"
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
        padding: the word that fills up short texts: its vector is zero and stays so.
        missing: what words without a vector begin with: ``normal``, draws with the mean and deviation of the vectors
            found, dimension by dimension; or ``zeros``.
        lower: let a word without a vector take that of its lower-case form.
        trainable: whether the vectors go on learning.
        seed: of those draws.

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
    as_written, rows = table.rows(real), table.rows(real)
    if lower:
        rows = np.where(rows < 0, table.rows([word.lower() for word in real]), rows)
    known = rows >= 0
    if not known.any():
        raise UsageError(
            "no word of the vocabulary has a vector",
            expected=f"words like {', '.join(table.words[:SHOWN])}",
            received=", ".join(real[:SHOWN]),
            do="" if lower else "lower=True takes the vectors of lower-case forms",
        )
    found = table.matrix[rows[known]]  # (K, D)
    layer = nn.Embedding(
        len(words),
        table.dimensions,
        padding_idx=None if padding is None else list(words).index(padding),
        _weight=(torch.from_numpy(_filled(words, padding, known, found, missing=missing, seed=seed))),
    )
    layer.weight.requires_grad_(trainable)
    without = tuple(word for word, there in zip(real, known, strict=True) if not there)
    return layer, Coverage(len(real), int((as_written >= 0).sum()), int((known & (as_written < 0)).sum()), without)


def _filled(
    words: Sequence[str], padding: str | None, known: NDArray[np.bool_], found: Floats, *, missing: Missing, seed: int
) -> Floats:
    """Return the layer's rows (len(words), D): those found, zeros for the padding, and what the others begin with."""
    weight = np.zeros((len(words), found.shape[1]), dtype=np.float32)
    real = np.flatnonzero([word != padding for word in words])
    weight[real[known]] = found
    if missing == "normal":
        mean, spread = found.mean(0, dtype=np.float64), found.std(0, dtype=np.float64)
        drawn = np.random.default_rng(seed).standard_normal((int((~known).sum()), found.shape[1]))
        weight[real[~known]] = mean + spread * drawn
    return weight

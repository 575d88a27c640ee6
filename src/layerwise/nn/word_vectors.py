"""Word vectors as modules with two tables: a word's own vector, and its vector as the context of other words.

``V`` words, ``D`` dimensions. T. Mikolov et al., Distributed representations of words and phrases and their
compositionality, NeurIPS 2013; J. Pennington, R. Socher, C. Manning, GloVe, EMNLP 2014. The tables change in place, by
the rule ``hogwild``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class WordVectors(nn.Module, ABC):
    """Vectors for words by their numbers. Subclasses are final."""

    vectors: nn.Embedding
    context: nn.Embedding

    @abstractmethod
    def table(self) -> Tensor:
        """Return the vectors (V, D) that are looked up and compared."""


class Word2VecModel(WordVectors):
    """What word2vec learns: ``vectors`` (V, D), drawn from ±1/(2D), and ``context`` (O, D), zero at first.

    ``outputs``: O = V with negative sampling, the tree's inner nodes V − 1 with hierarchical softmax. ``pooled``:
    whether the mean of a window's vectors predicts its middle (CBOW), or each of them does (skip-gram).
    """

    pooled: ClassVar[bool]

    def __init__(self, words: int, outputs: int, dim: int) -> None:
        super().__init__()
        self.vectors = init_small_uniform_(nn.Embedding(words, dim))
        self.context = nn.Embedding(outputs, dim)
        nn.init.zeros_(self.context.weight)

    def table(self) -> Tensor:
        """Return ``vectors``."""
        return self.vectors.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look up words (N, …), giving (N, …, D)."""
        out: Tensor = self.vectors(ids)
        return out


class SkipGram(Word2VecModel):
    """Each word of a window predicts its middle."""

    pooled = False


class ContinuousBagOfWords(Word2VecModel):
    """The mean of a window's vectors predicts its middle."""

    pooled = True


class GlobalVectors(WordVectors):
    """What GloVe learns: W (``vectors``) and W̃ (``context``), each (V, D), with a bias for each row; the vectors are W
    + W̃ (E31)."""

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.vectors, self.context = (
            init_small_uniform_(nn.Embedding(words, dim)),
            init_small_uniform_(nn.Embedding(words, dim)),
        )
        bound = 0.5 / dim
        self.bias = nn.Parameter(torch.empty(words).uniform_(-bound, bound))
        self.context_bias = nn.Parameter(torch.empty(words).uniform_(-bound, bound))

    def table(self) -> Tensor:
        """Return W + W̃."""
        return self.vectors.weight + self.context.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look up words (N, …), giving (N, …, D)."""
        out: Tensor = self.vectors(ids) + self.context(ids)
        return out


def init_small_uniform_(table: nn.Embedding) -> nn.Embedding:
    """Draw a table from the uniform distribution on ±1/(2D), as word2vec does."""
    bound = 0.5 / table.embedding_dim
    nn.init.uniform_(table.weight, -bound, bound)
    return table


class NearestWords(nn.Module):
    """The cosine of every word with a query: a weighted sum of unit vectors."""

    def __init__(self, words: WordVectors) -> None:
        super().__init__()
        self.words = words

    def forward(self, query: Tensor) -> Tensor:
        """Map queries (N, T, 2), word numbers (−1: none) and their weights, to cosines and the sum itself, (N, V +
        D)."""
        table = self.words.table()
        lengths = torch.linalg.vector_norm(table, dim=1).clamp_min(1e-12)  # (V,); unit vectors would copy the table
        ids, weights = query[..., 0].long(), query[..., 1:]
        units = normalize(table[ids.clamp_min(0)], dim=-1)  # (N, T, D)
        total = (units * weights * (ids >= 0).unsqueeze(-1)).sum(1)  # (N, D)
        return torch.cat([normalize(total, dim=1) @ table.T / lengths, total], 1)

"""Word vectors of one language in the space of another, and the translation of words by nearest neighbors there.

``V`` words, ``D`` dimensions, ``P`` pairs. An orthogonal map, learned from pairs of words (`similarity.procrustes`),
sends a word near its translation: words are used alike in all languages, so that two sets of vectors differ mainly by a
rotation. T. Mikolov et al., arXiv 1309.4168 (2013); M. Artetxe et al., EMNLP 2016: vectors at length one, both sets
centered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerwise.errors import DataError, UsageError
from layerwise.functional import similarity
from layerwise.functional.retrieval_metrics import hit_rate_at_k, mean_reciprocal_rank
from layerwise.functional.similarity import procrustes
from layerwise.weights.vectors import Floats, VectorTable

Ids = NDArray[np.int64]
Pairs = Sequence[tuple[str, str]]
MIN_PAIRS = 10  # to learn from, and to test on
HELD_OUT = 0.2
DRAWS = 20  # shuffles of the pairs
DEPTHS = (1, 5)
CHUNK_SIZE = 1024  # words at a time


class CenteredVectors(NamedTuple):
    """Vectors at length one minus their mean, and the mean."""

    centered: Floats
    mean: Floats


@dataclass(frozen=True, eq=False)
class BilingualTables:
    """Two tables with vectors of the same length, for learning a map. Raises `UsageError` for different lengths."""

    source: VectorTable
    target: VectorTable

    def __post_init__(self) -> None:
        if self.source.dimensions != self.target.dimensions:
            raise UsageError(
                "only vectors of the same length are mapped onto each other",
                expected=f"{self.source.dimensions} dimensions",
                received=f"{self.target.dimensions}",
            )

    @cached_property
    def x(self) -> CenteredVectors:
        """The source's vectors (V, D)."""
        return _center(self.source)

    @cached_property
    def y(self) -> CenteredVectors:
        """The target's vectors (W, D)."""
        return _center(self.target)

    @cached_property
    def candidates(self) -> Floats:
        """The target's centered vectors at length one, (W, D), among which translations are searched."""
        return similarity.normalize_rows(self.y.centered)

    def rows(self, pairs: Pairs) -> Ids:
        """Return the rows (P, 2) of the pairs whose words both have vectors."""
        both = np.stack([self.source.rows([a for a, _ in pairs]), self.target.rows([b for _, b in pairs])], 1)
        return both[(both >= 0).all(1)]

    def learn_map(self, rows: Ids) -> NDArray[np.float64]:
        """Return the orthogonal map (D, D) that sends the first of each pair (P, 2) nearest to the second."""
        return procrustes(self.x.centered[rows[:, 0]], self.y.centered[rows[:, 1]])

    def map_vectors(self, rotation: NDArray[np.float64]) -> VectorTable:
        """Return the source's words with their vectors in the target's space: (x/‖x‖ − mean) W + the target's mean."""
        matrix = self.x.centered @ rotation.astype(np.float32) + self.y.mean
        return VectorTable(self.source.words, matrix, self.source.counts)

    def rank_translations(self, rotation: NDArray[np.float64], rows: Ids) -> list[Ids]:
        """Return the ranks of the correct translations of each source word of pairs (P, 2) among all target words, by
        cosine."""
        words, row = np.unique(rows[:, 0], return_inverse=True)
        ranks = np.zeros(len(rows), dtype=np.int64)
        for start in range(0, len(words), CHUNK_SIZE):
            scores = (
                similarity.normalize_rows(
                    self.x.centered[words[start : start + CHUNK_SIZE]] @ rotation.astype(np.float32)
                )
                @ self.candidates.T
            )
            for at in np.flatnonzero((row >= start) & (row < start + CHUNK_SIZE)):
                word_scores, target = scores[row[at] - start], rows[at, 1]
                ranks[at] = (
                    1
                    + int((word_scores > word_scores[target]).sum())
                    + int((word_scores[:target] == word_scores[target]).sum())
                )
        return [ranks[row == n] for n in range(len(words))]


def _center(table: VectorTable) -> CenteredVectors:
    """Return a table's vectors at length one minus their mean."""
    mean = table.unit.mean(0, dtype=np.float64).astype(np.float32)
    return CenteredVectors(table.unit - mean, mean)


class Translation(NamedTuple):
    """How well a map translates words that were not in its training pairs.

    ``learned`` and ``tested`` are numbers of pairs, ``words`` that of source words tested, ``without`` that of pairs
    without vectors. ``precision`` by depth k is the share of words with a correct translation among the k nearest;
    ``chance`` and ``luckiest`` are the mean and the largest of the same over ``draws`` maps learned from shuffled
    pairs.
    """

    learned: int
    tested: int
    words: int
    without: int
    precision: dict[int, float]
    mrr: float
    chance: dict[int, float]
    luckiest: dict[int, float]
    draws: int


def split_pairs(
    pairs: Pairs, *, held_out: float = HELD_OUT, seed: int = 0
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the pairs to learn from and those to test on, split by source words: all translations of a word are in the
    same part."""
    if not 0 < held_out < 1:
        raise UsageError(
            "the share of held-out words lies between 0 and 1", expected="for example 0.2", received=str(held_out)
        )
    words = list(dict.fromkeys(a for a, _ in pairs))
    order = np.random.default_rng(seed).permutation(len(words))
    test_words = {words[index] for index in order[: max(1, round(held_out * len(words)))].tolist()}
    return [pair for pair in pairs if pair[0] not in test_words], [pair for pair in pairs if pair[0] in test_words]


def evaluate_map(
    tables: BilingualTables, learn: Pairs, test: Pairs, *, draws: int = DRAWS, seed: int = 0
) -> tuple[NDArray[np.float64], Translation]:
    """Learn a map from some pairs and evaluate it on others. Return the map (D, D) and its evaluation.

    The chance level is the same procedure with shuffled translations in the training pairs. Raises `DataError` where
    fewer than ten pairs of either kind have vectors.
    """
    train_rows, test_row_inputs = tables.rows(learn), tables.rows(test)
    for usable, given, purpose in ((train_rows, learn, "learn from"), (test_row_inputs, test, "test on")):
        if len(usable) < MIN_PAIRS:
            raise DataError(
                f"there are too few pairs to {purpose}",
                expected=f"{MIN_PAIRS} or more of which both words have vectors",
                received=f"{len(usable)} of {len(given)}",
            )
    rotation = tables.learn_map(train_rows)
    ranks = tables.rank_translations(rotation, test_row_inputs)
    generator = np.random.default_rng(seed)
    chance_ranks = []
    for _ in range(draws):
        shuffled = np.stack([train_rows[:, 0], generator.permutation(train_rows[:, 1])], 1)
        chance_ranks.append(tables.rank_translations(tables.learn_map(shuffled), test_row_inputs))
    chances = {k: [hit_rate_at_k(ranks_of_draw, k) for ranks_of_draw in chance_ranks] for k in DEPTHS}
    return rotation, Translation(
        len(train_rows),
        len(test_row_inputs),
        len(ranks),
        len(learn) + len(test) - len(train_rows) - len(test_row_inputs),
        {k: hit_rate_at_k(ranks, k) for k in DEPTHS},
        mean_reciprocal_rank(ranks),
        {k: float(np.mean(v)) for k, v in chances.items()},
        {k: max(v) for k, v in chances.items()},
        draws,
    )

"""Word vectors of one language in the space of another's, and the translation of words that this makes.

``V`` words, ``D`` dimensions, ``P`` pairs. An orthogonal map, learned from pairs of words
(`layerwise.functional.alignment`), sends a word
near its translation. The one idea: words are used alike in all languages, so that two clouds of vectors differ by a
turn. T. Mikolov et al., arXiv 1309.4168 (2013); M. Artetxe et al., EMNLP 2016: vectors at length one, each cloud about
its middle.
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
from layerwise.functional.alignment import procrustes
from layerwise.functional.retrieval_metrics import hits_at, mean_reciprocal_rank
from layerwise.weights.vectors import Floats, VectorTable

Ids = NDArray[np.int64]
Pairs = Sequence[tuple[str, str]]
LEAST = 10  # words to learn from and to test on
HELD_OUT = 0.2
DRAWS = 20  # of shuffled pairs
DEPTHS = (1, 5)
PIECE = 1024  # words at a time


class Cloud(NamedTuple):
    """Vectors at length one about their middle, and the middle."""

    centered: Floats
    middle: Floats


@dataclass(frozen=True, eq=False)
class Bilingual:
    """Two tables of vectors of the same length, made ready for a map. Raises `UsageError` for tables of other
    lengths."""

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
    def x(self) -> Cloud:
        """The source's vectors (V, D)."""
        return _cloud(self.source)

    @cached_property
    def y(self) -> Cloud:
        """The target's vectors (W, D)."""
        return _cloud(self.target)

    @cached_property
    def found(self) -> Floats:
        """The target's vectors at length one about their middle, (W, D), among which translations are looked for."""
        return similarity.normalized(self.y.centered)

    def rows(self, pairs: Pairs) -> Ids:
        """Return the rows of the pairs of which both words have vectors, (P, 2)."""
        found = np.stack([self.source.rows([a for a, _ in pairs]), self.target.rows([b for _, b in pairs])], 1)
        return found[(found >= 0).all(1)]

    def learned(self, rows: Ids) -> NDArray[np.float64]:
        """Return the orthogonal map (D, D) that sends the first of each pair (P, 2) nearest to the second."""
        return procrustes(self.x.centered[rows[:, 0]], self.y.centered[rows[:, 1]])

    def mapped(self, turn: NDArray[np.float64]) -> VectorTable:
        """Return the source's words with their vectors in the target's space: (x/‖x‖ − middle) W + the target's
        middle."""
        matrix = self.x.centered @ turn.astype(np.float32) + self.y.middle
        return VectorTable(self.source.words, matrix, self.source.counts)

    def ranks(self, turn: NDArray[np.float64], rows: Ids) -> list[Ids]:
        """Return the ranks of the right translations of each source word of pairs (P, 2), by cosine, among all target
        words."""
        words, row = np.unique(rows[:, 0], return_inverse=True)
        ranks = np.zeros(len(rows), dtype=np.int64)
        for start in range(0, len(words), PIECE):
            scores = (
                similarity.normalized(self.x.centered[words[start : start + PIECE]] @ turn.astype(np.float32))
                @ self.found.T
            )
            for at in np.flatnonzero((row >= start) & (row < start + PIECE)):
                mine, wanted = scores[row[at] - start], rows[at, 1]
                ranks[at] = 1 + int((mine > mine[wanted]).sum()) + int((mine[:wanted] == mine[wanted]).sum())
        return [ranks[row == n] for n in range(len(words))]


def _cloud(table: VectorTable) -> Cloud:
    """Return a table's vectors at length one about their middle."""
    middle = table.unit.mean(0, dtype=np.float64).astype(np.float32)
    return Cloud(table.unit - middle, middle)


class Translation(NamedTuple):
    """How well a map translates words that it did not learn from.

    ``learned`` and ``tested`` are numbers of pairs, ``words`` that of source words tested, ``without`` that of pairs
    without vectors. ``precision`` by depth k is the share of words with a right translation among the k nearest;
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


def divided(
    pairs: Pairs, *, held_out: float = HELD_OUT, seed: int = 0
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the pairs to learn from and those to test on, divided by source words: all translations of a word are on
    one side."""
    if not 0 < held_out < 1:
        raise UsageError(
            "the share of held-out words lies between 0 and 1", expected="for example 0.2", received=str(held_out)
        )
    words = list(dict.fromkeys(a for a, _ in pairs))
    order = np.random.default_rng(seed).permutation(len(words))
    tested = {words[at] for at in order[: max(1, round(held_out * len(words)))].tolist()}
    return [pair for pair in pairs if pair[0] not in tested], [pair for pair in pairs if pair[0] in tested]


def measure(
    both: Bilingual, learn: Pairs, test: Pairs, *, draws: int = DRAWS, seed: int = 0
) -> tuple[NDArray[np.float64], Translation]:
    """Learn a map from some pairs and measure it on others. Returns the map (D, D) and what it is worth.

    Chance is the same procedure with the translations of the pairs it learns from shuffled. Raises `DataError` where
    fewer than ten pairs of either kind have vectors.
    """
    rows, others = both.rows(learn), both.rows(test)
    for found, given, what in ((rows, learn, "learn from"), (others, test, "test on")):
        if len(found) < LEAST:
            raise DataError(
                f"there are too few pairs to {what}",
                expected=f"{LEAST} or more of which both words have vectors",
                received=f"{len(found)} of {len(given)}",
            )
    turn = both.learned(rows)
    ranks = both.ranks(turn, others)
    generator = np.random.default_rng(seed)
    by_chance = []
    for _ in range(draws):
        shuffled = np.stack([rows[:, 0], generator.permutation(rows[:, 1])], 1)
        by_chance.append(both.ranks(both.learned(shuffled), others))
    chances = {k: [hits_at(one, k) for one in by_chance] for k in DEPTHS}
    return turn, Translation(
        len(rows),
        len(others),
        len(ranks),
        len(learn) + len(test) - len(rows) - len(others),
        {k: hits_at(ranks, k) for k in DEPTHS},
        mean_reciprocal_rank(ranks),
        {k: float(np.mean(v)) for k, v in chances.items()},
        {k: max(v) for k, v in chances.items()},
        draws,
    )

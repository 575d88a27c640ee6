"""Queries of word vectors by words.

``k`` results. Every query is a direction, and its results are the words nearest to it by cosine, except the words of
the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from layerwise.errors import UsageError
from layerwise.functional import similarity
from layerwise.functional.similarity import Method
from layerwise.weights.vectors import Floats, VectorTable


class Neighbor(NamedTuple):
    """A word and its score: its cosine, or 3CosMul's quotient."""

    word: str
    score: float


def find_nearest_words(
    table: VectorTable, plus: Sequence[str], minus: Sequence[str] = (), *, k: int = 10
) -> list[Neighbor]:
    """Return the words nearest to Σ plus − Σ minus, each word at length one: ``king woman``, minus ``man``.

    The words of the query are excluded. Raises `UsageError`, with the nearest word, for one without a vector.
    """
    if not plus and not minus:
        raise UsageError("there is no word to look near", expected="one word or more")
    rows, signs = [table.row(word) for word in (*plus, *minus)], [1] * len(plus) + [-1] * len(minus)
    direction = (table.unit[rows] * np.array(signs, dtype=np.float32)[:, None]).sum(0, keepdims=True)
    return find_nearest(table, direction, k=k, exclude=rows)


def find_nearest(table: VectorTable, direction: Floats, *, k: int = 10, exclude: Sequence[int] = ()) -> list[Neighbor]:
    """Return the words nearest to a direction (1, D), except some rows."""
    scores = similarity.normalize_rows(direction) @ table.unit.T
    scores[0, list(exclude)] = -np.inf
    return _top_words(table, scores, k)


def solve_analogy(table: VectorTable, a: str, b: str, c: str, *, k: int = 10, method: Method = "add") -> list[Neighbor]:
    """Return the best words for "a is to b as c is to …": 3CosAdd, or 3CosMul (`similarity.score_analogies`). Raises
    `UsageError` as above."""
    rows = (np.array([table.row(word)]) for word in (a, b, c))
    return _top_words(table, similarity.score_analogies(table.unit, *rows, method=method), k)


def word_similarity(table: VectorTable, a: str, b: str) -> float:
    """Return the cosine of two words' vectors. Raises `UsageError` as above."""
    return float(table.unit[table.row(a)] @ table.unit[table.row(b)])


def find_odd_one_out(table: VectorTable, words: Sequence[str]) -> str:
    """Return the word with the smallest cosine to the mean of all. Raises `UsageError` for fewer than three words."""
    if len(words) < 3:
        raise UsageError(
            "cannot find the odd one out of fewer than three words",
            expected="three words or more",
            received=", ".join(words),
        )
    return words[similarity.find_odd_one_out(table.unit[[table.row(word) for word in words]])]


def _top_words(table: VectorTable, scores: Floats, k: int) -> list[Neighbor]:
    """Return the words of the k largest finite scores (1, V)."""
    ids, best = similarity.top_k(scores, k)
    return [
        Neighbor(table.words[index], float(score))
        for index, score in zip(ids[0], best[0], strict=True)
        if np.isfinite(score)
    ]

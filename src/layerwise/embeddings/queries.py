"""Questions to word vectors, asked and answered in words.

``k`` answers. Every question is a direction, and its answers the words nearest to it by cosine, without those it was
made of.
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
    """A word and how well it answers: its cosine, or 3CosMul's quotient."""

    word: str
    score: float


def nearest_words(table: VectorTable, plus: Sequence[str], minus: Sequence[str] = (), *, k: int = 10) -> list[Neighbor]:
    """Return the words nearest to Σ plus − Σ minus, each word at length one: ``king woman``, minus ``man``.

    The words of the question are no answers. Raises `UsageError`, with the nearest word, for one without a vector.
    """
    if not plus and not minus:
        raise UsageError("there is no word to look near", expected="one word or more")
    rows, signs = [table.row(word) for word in (*plus, *minus)], [1] * len(plus) + [-1] * len(minus)
    direction = (table.unit[rows] * np.array(signs, dtype=np.float32)[:, None]).sum(0, keepdims=True)
    return near(table, direction, k=k, without=rows)


def near(table: VectorTable, direction: Floats, *, k: int = 10, without: Sequence[int] = ()) -> list[Neighbor]:
    """Return the words nearest to a direction (1, D), but for some rows."""
    scores = similarity.normalized(direction) @ table.unit.T
    scores[0, list(without)] = -np.inf
    return _answers(table, scores, k)


def analogy(table: VectorTable, a: str, b: str, c: str, *, k: int = 10, method: Method = "add") -> list[Neighbor]:
    """Return what answers "a is to b as c is to …": 3CosAdd, or 3CosMul (`similarity.analogies`). Raises `UsageError`
    as above."""
    rows = (np.array([table.row(word)]) for word in (a, b, c))
    return _answers(table, similarity.analogies(table.unit, *rows, method=method), k)


def similar(table: VectorTable, a: str, b: str) -> float:
    """Return the cosine of two words' vectors. Raises `UsageError` as above."""
    return float(table.unit[table.row(a)] @ table.unit[table.row(b)])


def odd_one_out(table: VectorTable, words: Sequence[str]) -> str:
    """Return the word that fits the others least: the smallest cosine with the mean of all. Raises `UsageError` for
    fewer than three."""
    if len(words) < 3:
        raise UsageError("the odd one out needs others", expected="three words or more", received=", ".join(words))
    return words[similarity.odd_one_out(table.unit[[table.row(word) for word in words]])]


def _answers(table: VectorTable, scores: Floats, k: int) -> list[Neighbor]:
    """Return the words of the k largest of scores (1, V) that are finite."""
    ids, found = similarity.top(scores, k)
    return [
        Neighbor(table.words[at], float(score))
        for at, score in zip(ids[0], found[0], strict=True)
        if np.isfinite(score)
    ]

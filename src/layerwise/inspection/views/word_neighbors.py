"""The view ``neighbors``: the nearest neighbors of words."""

from __future__ import annotations

from pathlib import Path

from layerwise.inspection.base import Target, View
from layerwise.inspection.word_views import NEIGHBORS, get_word_vectors, view_neighbors


def view(target: Target, *, out: Path | None) -> View:
    """Return the nearest neighbors of words in a run's vectors, as `view_neighbors`.

    Raises `UsageError` without a run or its word vectors, and for a word without a vector.
    """
    vectors, name = get_word_vectors(target, "neighbors")
    return view_neighbors(
        vectors, name=name, words=target.words, k=target.examples or NEIGHBORS, lang=target.lang, out=out
    )

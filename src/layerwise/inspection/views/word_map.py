"""The view ``map``: a 2-D map of words."""

from __future__ import annotations

from pathlib import Path

from layerwise.inspection.base import Target, View
from layerwise.inspection.word_views import get_word_vectors, view_map


def view(target: Target, *, out: Path | None) -> View:
    """Return a map of a run's word vectors, as `view_map`.

    Raises `UsageError` without a run or its word vectors, for a word without a vector, and for too many words.
    """
    vectors, name = get_word_vectors(target, "map")
    return view_map(vectors, name=name, words=target.words, count=target.examples, lang=target.lang, out=out)

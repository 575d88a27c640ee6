"""The view ``norms``: the norms of word vectors by word frequency."""

from __future__ import annotations

from pathlib import Path

from layerwise.inspection.base import Target, View
from layerwise.inspection.word_views import get_word_vectors, view_norms


def view(target: Target, *, out: Path | None) -> View:
    """Return the norms of a run's word vectors, as `view_norms`.

    Raises `UsageError` without a run or its word vectors.
    """
    vectors, name = get_word_vectors(target, "norms")
    return view_norms(vectors, name=name, lang=target.lang, out=out)

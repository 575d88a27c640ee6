"""The view ``neighbors``: the nearest words of some."""

from __future__ import annotations

from pathlib import Path

from layerwise.inspection.base import Target, View
from layerwise.inspection.words import NEAR, neighbors_view, of_target


def view(target: Target, *, out: Path | None) -> View:
    """Return the view of a run's vectors (`words.neighbors_view`).

    Raises `UsageError` for a bare model, a run without word vectors and a word without a vector.
    """
    vectors, name = of_target(target, "neighbors")
    return neighbors_view(vectors, name=name, words=target.words, k=target.examples or NEAR, lang=target.lang, out=out)

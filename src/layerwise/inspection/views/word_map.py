"""The view ``map``: words as a map in two dimensions."""

from __future__ import annotations

from pathlib import Path

from layerwise.inspection.base import Target, View
from layerwise.inspection.words import map_view, of_target


def view(target: Target, *, out: Path | None) -> View:
    """Return the view of a run's vectors (`words.map_view`).

    Raises `UsageError` for a bare model, a run without word vectors, a word without a vector and too many words.
    """
    vectors, name = of_target(target, "map")
    return map_view(vectors, name=name, words=target.words, count=target.examples, lang=target.lang, out=out)

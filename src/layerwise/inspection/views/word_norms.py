"""The view ``norms``: how long the vectors are, by how frequent their words."""

from __future__ import annotations

from pathlib import Path

from layerwise.inspection.base import Target, View
from layerwise.inspection.words import norms_view, of_target


def view(target: Target, *, out: Path | None) -> View:
    """Return the view of a run's vectors (`words.norms_view`).

    Raises `UsageError` for a bare model, a run without word vectors.
    """
    vectors, name = of_target(target, "norms")
    return norms_view(vectors, name=name, lang=target.lang, out=out)

"""The data sets that come with scikit-learn: no files, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from layerwise.data.source import Array, ArraySource, Schema
from layerwise.errors import make_unknown_name_error

NAMES = ("digits", "iris", "wine", "breast-cancer", "diabetes")
TARGETS = {
    "digits": "digit",
    "iris": "species",
    "wine": "cultivar",
    "breast-cancer": "diagnosis",
    "diabetes": "progression",
}


def load(name: str) -> ArraySource:
    """Return an embedded data set.

    ``digits``: images (8, 8, 1) uint8, sklearn's 0…16 scaled to 0…255. ``iris``, ``wine``,
    ``breast-cancer``: rows float64 with sklearn's column and class names. ``diabetes``: rows in the columns'
    own units and a number to predict. Raises `UsageError` for another name.
    """
    if name not in NAMES:
        raise make_unknown_name_error("embedded data set", name, NAMES)
    bunch = _load_bunch(name)
    if name == "digits":
        pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # (N, 8, 8, 1)
        schema = Schema("image", (8, 8, 1), "class", tuple(str(c) for c in bunch.target_names), target_name="digit")
        return ArraySource(schema, pixels, _get_labels(bunch), name)
    rows = np.ascontiguousarray(bunch.data, dtype=np.float64)  # (N, D)
    features = tuple(str(column) for column in bunch.feature_names)
    if name == "diabetes":
        schema = Schema("row", rows.shape[1:], "number", (), features, TARGETS[name])
        return ArraySource(schema, rows, np.asarray(bunch.target, dtype=np.float64), name)
    schema = Schema("row", rows.shape[1:], "class", tuple(str(c) for c in bunch.target_names), features, TARGETS[name])
    return ArraySource(schema, rows, _get_labels(bunch), name)


def load_photographs() -> dict[str, Array]:
    """Return scikit-learn's two sample photographs by file name, each (427, 640, 3) uint8: ``china.jpg`` and
    ``flower.jpg``."""
    from sklearn import datasets  # slow to import, and only needed here

    bunch = datasets.load_sample_images()
    return {Path(name).name: np.asarray(image) for name, image in zip(bunch.filenames, bunch.images, strict=True)}


def _get_labels(bunch: Any) -> Array:
    """Return labels (N,) int64."""
    return np.asarray(bunch.target, dtype=np.int64)


def _load_bunch(name: str) -> Any:
    """Load a data set as scikit-learn's ``Bunch``."""
    from sklearn import datasets  # slow to import, and only needed here

    if name == "diabetes":
        return datasets.load_diabetes(scaled=False)
    return getattr(datasets, "load_" + name.replace("-", "_"))()

"""Word vectors from wherever they lie: a file, or a run that trained them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from layerwise.errors import UsageError
from layerwise.nn.word_vectors import WordVectors
from layerwise.tasks.vocabulary import WordInputs
from layerwise.weights.reading import read
from layerwise.weights.vector_files import read_vectors
from layerwise.weights.vectors import VectorTable


def table_of(model: WordVectors, inputs: WordInputs) -> VectorTable:
    """Return the vectors of a network by its vocabulary, as a table."""
    matrix = np.ascontiguousarray(model.table().detach().cpu().float().numpy())
    return VectorTable(list(inputs.words), matrix, np.array(inputs.counts, dtype=np.int64))


def vectors_of(place: str | Path) -> VectorTable:
    """Return the word vectors of a run directory, or of a file of any form.

    Raises `UsageError` for a path that is not there and a run without word vectors, otherwise what `read_vectors` and `weights.read` do.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise UsageError(f"there is no file or run {path}", expected="a run of word vectors, or a file of them")
    if not path.is_dir():
        return read_vectors(path)
    found = read(path)
    inputs = found.assets["task"].get("inputs", {})
    words, counts = (inputs.get(name) for name in ("words", "counts")) if isinstance(inputs, dict) else (None, None)
    if "vectors.weight" not in found.tensors or not isinstance(words, list):
        raise UsageError(f"{path} has no word vectors", expected="a run of a card that learns them, or a file of word vectors",
                         do="layerwise models --family word-vectors")  # fmt: skip
    matrix = found.tensors["vectors.weight"].float()
    if "context_bias" in found.tensors:  # GloVe's are W + W̃ (E31)
        matrix = matrix + found.tensors["context.weight"].float()
    return VectorTable(words, matrix.numpy(), None if counts is None else np.array(counts, dtype=np.int64))

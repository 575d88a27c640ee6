"""Word vectors from wherever they lie: a file, or a run that trained them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from layerwise import catalog
from layerwise.durable import damaged
from layerwise.errors import UsageError
from layerwise.nn.word_vectors import WordVectors
from layerwise.run import RunDirectory
from layerwise.tasks import registry as tasks
from layerwise.tasks.vocabulary import WordInputs
from layerwise.weights import Fit, check, put
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
    return _of_run(path)


def _of_run(path: Path) -> VectorTable:
    """Return the word vectors of a run's best weights."""
    found, info = read(path), RunDirectory.open(path).info()
    card = catalog.find(str(info["model"]["name"]))
    model: nn.Module = catalog.builder(card)(**info["model"]["arguments"])
    check(model, found.tensors, str(path))
    put(model, Fit(found.tensors, (), "", str(path), found.assets))
    try:
        inputs = tasks.from_json(found.assets["task"]).inputs
    except (KeyError, TypeError, msgspec.DecodeError) as error:
        raise damaged(path / "task.json", "it does not describe a task") from error
    if not isinstance(model, WordVectors) or not isinstance(inputs, WordInputs):
        raise UsageError(f"{path} has no word vectors: it is a run of {card.name}", expected="a run of skipgram, cbow or glove, or a file")
    return table_of(model, inputs)

"""Word vectors from wherever they lie: a file, or a run that trained them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from layerwise.errors import UsageError
from layerwise.nn.word_vectors import WordVectors
from layerwise.run_directory import RunDirectory
from layerwise.tasks import registry as tasks
from layerwise.tasks.vocabulary import WordInputs
from layerwise.weights import Fit, put
from layerwise.weights.reading import read
from layerwise.weights.saved_model import build_saved_model, check_task_fits
from layerwise.weights.vector_files import read_vectors
from layerwise.weights.vectors import VectorTable


def table_of(model: WordVectors, inputs: WordInputs) -> VectorTable:
    """Return the vectors of a network by its vocabulary, as a table."""
    matrix = np.ascontiguousarray(model.table().detach().cpu().float().numpy())
    return VectorTable(list(inputs.words), matrix, np.array(inputs.counts, dtype=np.int64))


def vectors_of(place: str | Path) -> VectorTable:
    """Return the word vectors of a run directory, or of a file of any form.

    Raises `UsageError` for a path that is not there and a run without word vectors, otherwise what `read_vectors` and
    `weights.read` do.
    """
    path = Path(place).expanduser()
    if not path.exists():
        raise UsageError(f"there is no file or run {path}", expected="a run of word vectors, or a file of them")
    if not path.is_dir():
        return read_vectors(path)
    return _of_run(path)


def _of_run(path: Path) -> VectorTable:
    """Return the word vectors of a run's best weights."""
    found = read(path)
    spec, model, arguments = build_saved_model(RunDirectory.open(path).info(), found.tensors, path)
    put(model, Fit(found.tensors, (), "", str(path), found.assets))
    task = tasks.from_json(found.assets["task"], path / "task.json")
    check_task_fits(task.model_args(), arguments, path / "task.json")
    inputs = task.inputs
    if not isinstance(model, WordVectors) or not isinstance(inputs, WordInputs):
        raise UsageError(
            f"{path} has no word vectors: it is a run of {spec.name}",
            expected="a run of skipgram, cbow or glove, or a file",
        )
    return table_of(model, inputs)

"""Inputs of the commands on vectors: word vectors from a file or a run, and labeled queries from a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from layerwise.errors import DataError, UsageError
from layerwise.nn.word_vectors import WordVectors
from layerwise.run_directory import RunDirectory
from layerwise.tasks import registry as tasks
from layerwise.tasks.vocabulary import WordInputs
from layerwise.text_display import unguard_formula
from layerwise.weights.loading import apply_weights
from layerwise.weights.matching import WeightMatch
from layerwise.weights.saved_model import build_saved_model, check_task_fits
from layerwise.weights.vector_files import read_vectors
from layerwise.weights.vectors import VectorTable
from layerwise.weights.weight_files import read_weights


def export_table(model: WordVectors, inputs: WordInputs) -> VectorTable:
    """Return the vectors of a network with its vocabulary, as a table."""
    matrix = np.ascontiguousarray(model.table().detach().cpu().float().numpy())
    return VectorTable(list(inputs.words), matrix, np.array(inputs.counts, dtype=np.int64))


def load_vectors(source: str | Path) -> VectorTable:
    """Return the word vectors of a run directory, or of a file of any form.

    Raises `UsageError` for a path that is not there and a run without word vectors, otherwise what `read_vectors` and
    `weights.read_weights` do.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(f"there is no file or run {path}", expected="a run of word vectors, or a file of them")
    if not path.is_dir():
        return read_vectors(path)
    return _load_run_vectors(path)


def _load_run_vectors(path: Path) -> VectorTable:
    """Return the word vectors of a run's best weights."""
    weights = read_weights(path)
    spec, model, arguments = build_saved_model(RunDirectory.open(path).info(), weights.tensors, path)
    apply_weights(model, WeightMatch(weights.tensors, (), "", str(path), weights.assets))
    task = tasks.load_task(weights.assets["task"], path / "task.json")
    check_task_fits(task.model_args(), arguments, path / "task.json")
    inputs = task.inputs
    if not isinstance(model, WordVectors) or not isinstance(inputs, WordInputs):
        raise UsageError(
            f"{path} has no word vectors: it is a run of {spec.name}",
            expected="a run of skipgram, cbow or glove, or a file",
        )
    return export_table(model, inputs)


def read_labeled_queries(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the queries of a table, each once, in order, and the names of the relevant passages of each.

    The first column holds queries, the second names; a query with several relevant passages has several rows. Cells
    that `text_display.format_row` guarded against spreadsheets are read without the guard.

    Raises `DataError` for a file that cannot be read, for rows without both, and for an empty one.
    """
    from layerwise.data.tables import table_files  # pyarrow is slow to import

    relevant: dict[str, list[str]] = {}
    row = 0
    for rows in table_files.iterate_rows(path):
        for cells in rows:
            row += 1
            values = [unguard_formula(str(value).strip()) for value in cells.values() if value is not None]
            if len(values) < 2 or not all(values[:2]):
                raise DataError(
                    f"{path} row {row} is no question with an answer",
                    expected="two columns: a question, the name of a passage",
                    received=", ".join(values),
                )
            relevant.setdefault(values[0], []).append(values[1])
    if not relevant:
        raise DataError(f"{path} has no questions", expected="two columns: a question, the name of a passage")
    return list(relevant), [list(dict.fromkeys(names)) for names in relevant.values()]

"""``.vec``, ``.bin``, ``.txt``: word vectors in the files of word2vec and GloVe."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from layerwise.embeddings.sources import export_table
from layerwise.errors import UsageError
from layerwise.inference.export.base import Check, ExportSource, compare
from layerwise.nn.word_vectors import NearestWords, WordVectors
from layerwise.runtime.atomic_io import write_file
from layerwise.runtime.in_place_io import open_temporary_folder
from layerwise.tasks.vocabulary import WordInputs
from layerwise.weights.vector_files import Kind, check_words, read_vectors, write_table
from layerwise.weights.vectors import VectorTable

KINDS: dict[str, Kind] = {".vec": "word2vec", ".bin": "word2vec-binary", ".txt": "glove"}


def serialize_vectors(source: ExportSource, kind: str) -> bytes:
    """Return a file's bytes. Raises `UsageError` for a network without word vectors."""
    if not isinstance(source.model, WordVectors) or not isinstance(source.task.inputs, WordInputs):
        raise UsageError(
            f"{source.spec.name} has no word vectors, and {kind} holds nothing else",
            expected="a run of skipgram, cbow or glove",
            do="export .onnx, .pt2 or .safetensors",
        )
    table, stream = export_table(source.model, source.task.inputs), io.BytesIO()
    check_words(table)
    write_table(table, stream, kind=KINDS[kind])
    return stream.getvalue()


def check_vectors(data: bytes, kind: str, source: ExportSource) -> Check:
    """Read the file again and compare its vectors' predictions with the network's."""
    with open_temporary_folder() as folder:
        write_file(folder / f"vectors{kind}", data)
        table = read_vectors(folder / f"vectors{kind}")
    module = NearestWords(_Table(table)).eval()

    def run(x: Tensor) -> list[Tensor]:
        cosines = module(x)
        return [cosines, cosines[:, : len(table)].argmax(1).float()]

    return compare(run, source, by="the vectors read again")


class _Table(WordVectors):
    """A file's vectors as a network."""

    def __init__(self, table: VectorTable) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(np.ascontiguousarray(table.matrix)))

    def table(self) -> Tensor:
        """Return the file's vectors."""
        matrix: Tensor = self.get_buffer("matrix")
        return matrix

"""``.vec``, ``.bin``, ``.txt``: word vectors in the files of word2vec and GloVe."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from layerwise.embeddings.sources import table_of
from layerwise.errors import UsageError
from layerwise.inference.export.base import Check, Subject, compare
from layerwise.nn.word_vectors import Nearest, WordVectors
from layerwise.runtime.atomic_io import open_temporary_folder, write_file
from layerwise.tasks.vocabulary import WordInputs
from layerwise.weights.vector_files import Kind, check_words, read_vectors, write_table
from layerwise.weights.vectors import VectorTable

KINDS: dict[str, Kind] = {".vec": "word2vec", ".bin": "word2vec-binary", ".txt": "glove"}


def written(subject: Subject, kind: str) -> bytes:
    """Return a file's bytes. Raises `UsageError` for a network without word vectors."""
    if not isinstance(subject.model, WordVectors) or not isinstance(subject.task.inputs, WordInputs):
        raise UsageError(
            f"{subject.spec.name} has no word vectors, and {kind} holds nothing else",
            expected="a run of skipgram, cbow or glove",
            do="export .onnx, .pt2 or .safetensors",
        )
    table, stream = table_of(subject.model, subject.task.inputs), io.BytesIO()
    check_words(table)
    write_table(table, stream, kind=KINDS[kind])
    return stream.getvalue()


def check(data: bytes, kind: str, subject: Subject) -> Check:
    """Read the file again and compare what its vectors answer with what the network answers."""
    with open_temporary_folder() as place:
        write_file(place / f"vectors{kind}", data)
        found = read_vectors(place / f"vectors{kind}")
    module = Nearest(_Table(found)).eval()

    def run(x: Tensor) -> list[Tensor]:
        said = module(x)
        return [said, said[:, : len(found)].argmax(1).float()]

    return compare(run, subject, by="the vectors read again")


class _Table(WordVectors):
    """The vectors of a file in the place of a network's."""

    def __init__(self, table: VectorTable) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(np.ascontiguousarray(table.matrix)))

    def table(self) -> Tensor:
        """Return the file's vectors."""
        found: Tensor = self.get_buffer("matrix")
        return found

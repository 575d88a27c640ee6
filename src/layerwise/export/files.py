"""Export a run to a file: choose by the ending, write, check, keep."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from layerwise import strict_json
from layerwise.errors import UsageError
from layerwise.export import graph, onnx, tensors, words
from layerwise.export.base import Check, ExportError, Json, Subject, passport, refuse_wrong
from layerwise.export.folding import Folded
from layerwise.export.folding import fold as fold_

ENDINGS = {
    ".onnx": "the graph, for other runtimes",
    ".pt2": "the graph, for torch (torch.export)",
    ".safetensors": "the weights alone, by name",
    ".vec": "word vectors as word2vec's text",
    ".bin": "word vectors in word2vec's binary form",
    ".txt": "word vectors as GloVe's text",
}


class Exported(NamedTuple):
    """A file that was written and checked; ``beside`` is the JSON file with the check's figures and what goes along."""

    path: Path
    beside: Path
    size: int
    facts: Json


def export(subject: Subject, path: Path, *, fold: bool = False, overwrite: bool = False) -> Exported:
    """Write a network to a file of one of `ENDINGS`, check it against the network over several batch sizes, and keep it.

    ``fold`` folds batch norms into the layers before them. Nothing is left behind a failure, and a file that was there stays whole.

    Raises:
        UsageError: for another ending, a file that is there already, a missing extra, a network that is no fixed graph.
        ExportError: where what was written does not compute what the network computes.
    """
    beside = path.with_name(path.name + ".json")
    refuse(path, beside, fold=fold, overwrite=overwrite)
    kind = path.suffix.lower()
    chosen = fold_(subject.model) if fold else None
    told = passport(subject, folded=None if chosen is None else chosen.norms)
    data, check, extra = _made(kind, subject, told, fold=chosen)
    refuse_wrong(check, path.name)
    facts = {**told, "file": path.name, "bytes": len(data), "check": msgspec.to_builtins(check)}
    facts["versions"] = {**facts["versions"], **extra}
    keep([(path, data), (beside, (strict_json.dumps(facts, indent=1) + "\n").encode())])
    return Exported(path, beside, len(data), facts)


def _made(kind: str, subject: Subject, told: Json, *, fold: Folded | None) -> tuple[bytes, Check, Json]:
    """Return a file's bytes, its check, and the versions it depends on."""
    if kind in words.KINDS:
        data = words.written(subject, kind)
        return data, words.check(data, kind, subject), {}
    if kind == ".safetensors":
        data = tensors.written(subject.model, told)
        return data, tensors.check(data, subject), {}
    network = copy.deepcopy(subject.model) if fold is None else fold.model
    module = subject.task.export_module(network).module
    if kind == ".pt2":
        data = graph.written(module, subject, told)
        return data, graph.check(data, subject), {}
    data = onnx.written(module, subject, told, fold=fold is not None)
    return data, onnx.check(data, subject), onnx.versions(data)


def refuse(path: Path, beside: Path, *, fold: bool, overwrite: bool) -> None:
    """Raise `UsageError` for a place or an ending that will not do."""
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        known = "; ".join(f"{name}: {what}" for name, what in ENDINGS.items())
        raise UsageError(f"{path} has no ending that says what to write", expected=known, received=f"'{path.suffix}'")
    if fold and kind not in (".onnx", ".pt2"):
        raise UsageError(
            f"--fold takes batch norms out of a graph; a {kind} file has the network's own names, batch norms among them",
            do="leave --fold out, or export .onnx or .pt2",
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", expected="a folder to write into", do=f"mkdir -p {path.parent}")
    there = [str(p) for p in (path, beside) if p.exists()]
    if there and (not overwrite or any(p.is_dir() for p in (path, beside))):
        raise UsageError(f"{' and '.join(there)} is there already", expected="a new file", do="choose another name, or add --overwrite")


def keep(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write all files beside their places, flushed, then rename them: none is ever half there, and a failure leaves no litter.

    Several processes may keep the same file at the same time. Raises `ExportError` for a full or read-only disk.
    """
    ready = [(path.with_name(f".{path.name}.{os.getpid()}.new"), path) for path, _ in files]
    try:
        for (beside, _), (_, data) in zip(ready, files, strict=True):
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for beside, path in ready:
            os.replace(beside, path)
    except OSError as error:
        for beside, _ in ready:
            beside.unlink(missing_ok=True)
        raise ExportError(
            f"{files[0][0]} could not be written: {error.strerror}", expected="room and permission to write",
            do="free some space or choose another place; what was there before is intact",
        ) from error  # fmt: skip

"""Export a run to a file: choose by the ending, write, check, keep."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import msgspec

from layerwise.errors import UsageError
from layerwise.inference.export import graph, onnx, tensors, words
from layerwise.inference.export.base import Check, Json, Subject, passport, refuse_wrong
from layerwise.inference.export.folding import Folded
from layerwise.inference.export.folding import fold as fold_
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import check_target, write_files

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
    """Write a network to a file of one of `ENDINGS`, check it against the network over several batch sizes, and keep
    it.

    ``fold`` folds batch norms into the layers before them. Nothing is left behind a failure, and a file that was there
    stays whole.

    Raises:
        UsageError: for another ending, a file that is there already, a missing extra, a network that is no fixed graph.
        ExportError: where what was written does not compute what the network computes.
        StorageError: for a full or read-only disk.
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
    write_files([(path, data), (beside, (strict_json.dumps(facts, indent=1) + "\n").encode())], overwrite=overwrite)
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
            f"--fold takes batch norms out of a graph; a {kind} file has the network's own names, batch "
            "norms among them",
            do="leave --fold out, or export .onnx or .pt2",
        )
    for place in (path, beside):
        check_target(place, overwrite=overwrite)

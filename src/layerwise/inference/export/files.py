"""Export a run to a file: choose by the ending, write, check, keep."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import msgspec

from layerwise.errors import UsageError
from layerwise.inference.export import onnx_file, torch_files, word_vectors
from layerwise.inference.export.base import Check, ExportSource, Json, build_metadata, raise_if_failed
from layerwise.inference.export.folding import FoldedModel, fold_batch_norms
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import write_files
from layerwise.runtime.write_checks import check_target

ENDINGS = {
    ".onnx": "the graph, for other runtimes",
    ".pt2": "the graph, for torch (torch.export)",
    ".safetensors": "the weights alone, by name",
    ".vec": "word vectors as word2vec's text",
    ".bin": "word vectors in word2vec's binary form",
    ".txt": "word vectors as GloVe's text",
}


class ExportedFile(NamedTuple):
    """A file that was written and checked; ``metadata_path`` is the JSON file with the metadata and the check's
    figures."""

    path: Path
    metadata_path: Path
    size: int
    facts: Json


def export(source: ExportSource, path: Path, *, fold: bool = False, overwrite: bool = False) -> ExportedFile:
    """Write a network to a file of one of `ENDINGS` and check it against the network over several batch sizes.

    ``fold`` folds batch norms into the layers before them. A failure leaves nothing behind, and a file that was there
    stays as it is.

    Raises:
        UsageError: for another ending, a file that is there already, a missing extra, a network that is no fixed graph.
        ExportError: if the file does not compute what the network computes.
        StorageError: for a full or read-only disk.
    """
    metadata_path = path.with_name(path.name + ".json")
    check_export_path(path, metadata_path, fold=fold, overwrite=overwrite)
    kind = path.suffix.lower()
    folded = fold_batch_norms(source.model) if fold else None
    metadata = build_metadata(source, folded=None if folded is None else folded.norms)
    data, check, versions = _serialize(kind, source, metadata, folded=folded)
    raise_if_failed(check, path.name)
    facts = {**metadata, "file": path.name, "bytes": len(data), "check": msgspec.to_builtins(check)}
    facts["versions"] = {**facts["versions"], **versions}
    facts_json = (strict_json.dumps(facts, indent=1) + "\n").encode()
    write_files([(path, data), (metadata_path, facts_json)], overwrite=overwrite)
    return ExportedFile(path, metadata_path, len(data), facts)


def _serialize(
    kind: str, source: ExportSource, metadata: Json, *, folded: FoldedModel | None
) -> tuple[bytes, Check, Json]:
    """Return a file's bytes, its check, and the versions it depends on."""
    if kind in word_vectors.KINDS:
        data = word_vectors.serialize_vectors(source, kind)
        return data, word_vectors.check_vectors(data, kind, source), {}
    if kind == ".safetensors":
        data = torch_files.serialize_safetensors(source.model, metadata)
        return data, torch_files.check_safetensors(data, source), {}
    network = copy.deepcopy(source.model) if folded is None else folded.model
    module = source.task.export_module(network).module
    if kind == ".pt2":
        data = torch_files.serialize_pt2(module, source, metadata)
        return data, torch_files.check_pt2(data, source), {}
    data = onnx_file.serialize_onnx(module, source, metadata, fold=folded is not None)
    return data, onnx_file.check_onnx(data, source), onnx_file.get_onnx_versions(data)


def check_export_path(path: Path, metadata_path: Path, *, fold: bool, overwrite: bool) -> None:
    """Raise `UsageError` for a path that cannot be written or an unknown ending."""
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
    for target in (path, metadata_path):
        check_target(target, overwrite=overwrite)

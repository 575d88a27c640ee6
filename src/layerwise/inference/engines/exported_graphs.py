"""The exported graph of a run: exported once into the run's folder, named by the weights' checksum, and verified by a
checksum of its own."""

from __future__ import annotations

import copy
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from layerwise.errors import LayerwiseError
from layerwise.inference.export.base import FORMAT, ExportSource, build_metadata
from layerwise.inference.export.folding import fold_batch_norms
from layerwise.run_records import Digest, Text, check_record, read_bounded
from layerwise.runtime.atomic_io import make_folder, write_file, write_files
from layerwise.runtime.checksums import Json, digest, digest_file, dump_checksummed, load_checksummed
from layerwise.runtime.in_place_io import remove_if_unchanged
from layerwise.runtime.write_checks import is_plain_file

FOLDER = "engines"


class GraphChecksum(msgspec.Struct, frozen=True):
    """The content of a graph's checksum file: the graph's checksum, and the versions that wrote it."""

    sha256: Digest
    exporter: dict[str, Text]


def compute_key(*, spec: str, arguments: Any, task: Any, weights: str) -> str:
    """Return a digest of all that decides a graph: the network, its task, its weights, and our format."""
    facts = {"model": spec, "arguments": arguments, "task": task, "weights": weights, "graph": FORMAT}
    return digest(dump_checksummed(facts))[:24]


def get_key(source: ExportSource) -> str:
    """Return a source's key."""
    return compute_key(
        spec=source.spec.name, arguments=source.arguments, task=source.task.to_json(), weights=source.weights
    )


def get_cache_folder() -> Path:
    """Return the folder for graphs and measurements in the user's cache."""
    return Path(platformdirs.user_cache_dir("layerwise")) / FOLDER


def find_or_export_graph(source: ExportSource, run: Path) -> Path:
    """Return the file of a run's graph, batch norms folded: exported into the run's folder, or the user's cache where
    that is read-only.

    A file that is damaged, was written by another exporter, or came with a run from elsewhere is written anew: a graph
    is a program, and only one that this user exported is run. Raises `UsageError` for a network that is no fixed graph
    and for a missing extra.
    """
    name = f"{get_key(source)}.onnx"
    for folder in (run / FOLDER, get_cache_folder()):
        if is_intact(folder / name) and was_exported_here(folder / name):
            return folder / name
    data = export_graph(source)
    try:
        return save_graph(run / FOLDER / name, data)
    except (OSError, LayerwiseError):
        return save_graph(get_cache_folder() / name, data)


def export_graph(source: ExportSource) -> bytes:
    """Export the graph."""
    from layerwise.inference.export.onnx_file import serialize_onnx

    folded = fold_batch_norms(source.model)
    module = source.task.export_module(copy.deepcopy(folded.model)).module
    return serialize_onnx(module, source, build_metadata(source, folded=folded.norms), fold=True)


def save_graph(path: Path, data: bytes) -> Path:
    """Write a graph and its checksum file; remove graphs of the run's older weights that have a valid checksum file."""
    root = path.parents[1]
    make_folder(path.parent, root=root)
    checksum = dump_checksummed({"sha256": digest(data), "exporter": get_exporter_versions()})
    write_files([(path, data), (get_checksum_path(path), checksum)], root=root)
    mark_exported(path, digest(data))
    if path.parent != get_cache_folder():
        for old in path.parent.glob("*.onnx"):
            if old != path and (known := read_graph_checksum(old)) is not None:
                checksum_path = get_checksum_path(old)
                digests = {old.name: known["sha256"], checksum_path.name: digest(checksum_path.read_bytes())}
                remove_if_unchanged(path.parent, digests)
    return path


def is_intact(path: Path) -> bool:
    """Whether a graph is as it was written, by the exporter that is installed."""
    known = read_graph_checksum(path)
    if known is None or known.get("exporter") != get_exporter_versions():
        return False
    try:
        return bool(known["sha256"] == digest_file(path))
    except OSError:
        return False


def _get_marker_path(path: Path) -> Path:
    """Return the file of the user's cache that says which graph of this name was exported here."""
    return get_cache_folder() / f"{path.name}.exported.json"


def mark_exported(path: Path, sha256: str) -> None:
    """Note in the user's cache that a graph was exported here; a cache that cannot be written is no error."""
    with suppress(OSError, LayerwiseError):
        make_folder(get_cache_folder())
        write_file(_get_marker_path(path), dump_checksummed({"sha256": sha256}), root=get_cache_folder())


def was_exported_here(path: Path) -> bool:
    """Whether the user's cache says that a graph, or one of the same bytes, was exported here."""
    known = read_graph_checksum(path)
    if known is None:
        return False
    try:
        marker = _get_marker_path(path)
        exported = load_checksummed(read_bounded(marker, root=get_cache_folder()), marker)
        return bool(exported.get("sha256") == known["sha256"])
    except (OSError, LayerwiseError):
        return False


def read_graph_checksum(path: Path) -> Json | None:
    """Return the content of a graph's checksum file; None if the graph or that file is no plain file, or that file is
    not as it was written."""
    root, checksum_path = path.parents[1], get_checksum_path(path)
    if not all(is_plain_file(file, root=root) for file in (path, checksum_path)):
        return None
    try:
        known = load_checksummed(read_bounded(checksum_path, root=root), checksum_path)
        check_record(known, GraphChecksum, checksum_path)
    except LayerwiseError:
        return None
    return known


def find_graph_problems(run: Path) -> dict[str, str]:
    """Return each graph in a run's folder with what is wrong with it, or an empty text: for ``doctor``."""
    problems = {}
    for path in sorted((run / FOLDER).glob("*.onnx")):
        known, name = read_graph_checksum(path), f"{FOLDER}/{path.name}"
        if known is None:
            problems[f"{name}.json"] = "the seal of a graph is missing or not as it was written"
        else:
            problems[name] = "" if digest_file(path) == known["sha256"] else "its checksum is wrong"
    return problems


def get_checksum_path(path: Path) -> Path:
    """Return a graph's checksum file."""
    return path.with_name(path.name + ".json")


def get_exporter_versions() -> dict[str, str]:
    """Return the versions of the packages that affect an exported graph; empty for missing packages."""
    from importlib.metadata import PackageNotFoundError

    versions = {}
    for name in ("layerwise", "torch", "onnx", "onnxscript"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return versions

"""The exported graph of a run, kept beside it: made once, named by the weights' checksum, vouched for by a checksum of
its own."""

from __future__ import annotations

import copy
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from layerwise.errors import LayerwiseError
from layerwise.inference.export.base import FORMAT, Subject, passport
from layerwise.inference.export.folding import fold
from layerwise.run_records import Digest, Text, check_record, read_bounded
from layerwise.runtime.atomic_io import is_plain_file, make_folder, take_back, write_file, write_files
from layerwise.runtime.checksums import Json, digest, digest_of, sealed, unsealed

FOLDER = "engines"


class Seal(msgspec.Struct, frozen=True):
    """What the file beside a graph says: the graph's checksum, and the versions that wrote it."""

    sha256: Digest
    exporter: dict[str, Text]


def key_of(*, spec: str, arguments: Any, task: Any, weights: str) -> str:
    """Return what tells one graph from another: the network, its task, its weights, and the form we write."""
    return digest(sealed({"model": spec, "arguments": arguments, "task": task, "weights": weights, "graph": FORMAT}))[
        :24
    ]


def key(subject: Subject) -> str:
    """Return a subject's key."""
    return key_of(
        spec=subject.spec.name, arguments=subject.arguments, task=subject.task.to_json(), weights=subject.weights
    )


def users() -> Path:
    """Return the folder for graphs and measurements in the user's cache."""
    return Path(platformdirs.user_cache_dir("layerwise")) / FOLDER


def graph_of(subject: Subject, run: Path) -> Path:
    """Return the file of a run's graph, batch norms folded: exported into the run's folder, or the user's cache where
    that is read-only.

    A file that is damaged, was written by another exporter, or came with a run from elsewhere is written anew: a graph
    is a program, and only one that this user exported is run. Raises `UsageError` for a network that is no fixed graph
    and for a missing extra.
    """
    name = f"{key(subject)}.onnx"
    for folder in (run / FOLDER, users()):
        if whole(folder / name) and was_exported_here(folder / name):
            return folder / name
    data = written(subject)
    try:
        return put(run / FOLDER / name, data)
    except (OSError, LayerwiseError):
        return put(users() / name, data)


def written(subject: Subject) -> bytes:
    """Export the graph."""
    from layerwise.inference.export import onnx

    made = fold(subject.model)
    module = subject.task.export_module(copy.deepcopy(made.model)).module
    return onnx.written(module, subject, passport(subject, folded=made.norms), fold=True)


def put(path: Path, data: bytes) -> Path:
    """Put a graph into its folder, and its seal beside it; graphs of older weights of the run, told by their seals,
    go."""
    root = path.parents[1]
    make_folder(path.parent, root=root)
    write_files([(path, data), (seal(path), sealed({"sha256": digest(data), "exporter": exporter()}))], root=root)
    remember(path, digest(data))
    if path.parent != users():
        for old in path.parent.glob("*.onnx"):
            if old != path and (known := read_seal(old)) is not None:
                take_back(path.parent, {old.name: known["sha256"], seal(old).name: digest(seal(old).read_bytes())})
    return path


def whole(path: Path) -> bool:
    """Whether a graph lies here as it was written, by the exporter that is installed."""
    known = read_seal(path)
    try:
        return known is not None and known.get("exporter") == exporter() and known["sha256"] == digest_of(path)
    except OSError:
        return False


def _memory(path: Path) -> Path:
    """Return the file of the user's cache that says which graph of this name was exported here."""
    return users() / f"{path.name}.exported.json"


def remember(path: Path, sha256: str) -> None:
    """Note in the user's cache that a graph was exported here; a home that cannot be written is no error."""
    with suppress(OSError, LayerwiseError):
        make_folder(users())
        write_file(_memory(path), sealed({"sha256": sha256}), root=users())


def was_exported_here(path: Path) -> bool:
    """Whether the user's cache says that a graph, or one of the same bytes, was exported here."""
    known = read_seal(path)
    try:
        place = _memory(path)
        return known is not None and unsealed(read_bounded(place, root=users()), place).get("sha256") == known["sha256"]
    except (OSError, LayerwiseError):
        return False


def read_seal(path: Path) -> Json | None:
    """Return what the seal beside a graph says; None where graph or seal is no plain file, or the seal is not as it was
    written."""
    if not all(is_plain_file(place, root=path.parents[1]) for place in (path, seal(path))):
        return None
    try:
        known = unsealed(read_bounded(seal(path), root=path.parents[1]), seal(path))
        check_record(known, Seal, seal(path))
    except LayerwiseError:
        return None
    return known


def graph_problems(run: Path) -> dict[str, str]:
    """Return each graph in a run's folder with what is wrong with it, or an empty text: for ``doctor``."""
    found = {}
    for path in sorted((run / FOLDER).glob("*.onnx")):
        known, name = read_seal(path), f"{FOLDER}/{path.name}"
        if known is None:
            found[f"{name}.json"] = "the seal of a graph is missing or not as it was written"
        else:
            found[name] = "" if digest_of(path) == known["sha256"] else "its checksum is wrong"
    return found


def seal(path: Path) -> Path:
    """Return the file that vouches for a graph."""
    return path.with_name(path.name + ".json")


def exporter() -> dict[str, str]:
    """Return the versions that decide how a graph is written; empty for packages that are not here."""
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in ("layerwise", "torch", "onnx", "onnxscript"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found

"""The exported graph of a run, kept beside it: made once, named by the weights' checksum, vouched for by a checksum of its own."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from layerwise.durable import digest, digest_of, sealed, unsealed
from layerwise.errors import LayerwiseError
from layerwise.export.base import FORMAT, Subject, passport
from layerwise.export.files import keep
from layerwise.export.folding import fold

FOLDER = "engines"


def key_of(*, card: str, arguments: Any, task: Any, weights: str) -> str:
    """Return what tells one graph from another: the network, its task, its weights, and the form we write."""
    return digest(sealed({"card": card, "arguments": arguments, "task": task, "weights": weights, "graph": FORMAT}))[:24]


def key(subject: Subject) -> str:
    """Return a subject's key."""
    return key_of(card=subject.card.name, arguments=subject.arguments, task=subject.task.to_json(), weights=subject.weights)


def users() -> Path:
    """Return the folder for graphs and measurements in the user's cache."""
    return Path(platformdirs.user_cache_dir("layerwise")) / FOLDER


def graph_of(subject: Subject, run: Path) -> Path:
    """Return the file of a run's graph, batch norms folded: exported into the run's folder, or the user's cache where that is read-only.

    A file that is damaged, or was written by another exporter, is written anew. Raises `UsageError` for a network that is no fixed
    graph and for a missing extra.
    """
    name = f"{key(subject)}.onnx"
    for folder in (run / FOLDER, users()):
        if whole(folder / name):
            return folder / name
    data = written(subject)
    try:
        return put(run / FOLDER / name, data)
    except (OSError, LayerwiseError):
        return put(users() / name, data)


def written(subject: Subject) -> bytes:
    """Export the graph."""
    from layerwise.export import onnx

    made = fold(subject.model)
    module = subject.task.export_module(copy.deepcopy(made.model)).module
    return onnx.written(module, subject, passport(subject, folded=made.norms), fold=True)


def put(path: Path, data: bytes) -> Path:
    """Put a graph into its folder, and its seal beside it; graphs of older weights of the run go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keep([(path, data), (seal(path), sealed({"sha256": digest(data), "exporter": exporter()}))])
    if path.parent != users():
        for old in path.parent.glob("*.onnx*"):
            if not old.name.startswith((path.name, ".")):
                old.unlink(missing_ok=True)
    return path


def whole(path: Path) -> bool:
    """Whether a graph lies here as it was written, by the exporter that is installed."""
    try:
        told = unsealed(seal(path).read_bytes(), seal(path))
        return bool(told["exporter"] == exporter() and told["sha256"] == digest_of(path))
    except (OSError, LayerwiseError, KeyError):
        return False


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



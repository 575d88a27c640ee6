"""Weights from files: safetensors, and torch's own files, read without executing anything in them.

Saved files rarely hold only a table of tensors: it is under a key such as ``state_dict`` or ``model``, beside the
optimizer's state and the best accuracy, and its names begin with ``module.`` (DataParallel) or ``_orig_mod.``
(torch.compile). `read_weights` finds the tensors, strips such prefixes, and reports what it did.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import DamagedError, DataError, UsageError
from layerwise.run_directory import RunDirectory
from layerwise.runtime.checksums import digest, make_damaged_error, read_tensors
from layerwise.runtime.input_files import open_regular_file, read_regular_file, refuse_special_file
from layerwise.weights.tensor_checks import check_tensors

KNOWN_KEYS = (  # of tensors in a checkpoint; averaged weights come before raw ones, because the author evaluated those
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "network",
    "net",
    "weights",
    "params",
    "module",
)
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and its kin (AveragedModel too), of torch.compile
COUNTERS = ("n_averaged",)  # of AveragedModel, beside its tensors
UNSAFE_HINT = "weights_only"  # torch's messages advise to set it to False, which executes the file: not repeated
PROGRAM_MARKS = {
    "constants.pkl": "TorchScript",
    "archive_format": "torch.export",
    "serialized_exported_program.json": "torch.export",
}
MAX_OTHERS = 12  # names of other contents that a message lists
# Plain data that checkpoints hold beside tensors: the command's options, and NumPy's numbers under their old and new
# names.
SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")),
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class Weights(NamedTuple):
    """Tensors by name, and facts about them: a run's ``task``, and what `read_weights` found and did (``sha256``,
    ``place``, ``prefix``, ``beside``)."""

    tensors: dict[str, Tensor]
    assets: dict[str, Any]


def read_weights(path: Path) -> Weights:
    """Read weights from a run directory, a ``.safetensors`` file or a torch file. Nothing in a file is ever
    executed.

    Raises `UsageError` for a path that is not there, `DamagedError` for a file that is not weights and for numbers that
    are not finite, and `DataError` for programs (TorchScript) and for tensors that are not dense tensors of real
    numbers.
    """
    weights = _read_any(path)
    check_tensors(weights.tensors, path)
    return weights


def _read_any(path: Path) -> Weights:
    """Read weights without checking their tensors."""
    if path.is_dir():
        directory = RunDirectory.open(path)
        best = directory.restore("best")
        if best is None:
            raise UsageError(f"{path} has no weights yet", expected="a run that finished at least one epoch")
        return Weights(
            best.model,
            {"run": str(path), "task": directory.read_task(), "sha256": best.info["files"]["model.safetensors"]},
        )
    refuse_special_file(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}", expected="a run, a .safetensors, .pth, .pt or .th file")
    data = read_regular_file(path)
    known = {"sha256": digest(data)}
    if path.suffix == ".safetensors":
        return _strip_wrappers(read_tensors(data, path), known)
    return _extract_weights(_load_torch_file(path), path, known)


def _load_torch_file(path: Path) -> Any:
    """Read a torch file with ``weights_only``: anything but tensors and plain data in plain containers is refused."""
    _check_archive(path)
    try:
        with open_regular_file(path) as file, warnings.catch_warnings(), torch.serialization.safe_globals(SAFE_TYPES):
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedError(
            f"{path} is not a plain weights file: it holds code or foreign objects, and was not opened",
            expected="tensors by name (a state_dict saved by torch), or safetensors",
            do="convert it to safetensors on a machine you trust it on",
        ) from error
    except Exception as error:  # of any kind: foreign bytes can fail anywhere in torch's reader
        message = " ".join(str(error).splitlines()[:1])
        reason = type(error).__name__ + ("" if UNSAFE_HINT in message else f": {message}")
        raise make_damaged_error(path, f"torch cannot read it ({reason})") from error


def _check_archive(path: Path) -> None:
    """Raise an error for an archive that holds a program or whose entries are compressed: torch stores tensors
    uncompressed."""
    with open_regular_file(path) as file:
        try:
            if not zipfile.is_zipfile(file):
                return
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                names = {name.rpartition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError, struct.error):
            return  # torch says what is wrong with it
    kind = next((kind for mark, kind in PROGRAM_MARKS.items() if mark in names), "")
    if kind:
        load = "torch.jit.load" if kind == "TorchScript" else "torch.export.load"
        raise DataError(
            f"{path} is a {kind} file: it holds a program, and was not opened",
            expected="weights: a state_dict saved by torch, or safetensors",
            do=f"if you trust it, save its weights alone: torch.save({load}('{path.name}')"
            f".{'state_dict()' if kind == 'TorchScript' else 'state_dict'}, 'weights.pt')",
        )
    if size > 2 * path.stat().st_size + 2**20:
        raise DamagedError(
            f"{path} would unpack to {size:,} bytes, and was not opened",
            expected="tensors stored as they are, as torch.save writes them",
            received=f"a compressed archive of {path.stat().st_size:,} bytes",
        )


def _extract_weights(content: Any, path: Path, known: dict[str, Any]) -> Weights:
    """Return the tensors in the content of a torch file, wherever they are in it."""
    keys = _find_tensors(content)
    if keys is None:
        names = (
            ", ".join(map(str, list(content)[:MAX_OTHERS])) if isinstance(content, Mapping) else type(content).__name__
        )
        raise DamagedError(f"{path} holds no tensors by name", expected="a state_dict", received=names or "nothing")
    others: list[str] = []
    for key in keys:
        others += [str(name) for name in content if name != key]
        content = content[key]
    others += [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    facts: dict[str, Any] = {"place": ".".join(keys)} if keys else {}
    facts |= {"beside": others} if others else {}
    return _strip_wrappers(
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)}, known | facts
    )


def _find_tensors(content: Any, depth: int = 3) -> list[str] | None:
    """Return the keys that lead to the weights: the known ones first, else the only one that leads to tensors; None if
    there are none.

    Tensors beside other contents (``{**weights, "epoch": 3}``) are the weights if no such key leads to as many.
    """
    if not isinstance(content, Mapping) or not depth:
        return None
    tensor_count = _count_tensors(content)
    if content and tensor_count == len(content):
        return []
    known = [key for key in KNOWN_KEYS if key in content]
    others = [key for key in content if isinstance(key, str) and key not in known]
    for keys, only in ((known, False), (others, True)):
        paths = [[key, *path] for key in keys if (path := _find_tensors(content[key], depth - 1)) is not None]
        if (
            only
            and tensor_count
            and tensor_count > max((_count_tensors(_follow_keys(content, path)) for path in paths), default=0)
        ):
            return []
        if len(paths) == 1 or (paths and not only):
            return paths[0]
    return None


def _count_tensors(content: Mapping[Any, Any]) -> int:
    """Return the number of named tensors in a mapping."""
    return sum(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _follow_keys(content: Any, keys: list[str]) -> Any:
    """Return the nested value under these keys."""
    for key in keys:
        content = content[key]
    return content


def _strip_wrappers(tensors: dict[str, Tensor], assets: dict[str, Any]) -> Weights:
    """Strip the prefixes that wrappers around a network put before every name."""
    prefixes = ""
    while prefix := next((p for p in WRAPPER_PREFIXES if _all_have_prefix(tensors, p)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in COUNTERS}
        prefixes += prefix
    return Weights(tensors, assets | ({"prefix": prefixes} if prefixes else {}))


def _all_have_prefix(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether every name begins with a prefix, except a wrapper's own counters."""
    names = [name for name in tensors if name not in COUNTERS]
    return bool(names) and all(name.startswith(prefix) for name in names)

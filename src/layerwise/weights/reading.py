"""Weights from files: safetensors, and torch's own files read without running anything in them (F29).

What people save is rarely the bare table of tensors: it lies under ``state_dict`` or ``model``, beside the optimizer's
state and the best accuracy, and its names begin with ``module.`` (DataParallel) or ``_orig_mod.`` (torch.compile).
`read` finds the tensors, takes such prefixes off, and tells what it did.
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
from layerwise.runtime.checksums import damaged, digest, read_tensors
from layerwise.runtime.input_files import open_regular_file, read_regular_file, refuse_special_file
from layerwise.weights.checking import check_tensors

PLACES = (  # where tensors lie in a checkpoint, averaged ones before raw ones: those are what its author evaluated
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
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and its kin (AveragedModel too), of torch.compile
COUNTERS = ("n_averaged",)  # of AveragedModel, beside its tensors
ADVICE = "weights_only"  # torch advises to set it to False, and so to run what a file holds: that is not repeated
PROGRAMS = {
    "constants.pkl": "TorchScript",
    "archive_format": "torch.export",
    "serialized_exported_program.json": "torch.export",
}
BESIDE = 12  # names of other things in a file that are told
# Plain data that checkpoints hold beside tensors: the command's options, and NumPy's numbers under their old and new
# names.
PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")),
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


class Weights(NamedTuple):
    """Tensors by name, and what came along with them: a run's ``task``, what `read` found and did
    (``sha256``, ``place``, ``prefix``, ``beside``)."""

    tensors: dict[str, Tensor]
    assets: dict[str, Any]


def read(path: Path) -> Weights:
    """Read weights from a run directory, a ``.safetensors`` file or a torch file. Nothing in a file is ever executed
    (F29).

    Raises `UsageError` for a path that is not there, `DamagedError` for a file that is not weights and for numbers that
    are not finite, and `DataError` for programs (TorchScript) and for tensors that are not dense tensors of real
    numbers.
    """
    found = _read(path)
    check_tensors(found.tensors, path)
    return found


def _read(path: Path) -> Weights:
    """Read weights, whatever their numbers are."""
    if path.is_dir():
        directory = RunDirectory.open(path)
        best = directory.restore("best")
        if best is None:
            raise UsageError(f"{path} has no weights yet", expected="a run that finished at least one epoch")
        return Weights(
            best.model, {"run": str(path), "task": directory.task(), "sha256": best.info["files"]["model.safetensors"]}
        )
    refuse_special_file(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}", expected="a run, a .safetensors, .pth, .pt or .th file")
    data = read_regular_file(path)
    known = {"sha256": digest(data)}
    if path.suffix == ".safetensors":
        return _unwrapped(read_tensors(data, path), known)
    return _found(_torch_file(path), path, known)


def _torch_file(path: Path) -> Any:
    """Read a torch file with ``weights_only``: anything but tensors and plain data in plain containers is refused."""
    _check_archive(path)
    try:
        with open_regular_file(path) as file, warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN):
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedError(
            f"{path} is not a plain weights file: it holds code or foreign objects, and was not opened",
            expected="tensors by name (a state_dict saved by torch), or safetensors",
            do="convert it to safetensors on a machine you trust it on",
        ) from error
    except Exception as error:  # of any kind: torch's reader stumbles over foreign bytes wherever they lead it
        said = " ".join(str(error).splitlines()[:1])
        why = type(error).__name__ + ("" if ADVICE in said else f": {said}")
        raise damaged(path, f"torch cannot read it ({why})") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that holds a program, and one whose entries are compressed (F02): torch stores its tensors as
    they are."""
    with open_regular_file(path) as file:
        try:
            if not zipfile.is_zipfile(file):
                return
            with zipfile.ZipFile(file) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                names = {name.rpartition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError, struct.error):
            return  # torch says what is wrong with it
    kind = next((kind for mark, kind in PROGRAMS.items() if mark in names), "")
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


def _found(content: Any, path: Path, known: dict[str, Any]) -> Weights:
    """Return the tensors in what a torch file held, wherever they lie in it."""
    place = _place(content)
    if place is None:
        names = ", ".join(map(str, list(content)[:BESIDE])) if isinstance(content, Mapping) else type(content).__name__
        raise DamagedError(f"{path} holds no tensors by name", expected="a state_dict", received=names or "nothing")
    beside: list[str] = []
    for key in place:
        beside += [str(name) for name in content if name != key]
        content = content[key]
    beside += [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    told: dict[str, Any] = {"place": ".".join(place)} if place else {}
    told |= {"beside": beside} if beside else {}
    return _unwrapped({str(name): value for name, value in content.items() if isinstance(value, Tensor)}, known | told)


def _place(content: Any, depth: int = 3) -> list[str] | None:
    """Return the keys that lead to the weights: the known ones first, else the only one that leads to tensors; None for
    none.

    Tensors that lie beside other things (``{**weights, "epoch": 3}``) are the weights if no such key leads to as many.
    """
    if not isinstance(content, Mapping) or not depth:
        return None
    here = _tensors(content)
    if content and here == len(content):
        return []
    known = [key for key in PLACES if key in content]
    others = [key for key in content if isinstance(key, str) and key not in known]
    for keys, only in ((known, False), (others, True)):
        found = [[key, *place] for key in keys if (place := _place(content[key], depth - 1)) is not None]
        if only and here and here > max((_tensors(_at(content, place)) for place in found), default=0):
            return []
        if len(found) == 1 or (found and not only):
            return found[0]
    return None


def _tensors(content: Mapping[Any, Any]) -> int:
    """Return how many tensors a mapping holds by name."""
    return sum(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def _at(content: Any, place: list[str]) -> Any:
    """Return what lies where these keys lead."""
    for key in place:
        content = content[key]
    return content


def _unwrapped(tensors: dict[str, Tensor], assets: dict[str, Any]) -> Weights:
    """Take off the prefixes that wrappers around a network put before every name."""
    taken = ""
    while prefix := next((p for p in WRAPPERS if _all_begin(tensors, p)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in COUNTERS}
        taken += prefix
    return Weights(tensors, assets | ({"prefix": taken} if taken else {}))


def _all_begin(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether every name begins with a prefix, but for a wrapper's own counters."""
    names = [name for name in tensors if name not in COUNTERS]
    return bool(names) and all(name.startswith(prefix) for name in names)

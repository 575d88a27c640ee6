"""Weights from files: safetensors, and foreign ``.pt`` files read without running anything in them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layerwise.errors import DamagedError, UsageError
from layerwise.run import RunDirectory, damaged, read_tensors


class Weights(NamedTuple):
    """Tensors by name, and what came along with them (a run's task, say)."""

    tensors: dict[str, Tensor]
    assets: dict[str, Any]


def read(path: Path) -> Weights:
    """Read weights from a run directory, a ``.safetensors`` file or a torch file. Nothing in a file is ever executed (F29).

    Raises `UsageError` for a path that is not there and `DamagedError` for a file that is not weights.
    """
    if path.is_dir():
        best = RunDirectory.open(path).restore("best")
        if best is None:
            raise UsageError(f"{path} has no weights yet", expected="a run that finished at least one epoch")
        return Weights(best.model, {"run": str(path)})
    if not path.is_file():
        raise UsageError(f"there is no file {path}", expected="a run, a .safetensors or a .pt file")
    if path.suffix == ".safetensors":
        return Weights(read_tensors(path.read_bytes(), path), {})
    return Weights(_torch_file(path), {})


def _torch_file(path: Path) -> dict[str, Tensor]:
    """Read a torch file with ``weights_only``: anything but plain tensors in plain containers is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read is an error below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedError(
            f"{path} is not a plain weights file: it holds code or foreign objects, and was not opened",
            expected="tensors by name (a state_dict saved by torch), or safetensors",
            do="convert it to safetensors on a machine you trust it on",
        ) from error
    except Exception as error:  # of any kind: torch's reader stumbles over foreign bytes wherever they lead it
        raise damaged(path, f"torch cannot read it ({type(error).__name__}: {' '.join(str(error).splitlines()[:1])})") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DamagedError(f"{path} holds no tensors by name", expected="a state_dict")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def load(model: nn.Module, path: Path) -> None:
    """Put a file's weights into a model. Raises `UsageError` listing every differing key; nothing is half-loaded (F31)."""
    tensors = read(path).tensors
    check(model, tensors, str(path))
    model.load_state_dict(tensors)


def check(model: nn.Module, tensors: dict[str, Tensor], origin: str) -> None:
    """Raise `UsageError` listing every key that is missing, left over or of another shape."""
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    wrong = [f"{n}: missing (expected {wanted[n]})" for n in wanted if n not in given]
    wrong += [f"{n}: not in the model (received {given[n]})" for n in given if n not in wanted]
    wrong += [f"{n}: expected {wanted[n]}, received {given[n]}" for n in wanted if n in given and wanted[n] != given[n]]
    if wrong:
        raise UsageError(
            f"{origin} does not fit this network: {len(wrong)} key(s) differ\n    " + "\n    ".join(wrong),
            do="build the network with the arguments the weights were trained with",
        )

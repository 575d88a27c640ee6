"""The network of a saved run, built again from run.json: what the file says is compared with the checkpoint before
memory is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from layerwise import recipe, registry
from layerwise.errors import DamagedError, LayerwiseError, UsageError
from layerwise.registry import ModelSpec
from layerwise.runtime.checksums import Json, damaged, find_nonfinite
from layerwise.weights.fitting import check

SPARE_MODULES = 256  # modules, and numbers, that a network may have beyond what its checkpoint explains
SPARE_NUMBERS = 1 << 16
WEIGHTS = Path("checkpoints", "best", "model.safetensors")
DECIDED = ("features", "channels", "size", "words", "embedded", "classes", "outputs")  # arguments that a task decides


class SkipDraws(TorchFunctionMode):
    """Leaves out normal draws and what scales them: without memory they change nothing, and torch would load its
    compiler for them, for two seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {
            name: value for name, value in (kwargs or {}).items() if name != "generator" or func is not torch.randn
        }
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        if func in (torch.Tensor.normal_, nn.init.normal_, nn.functional.normalize):
            return args[0] if args else kwargs["tensor"]
        if func in (torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.mul_) and isinstance(args[1], float):
            return args[0]
        return func(*args, **kwargs)


class TooLargeError(Exception):
    """A network that is being built has more parts than its checkpoint has tensors."""


def build_saved_model(info: Json, tensors: Mapping[str, Tensor], run: Path) -> tuple[ModelSpec, nn.Module, Json]:
    """Build the network that run.json describes, with fresh weights; return its model, it, and its builder's arguments.

    Args:
        info: what run.json says.
        tensors: those of the checkpoint.
        run: the run's folder.

    Raises `DamagedError` naming run.json and the field for arguments that the builder does not take or that describe
    another network than the checkpoint holds, before memory is taken for it, and what `check_finite` does; `UsageError`
    for a name that is not in the catalog.
    """
    path = run / "run.json"
    spec = registry.find(str(info["model"]["name"]), where=str(path))
    arguments = check_arguments(spec, info["model"]["arguments"], tensors, path)
    check_built(spec, arguments, tensors, path=path, weights=run / WEIGHTS)
    check_finite(tensors, run / WEIGHTS)
    model: nn.Module = registry.builder(spec)(**arguments)
    return spec, model, arguments


def check_arguments(spec: ModelSpec, given: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Json:
    """Return a builder's arguments, every one spelled out. Raises `DamagedError` naming the argument for others than
    its signature declares, and for numbers and lists beyond all that the checkpoint holds."""
    most = SPARE_NUMBERS + sum(tensor.numel() for tensor in tensors.values())
    for name, value in given.items():
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > SPARE_MODULES + len(tensors):
            raise damaged(
                path,
                f"model.arguments.{name} is a list of {len(numbers):,}, and the checkpoint has "
                f"{len(tensors):,} tensors",
            )
        for number in numbers:
            if isinstance(number, int) and abs(number) > most:
                raise damaged(path, f"model.arguments.{name} is {number:.3g}, which the checkpoint does not explain")
    try:
        return recipe.arguments(registry.builder(spec), given, {}, "model.arguments")
    except UsageError as error:
        raise DamagedError(
            f"{path} is damaged: {error.what}", expected=error.expected, received=error.received, do=_advice(path)
        ) from error


def check_built(
    spec: ModelSpec, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], *, path: Path, weights: Path
) -> None:
    """Raise `DamagedError` unless arguments (which the file ``path`` gives) build the network whose tensors ``weights``
    holds.

    It is built without memory for its numbers, and building ends as soon as it has more parts than the file has
    tensors.
    """
    try:
        with torch.device("meta"), SkipDraws(), bound_parts(len(tensors)):
            model: nn.Module = registry.builder(spec)(**arguments)
        refuse_complex(tensors, weights)
        check(model, tensors, str(weights))
        _refuse_hidden(model, tensors)
    except TooLargeError as error:
        raise damaged(
            path, f"the arguments of its model ask for more tensors than the {len(tensors):,} of {weights}"
        ) from error
    except LayerwiseError as error:
        raise DamagedError(
            f"{path} is damaged: the arguments of its model do not describe the weights in {weights}\n  {error.what}",
            do=_advice(path),
        ) from error
    except Exception as error:  # whatever a builder, or torch inside it, makes of numbers that it was never meant for
        reason = " ".join(str(error).split())[:200]
        raise damaged(
            path, f"the arguments of its model build no network ({type(error).__name__}: {reason})"
        ) from error


def refuse_complex(tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Raise `DamagedError` for complex numbers: torch would drop their imaginary parts."""
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise damaged(weights, f"the tensor '{name}' holds {tensor.dtype}, and no network of the catalog does")


def check_finite(tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Raise `DamagedError` naming the tensor if a number is NaN or infinite: every answer would be."""
    if name := find_nonfinite(tensors):
        raise DamagedError(
            f"{weights} is damaged: the tensor '{name}' holds numbers that are not finite",
            expected="finite weights",
            do="train the network again, or use another checkpoint",
        )


def check_types(model: nn.Module, tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Raise `DamagedError` naming the tensor if a checkpoint's numbers are not of the types that its run computed
    in."""
    for name, wanted in model.state_dict().items():
        if name in tensors and tensors[name].dtype != wanted.dtype:
            raise damaged(
                weights, f"the tensor '{name}' holds {tensors[name].dtype}, and the run computed in {wanted.dtype}"
            )


def check_task_fits(decided: Mapping[str, Any], arguments: Mapping[str, Any], path: Path) -> None:
    """Raise `DamagedError` naming task.json (``path``) if what its task decides of the network is not what run.json
    built it with."""
    for name in DECIDED:
        if name in decided and name in arguments and _plain(decided[name]) != _plain(arguments[name]):
            raise damaged(
                path,
                f"it decides {name} = {_plain(decided[name])}, and run.json has model.arguments.{name} = "
                f"{arguments[name]}",
            )


@contextmanager
def bound_parts(tensors: int) -> Iterator[None]:
    """Raise `TooLargeError` inside as soon as more parameters and buffers are registered than a checkpoint of so many
    tensors explains."""
    counts = {"tensors": 0, "modules": 0}
    modules = SPARE_MODULES + 64 * tensors

    def count_tensor(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        counts["tensors"] += tensor is not None
        if counts["tensors"] > SPARE_MODULES + 2 * tensors:
            raise TooLargeError

    def count_module(_module: nn.Module, _name: str, part: nn.Module | None) -> None:
        counts["modules"] += part is not None
        if counts["modules"] > modules:
            raise TooLargeError

    with ExitStack() as stack:
        stack.callback(hooks.register_module_parameter_registration_hook(count_tensor).remove)
        stack.callback(hooks.register_module_buffer_registration_hook(count_tensor).remove)
        stack.callback(hooks.register_module_module_registration_hook(count_module).remove)
        yield


def _refuse_hidden(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise `UsageError` for a network whose tensors that are not saved would take more memory than its checkpoint
    explains."""
    saved = model.state_dict()
    hidden = sum(t.numel() for name, t in (*model.named_parameters(), *model.named_buffers()) if name not in saved)
    most = 256 * SPARE_NUMBERS + sum(tensor.numel() for tensor in tensors.values())
    if hidden > most:
        raise UsageError(
            "buffers that no checkpoint holds are too large", expected=f"{most:,} numbers", received=f"{hidden:,}"
        )


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: lists for tuples."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _advice(path: Path) -> str:
    """Return what to do about a damaged run."""
    return f"layerwise doctor {path.parent} checks every file; restore the file from a copy; do not edit it"

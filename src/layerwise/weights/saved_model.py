"""Building the network of a saved run from run.json, which is compared with the checkpoint before memory is
allocated."""

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
from layerwise.runtime.checksums import Json, find_nonfinite, make_damaged_error
from layerwise.weights.matching import check_match

SPARE_MODULES = 256  # modules, and numbers, that a network may have beyond those in its checkpoint
SPARE_NUMBERS = 1 << 16
WEIGHTS = Path("checkpoints", "best", "model.safetensors")
TASK_ARGUMENTS = (
    "features",
    "channels",
    "size",
    "words",
    "embedded",
    "classes",
    "outputs",
)  # model arguments that the task determines


class SkipDraws(TorchFunctionMode):
    """Skips normal draws and their scaling: on the meta device they change nothing, but torch would load its compiler
    for them, for two seconds."""

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
    """A network under construction has more parts than its checkpoint explains."""


def build_saved_model(info: Json, tensors: Mapping[str, Tensor], run: Path) -> tuple[ModelSpec, nn.Module, Json]:
    """Build the network that run.json describes, with fresh weights; return its spec, the network and its arguments.

    Args:
        info: the content of run.json.
        tensors: those of the checkpoint.
        run: the run's folder.

    Raises `DamagedError` naming run.json and the field for arguments that the builder does not take or that describe
    another network than the checkpoint holds, before memory is taken for it, and what `check_finite` does; `UsageError`
    for a name that is not in the registry.
    """
    path = run / "run.json"
    spec = registry.find(str(info["model"]["name"]), where=str(path))
    arguments = check_arguments(spec, info["model"]["arguments"], tensors, path)
    check_architecture(spec, arguments, tensors, path=path, weights=run / WEIGHTS)
    check_finite(tensors, run / WEIGHTS)
    model: nn.Module = registry.get_builder(spec)(**arguments)
    return spec, model, arguments


def check_arguments(spec: ModelSpec, given: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Json:
    """Return a builder's complete arguments. Raises `DamagedError` naming the argument for one that its signature does
    not declare, and for numbers and lists beyond what the checkpoint holds."""
    limit = SPARE_NUMBERS + sum(tensor.numel() for tensor in tensors.values())
    for name, value in given.items():
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > SPARE_MODULES + len(tensors):
            raise make_damaged_error(
                path,
                f"model.arguments.{name} is a list of {len(numbers):,}, and the checkpoint has "
                f"{len(tensors):,} tensors",
            )
        for number in numbers:
            if isinstance(number, int) and abs(number) > limit:
                raise make_damaged_error(
                    path, f"model.arguments.{name} is {number:.3g}, which the checkpoint does not explain"
                )
    try:
        return recipe.resolve_arguments(registry.get_builder(spec), given, {}, "model.arguments")
    except UsageError as error:
        raise DamagedError(
            f"{path} is damaged: {error.what}",
            expected=error.expected,
            received=error.received,
            do=_repair_advice(path),
        ) from error


def check_architecture(
    spec: ModelSpec, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], *, path: Path, weights: Path
) -> None:
    """Raise `DamagedError` unless the arguments (from the file ``path``) build the network whose tensors the file
    ``weights`` holds.

    The network is built on the meta device, and building stops as soon as it has more parts than the file explains.
    """
    try:
        with torch.device("meta"), SkipDraws(), limit_parameter_count(len(tensors)):
            model: nn.Module = registry.get_builder(spec)(**arguments)
        refuse_complex(tensors, weights)
        check_match(model, tensors, str(weights))
        _refuse_hidden(model, tensors)
    except TooLargeError as error:
        raise make_damaged_error(
            path, f"the arguments of its model ask for more tensors than the {len(tensors):,} of {weights}"
        ) from error
    except LayerwiseError as error:
        raise DamagedError(
            f"{path} is damaged: the arguments of its model do not describe the weights in {weights}\n  {error.what}",
            do=_repair_advice(path),
        ) from error
    except Exception as error:  # a builder, or torch inside it, may raise anything for absurd numbers
        reason = " ".join(str(error).split())[:200]
        raise make_damaged_error(
            path, f"the arguments of its model build no network ({type(error).__name__}: {reason})"
        ) from error


def refuse_complex(tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Raise `DamagedError` for complex numbers: torch would drop their imaginary parts."""
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise make_damaged_error(weights, f"the tensor '{name}' holds {tensor.dtype}, and no registered model does")


def check_finite(tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Raise `DamagedError` naming the tensor if a number is NaN or infinite: so would be every prediction."""
    if name := find_nonfinite(tensors):
        raise DamagedError(
            f"{weights} is damaged: the tensor '{name}' holds numbers that are not finite",
            expected="finite weights",
            do="train the network again, or use another checkpoint",
        )


def check_types(model: nn.Module, tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Raise `DamagedError` naming the tensor if a checkpoint's types are not those in which its run computed."""
    for name, expected in model.state_dict().items():
        if name in tensors and tensors[name].dtype != expected.dtype:
            raise make_damaged_error(
                weights, f"the tensor '{name}' holds {tensors[name].dtype}, and the run computed in {expected.dtype}"
            )


def check_task_fits(task_arguments: Mapping[str, Any], arguments: Mapping[str, Any], path: Path) -> None:
    """Raise `DamagedError` naming task.json (``path``) if its task determines other arguments of the network than those
    in run.json."""
    for name in TASK_ARGUMENTS:
        if (
            name in task_arguments
            and name in arguments
            and _to_plain(task_arguments[name]) != _to_plain(arguments[name])
        ):
            raise make_damaged_error(
                path,
                f"it decides {name} = {_to_plain(task_arguments[name])}, and run.json has model.arguments.{name} = "
                f"{arguments[name]}",
            )


@contextmanager
def limit_parameter_count(tensors: int) -> Iterator[None]:
    """Inside the context raise `TooLargeError` as soon as more parameters, buffers or modules are registered than a
    checkpoint of so many tensors explains."""
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
    """Raise `UsageError` for a network whose unsaved tensors would need more memory than its checkpoint explains."""
    saved = model.state_dict()
    hidden = sum(t.numel() for name, t in (*model.named_parameters(), *model.named_buffers()) if name not in saved)
    limit = 256 * SPARE_NUMBERS + sum(tensor.numel() for tensor in tensors.values())
    if hidden > limit:
        raise UsageError(
            "buffers that no checkpoint holds are too large", expected=f"{limit:,} numbers", received=f"{hidden:,}"
        )


def _to_plain(value: Any) -> Any:
    """Return a value as JSON stores it: lists for tuples."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _repair_advice(path: Path) -> str:
    """Return the advice for a damaged run."""
    return f"layerwise doctor {path.parent} checks every file; restore the file from a copy; do not edit it"

"""The layers of a network that give maps, in the order of calls, and what they give for images.

``N`` images, ``C`` maps, ``H W`` places. A *stage* is a convolution, or a pooling, with what follows it at the same
size: batch norm, activation, the sum of a residual block. So a stage's name is that of the last of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.errors import UsageError, unknown

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
STARTS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Maps:
    """One call of a layer that gave maps: its name and type, which of its calls it was, the maps' (C, H, W); of a
    stage, the type that began it and whether that was a convolution."""

    name: str
    type: str
    number: int
    shape: tuple[int, int, int]
    began: str = ""
    convolution: bool = False


@torch.no_grad()
def calls(model: nn.Module, inputs: Tensor) -> list[tuple[Maps, nn.Module]]:
    """Return every call that gave maps (N, C, H, W), in the order in which they ended. The network itself is left
    out."""
    found: list[tuple[Maps, nn.Module]] = []
    used: dict[str, int] = {}

    def called(name: str, module: nn.Module, out: object) -> None:
        number = used[name] = used.get(name, -1) + 1
        if isinstance(out, Tensor) and out.ndim == 4:
            found.append(
                (Maps(name, type(module).__name__, number, (out.shape[1], out.shape[2], out.shape[3])), module)
            )

    handles = [
        module.register_forward_hook(lambda m, _i, out, name=name: called(name, m, out))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def stages(found: list[tuple[Maps, nn.Module]]) -> list[Maps]:
    """Return the stages among a network's calls whose maps have more than one place."""
    out: list[Maps] = []
    for maps, module in found:
        if isinstance(module, CONTAINERS):
            continue
        if isinstance(module, STARTS) or not out or out[-1].shape != maps.shape:
            out.append(Maps(maps.name, maps.type, maps.number, maps.shape, maps.type, isinstance(module, nn.Conv2d)))
        else:
            out[-1] = Maps(maps.name, maps.type, maps.number, maps.shape, out[-1].began, out[-1].convolution)
    return [stage for stage in out if stage.shape[1] * stage.shape[2] > 1]


def no_convolution(name: str, view: str) -> UsageError:
    """Make the error for a network without maps."""
    return UsageError(
        f"{name} has no convolution, so it makes no maps of an image",
        expected="a convolutional network",
        received=name,
        do=f"train one: layerwise train lenet5 --data SOURCE, then layerwise inspect RUN --what {view}",
    )


def named(found: list[tuple[Maps, nn.Module]], layer: str) -> Maps:
    """Return a layer's last call by name. Raises `UsageError` with the nearest."""
    listed = {maps.name: maps for maps, _ in found if maps.shape[1] * maps.shape[2] > 1}
    if layer not in listed:
        raise unknown("layer with maps", layer, listed)
    return listed[layer]


@contextmanager
def kept(model: nn.Module, wanted: list[Maps]) -> Iterator[dict[str, Tensor]]:
    """Keep what these calls give, (N, C, H, W) by layer, while inside. Later operations that work in place change a
    copy."""
    outputs: dict[str, Tensor] = {}
    used: dict[str, int] = {}
    numbers = {maps.name: maps.number for maps in wanted}

    def keep(name: str, out: Tensor) -> Tensor:
        used[name] = used.get(name, -1) + 1
        if used[name] == numbers[name]:
            outputs[name] = out
            return out.clone()
        return out

    modules: dict[str, Any] = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(lambda _m, _i, out, name=name: keep(name, out)) for name in numbers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

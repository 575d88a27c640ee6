"""Feature maps: which layers of a network output them, in the order of calls, and their values for images.

``N`` images, ``C`` maps of ``H`` × ``W`` positions. A *stage* is a convolution or a pooling with the layers of the
same output size that follow it: batch norm, activation, the sum of a residual block. A stage has the name of its last
layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.nn.tracing import ModuleCall, trace_modules

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
STAGE_STARTS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class FeatureLayer:
    """One call of a layer that output feature maps, or the last call of a stage.

    Attributes:
        name, type: the module's name and class.
        call_index: the index among the module's own calls, from 0.
        shape: (C, H, W) of the output.
        first_type: for a stage, the class of its first module.
        has_convolution: whether a stage begins with a convolution.
    """

    name: str
    type: str
    call_index: int
    shape: tuple[int, int, int]
    first_type: str = ""
    has_convolution: bool = False


@torch.no_grad()
def find_feature_layers(model: nn.Module, inputs: Tensor) -> list[tuple[FeatureLayer, nn.Module]]:
    """Return each call with a 4-D output (N, C, H, W) and its module, in the order of returns, without the network
    itself."""
    calls: list[tuple[FeatureLayer, nn.Module]] = []
    call_counts: dict[str, int] = {}

    def record_call(traced: ModuleCall) -> None:
        name, module, _, outputs = traced
        call_index = call_counts[name] = call_counts.get(name, -1) + 1
        if len(outputs) == 1 and outputs[0].ndim == 4:
            shape = (outputs[0].shape[1], outputs[0].shape[2], outputs[0].shape[3])
            calls.append((FeatureLayer(name, type(module).__name__, call_index, shape), module))

    with trace_modules(model, record_call, select=lambda module: module is not model):
        model(inputs)
    return calls


def group_stages(calls: list[tuple[FeatureLayer, nn.Module]]) -> list[FeatureLayer]:
    """Group a network's calls into stages, and return those with more than one position."""
    stages: list[FeatureLayer] = []
    for layer, module in calls:
        if isinstance(module, CONTAINERS):
            continue
        if isinstance(module, STAGE_STARTS) or not stages or stages[-1].shape != layer.shape:
            stages.append(replace(layer, first_type=layer.type, has_convolution=isinstance(module, nn.Conv2d)))
        else:
            first = stages[-1]
            stages[-1] = replace(layer, first_type=first.first_type, has_convolution=first.has_convolution)
    return [stage for stage in stages if stage.shape[1] * stage.shape[2] > 1]


def make_no_convolution_error(name: str, view: str) -> UsageError:
    """Return the error for a network without feature maps."""
    return UsageError(
        f"{name} has no convolution, so it makes no maps of an image",
        expected="a convolutional network",
        received=name,
        do=f"train one: layerwise train lenet5 --data SOURCE, then layerwise inspect RUN --view {view}",
    )


def find_layer(calls: list[tuple[FeatureLayer, nn.Module]], name: str) -> FeatureLayer:
    """Return the last call of the layer of this name. Raises `UsageError` for an unknown name, with the nearest."""
    layers = {layer.name: layer for layer, _ in calls if layer.shape[1] * layer.shape[2] > 1}
    if name not in layers:
        raise make_unknown_name_error("feature-map layer", name, layers)
    return layers[name]


@contextmanager
def capture_maps(model: nn.Module, layers: list[FeatureLayer]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs (N, C, H, W) of these calls, by layer, while the context is open.

    The network goes on with a copy, so that in-place operations do not change the collected maps.
    """
    outputs: dict[str, Tensor] = {}
    call_counts: dict[str, int] = {}
    indices = {layer.name: layer.call_index for layer in layers}

    def capture(name: str, out: Tensor) -> Tensor:
        call_counts[name] = call_counts.get(name, -1) + 1
        if call_counts[name] == indices[name]:
            outputs[name] = out
            return out.clone()
        return out

    modules: dict[str, Any] = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _m, _i, out, name=name: capture(name, out)) for name in indices
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

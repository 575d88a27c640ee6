"""Theoretical receptive fields (E16) of any network, and a linearized network to measure them.

The network runs once on the meta device, where torch computes shapes only. Each operation derives the field of its
output from the fields of its inputs, so residual sums, concatenations and functional calls need no special case.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerwise.errors import UsageError
from layerwise.functional.receptive_field import Field, Window, add_layer, merge_fields, span_units
from layerwise.nn.layers import ACTIVATIONS
from layerwise.nn.tracing import ModuleCall, trace_modules

Fields = tuple[Field, Field]  # down and across
aten = torch.ops.aten
POOLS = {aten.max_pool2d_with_indices, aten.avg_pool2d}
ADAPTIVE = {aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d}


@dataclass(frozen=True)
class LayerField:
    """A layer and the receptive field of its units, down and across; ``output`` is its output shape for one image."""

    name: str
    type: str
    output: tuple[int, ...]
    fields: Fields


class FieldTracer(TorchDispatchMode):
    """Computes the receptive field of each tensor that depends on the image.

    Keeps the tensors alive, so that no id is used twice.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.fields: dict[int, tuple[Tensor, Fields]] = {id(image): (image, (Field(), Field()))}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, so that torch does not load its compiler."""
        return False

    def get_fields(self, tensor: object) -> Fields | None:
        """Return a tensor's field, or None if it does not depend on the image."""
        entry = self.fields.get(id(tensor))
        return None if entry is None else entry[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and record the field of its outputs."""
        inputs = [
            t
            for a in args
            for t in (a if isinstance(a, (list, tuple)) else [a])
            if isinstance(t, Tensor) and self.get_fields(t)
        ]
        out = func(*args, **(kwargs or {}))
        if inputs:
            for tensor in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(tensor, Tensor):
                    self.fields[id(tensor)] = (tensor, self._propagate(func.overloadpacket, args, inputs, tensor))
        return out

    def _propagate(self, operation: Any, args: tuple[Any, ...], inputs: list[Tensor], out: Tensor) -> Fields:
        """Return the field of an operation's output."""
        before = self.get_fields(inputs[0])
        assert before is not None
        if operation is aten.convolution:
            if args[6]:
                raise UsageError(
                    "receptive fields are not followed through transposed convolutions",
                    expected="a convolutional classifier",
                )
            return _apply_window(before, args[1].shape[2:], stride=args[3], padding=args[4], dilation=args[5])
        if operation in POOLS:
            size = args[1]
            dilation = args[4] if operation is aten.max_pool2d_with_indices and len(args) > 4 else 1
            return _apply_window(
                before,
                size,
                stride=args[2] if len(args) > 2 and args[2] else size,
                padding=args[3] if len(args) > 3 else 0,
                dilation=dilation,
            )
        if operation in ADAPTIVE:
            sizes = [_get_adaptive_window(a, b) for a, b in zip(inputs[0].shape[2:], out.shape[2:], strict=True)]
            return _apply_window(before, [s.kernel for s in sizes], stride=[s.stride for s in sizes])
        if operation is aten.constant_pad_nd:
            left, _, top, _ = (*args[1], 0, 0)[:4]
            return _apply_window(before, 1, padding=(top, left))
        if operation is aten.slice and inputs[0].ndim == 4 and len(args) > 1 and args[1] in (2, 3):
            return _apply_slice(before, args[1] - 2, *args[2:])
        if out.ndim == 4 and all(t.ndim < 4 or t.shape[2:] == out.shape[2:] for t in inputs):
            return self._merge(inputs)
        return self._span(inputs)

    def _merge(self, inputs: list[Tensor]) -> Fields:
        """Return the field of maps that are added or concatenated."""
        known = [fields for fields in map(self.get_fields, inputs) if fields]
        down, across = known[0]
        for other in known[1:]:
            down, across = merge_fields(down, other[0]), merge_fields(across, other[1])
        return down, across

    def _span(self, inputs: list[Tensor]) -> Fields:
        """Return the field of a unit that depends on every position of its inputs."""
        ends: list[Field] = []
        for axis in (0, 1):
            parts = []
            for tensor in inputs:
                fields = self.get_fields(tensor)
                assert fields is not None
                parts.append(span_units(fields[axis], tensor.shape[2 + axis] if tensor.ndim == 4 else 1))
            ends.append(Field(min(p.first for p in parts), max(p.last for p in parts), 0))
        return ends[0], ends[1]


def _to_pair(value: Any) -> tuple[int, int]:
    """Return a number, or a list of one or two numbers, as (down, across)."""
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def _apply_window(before: Fields, size: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Fields:
    """Return the field of the output of a sliding window, along both axes."""
    layers = [Window(*w) for w in zip(*map(_to_pair, (size, stride, padding, dilation)), strict=True)]
    return add_layer(before[0], layers[0]), add_layer(before[1], layers[1])


def _apply_slice(before: Fields, axis: int, start: int | None = None, _end: int | None = None, step: int = 1) -> Fields:
    """Return the field of every ``step``-th position of an axis from ``start`` ≥ 0 on: a window of size 1."""
    fields = list(before)
    fields[axis] = add_layer(fields[axis], Window(1, step, -(start or 0)))
    return fields[0], fields[1]


def _get_adaptive_window(inputs: int, outputs: int) -> Window:
    """Return the window of adaptive pooling; if the windows differ in size, the largest."""
    if inputs % outputs == 0:
        return Window(inputs // outputs, inputs // outputs)
    return Window(math.ceil(inputs / outputs) + 1, inputs // outputs)


def compute_theoretical_fields(model: nn.Module, shape: tuple[int, ...]) -> list[LayerField]:
    """Return the receptive field (E16) of every layer without children, in the order of calls.

    Args:
        model: any network over images. The function works on a copy on the meta device.
        shape: the shape (C, H, W) of one image.

    Raises:
        UsageError: if the network has a transposed convolution.
    """
    model = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, *shape, device="meta")
    mode, rows = FieldTracer(image), list[LayerField]()

    def record_layer(traced: ModuleCall) -> None:
        for output in traced.outputs[:1]:
            if fields := mode.get_fields(output):
                rows.append(LayerField(traced.name, type(traced.module).__name__, tuple(output.shape), fields))

    with torch.no_grad(), mode, trace_modules(model, record_layer):
        model(image)
    return rows


# -- the measurement -----------------------------------------------------------------------------------------------


class MeanPool2d(nn.Module):
    """Average pooling with the windows of a max pooling, dilation included: every pixel of a window counts."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H′, W′)."""
        size, pool = _to_pair(self.pool.kernel_size), self.pool
        weights = torch.full((x.shape[1], 1, *size), 1 / math.prod(size), dtype=x.dtype)
        padding, stride, dilation = (_to_pair(v) for v in (pool.padding, pool.stride, pool.dilation))
        return F.conv2d(x, weights, None, stride, padding, dilation, groups=x.shape[1])


def linearize(model: nn.Module) -> nn.Module:
    """Return a float64 copy of the network in which no path from pixel to unit vanishes or cancels.

    There the pixels with a nonzero gradient are exactly the receptive field. Weights are positive and equal in each
    layer, biases are 0; activations, dropout and batch norm are the identity; max pooling becomes average pooling.
    """
    model = copy.deepcopy(model).double().eval()
    for parameter in model.parameters():
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        nn.init.constant_(parameter, 1 / fan if parameter.ndim > 1 else 0.0)
    plain = (*ACTIVATIONS.values(), nn.Dropout, nn.Dropout2d, nn.BatchNorm1d, nn.BatchNorm2d)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, plain):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, MeanPool2d(child))
    return model


@contextmanager
def capture_outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect each layer's output by name while the context is open."""
    outputs: dict[str, Tensor] = {}

    def record_output(traced: ModuleCall) -> None:
        if traced.outputs:
            outputs[traced.name] = traced.outputs[0]

    with trace_modules(model, record_output, select=lambda _: True):
        yield outputs


def find_gradient_support(
    output: Tensor, image: Tensor, unit: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (first, last) row and the (first, last) column of the image where a unit's gradient is not 0.

    Args:
        output: an output (1, C, H′, W′) or (1, D) of the linearized network.
        image: (1, C, H, W), the network's input.
        unit: (row, column) of the unit, with all its channels; () for the output of a dense layer.
    """
    total = (output[:, :, unit[0], unit[1]] if unit else output).sum()
    (gradient,) = torch.autograd.grad(total, image, retain_graph=True)
    rows, columns = (gradient[0] != 0).any(0).nonzero(as_tuple=True)
    return (int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))

"""Following receptive fields (E16) through every operation of a network, and the linearized network that measures them.

The network runs once on the meta device, where nothing is computed; each operation's output gets the field that its
inputs' fields give. So sums of branches, concatenations and functional calls are followed like modules.
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
from layerwise.functional.receptive_field import Field, Window, merged, spanned, through
from layerwise.nn.activations import ACTIVATIONS

Fields = tuple[Field, Field]  # down and across
aten = torch.ops.aten
POOLS = {aten.max_pool2d_with_indices, aten.avg_pool2d}
ADAPTIVE = {aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d}


@dataclass(frozen=True)
class Seen:
    """A layer and what its units see, down and across; ``output`` is the shape it gave for one image."""

    name: str
    type: str
    output: tuple[int, ...]
    fields: Fields


class Following(TorchDispatchMode):
    """Gives each tensor that depends on the image its field. Tensors are kept alive, so that their ids stay their
    own."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, Fields]] = {id(image): (image, (Field(), Field()))}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that nothing here is compiled, so that torch need not load its compiler."""
        return False

    def of(self, tensor: object) -> Fields | None:
        """Return a tensor's field, None where it does not depend on the image."""
        found = self.known.get(id(tensor))
        return None if found is None else found[1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note its outputs' field."""
        given = [
            t
            for a in args
            for t in (a if isinstance(a, (list, tuple)) else [a])
            if isinstance(t, Tensor) and self.of(t)
        ]
        out = func(*args, **(kwargs or {}))
        if given:
            for tensor in out if isinstance(out, (list, tuple)) else [out]:
                if isinstance(tensor, Tensor):
                    self.known[id(tensor)] = (tensor, self._behind(func.overloadpacket, args, given, tensor))
        return out

    def _behind(self, operation: Any, args: tuple[Any, ...], given: list[Tensor], out: Tensor) -> Fields:
        """Return the field behind an operation."""
        before = self.of(given[0])
        assert before is not None
        if operation is aten.convolution:
            if args[6]:
                raise UsageError(
                    "receptive fields are not followed through transposed convolutions",
                    expected="a convolutional classifier",
                )
            return _through(before, args[1].shape[2:], stride=args[3], padding=args[4], dilation=args[5])
        if operation in POOLS:
            size = args[1]
            dilation = args[4] if operation is aten.max_pool2d_with_indices and len(args) > 4 else 1
            return _through(
                before,
                size,
                stride=args[2] if len(args) > 2 and args[2] else size,
                padding=args[3] if len(args) > 3 else 0,
                dilation=dilation,
            )
        if operation in ADAPTIVE:
            sizes = [_adaptive(a, b) for a, b in zip(given[0].shape[2:], out.shape[2:], strict=True)]
            return _through(before, [s.kernel for s in sizes], stride=[s.stride for s in sizes])
        if operation is aten.constant_pad_nd:
            left, _, top, _ = (*args[1], 0, 0)[:4]
            return _through(before, 1, padding=(top, left))
        if operation is aten.slice and given[0].ndim == 4 and len(args) > 1 and args[1] in (2, 3):
            return _sliced(before, args[1] - 2, *args[2:])
        if out.ndim == 4 and all(t.ndim < 4 or t.shape[2:] == out.shape[2:] for t in given):
            return self._together(given)
        return self._whole(given)

    def _together(self, given: list[Tensor]) -> Fields:
        """Return the field of maps laid over or behind each other."""
        found = [fields for fields in map(self.of, given) if fields]
        down, across = found[0]
        for other in found[1:]:
            down, across = merged(down, other[0]), merged(across, other[1])
        return down, across

    def _whole(self, given: list[Tensor]) -> Fields:
        """Return the field of a unit that looks at all places of its inputs."""
        ends: list[Field] = []
        for axis in (0, 1):
            parts = []
            for tensor in given:
                fields = self.of(tensor)
                assert fields is not None
                parts.append(spanned(fields[axis], tensor.shape[2 + axis] if tensor.ndim == 4 else 1))
            ends.append(Field(min(p.first for p in parts), max(p.last for p in parts), 0))
        return ends[0], ends[1]


def _pair(value: Any) -> tuple[int, int]:
    """Return a number or a list of one or two as (down, across)."""
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def _through(before: Fields, size: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Fields:
    """Return the field behind a window, along both axes."""
    layers = [Window(*w) for w in zip(*map(_pair, (size, stride, padding, dilation)), strict=True)]
    return through(before[0], layers[0]), through(before[1], layers[1])


def _sliced(before: Fields, axis: int, start: int | None = None, _end: int | None = None, step: int = 1) -> Fields:
    """Return the field behind every ``step``-th place of an axis, from ``start`` ≥ 0 on: a window of one place."""
    found = list(before)
    found[axis] = through(found[axis], Window(1, step, -(start or 0)))
    return found[0], found[1]


def _adaptive(inputs: int, outputs: int) -> Window:
    """Return the window of an adaptive pooling. Where sides do not divide, windows differ: the widest stands for
    all."""
    if inputs % outputs == 0:
        return Window(inputs // outputs, inputs // outputs)
    return Window(math.ceil(inputs / outputs) + 1, inputs // outputs)


def follow(model: nn.Module, shape: tuple[int, ...]) -> list[Seen]:
    """Return every layer without children that was called, in the order of calls, with its units' field (E16).

    Args:
        model: any network over images; it is copied to the meta device and left as it was.
        shape: of one image, (C, H, W).

    Raises:
        UsageError: for a transposed convolution.
    """
    model = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, *shape, device="meta")
    mode, rows = Following(image), list[Seen]()

    def called(name: str, module: nn.Module, output: object) -> None:
        fields = mode.of(output)
        if isinstance(output, Tensor) and fields:
            rows.append(Seen(name, type(module).__name__, tuple(output.shape), fields))

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, _i, output, name=name: called(name, m, output))
    with torch.no_grad(), mode:
        model(image)
    return rows


# -- the measurement -----------------------------------------------------------------------------------------------


class MeanWindow(nn.Module):
    """The mean over the windows of a max-pooling, so that every pixel of a window counts."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H′, W′)."""
        size, pool = _pair(self.pool.kernel_size), self.pool
        weights = torch.full((x.shape[1], 1, *size), 1 / math.prod(size), dtype=x.dtype)
        pad, step, apart = (_pair(v) for v in (pool.padding, pool.stride, pool.dilation))
        return F.conv2d(x, weights, None, step, pad, apart, groups=x.shape[1])


def linearized(model: nn.Module) -> nn.Module:
    """Return a float64 copy in which no path from pixel to unit is lost or canceled: the gradient's support is the
    field.

    Weights are positive and equal in each layer, biases 0; activations, dropout and batch norm are the identity;
    max-pooling is a mean.
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
                setattr(module, name, MeanWindow(child))
    return model


@contextmanager
def outputs_kept(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep what each layer gives while inside, by name."""
    kept: dict[str, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda _m, _i, o, name=name: kept.update({name: o}))
        for name, m in model.named_modules()
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def squared(output: Tensor, image: Tensor, generator: torch.Generator, *, probes: int) -> Tensor:
    """Return (∂ unit / ∂ pixel)² of one unit of every image, summed over drawn sums of its maps, in the shape of
    ``image``.

    The sums have standard normal weights, so the expected square is the sum over maps of each one's square.

    Args:
        output: (N, C, 1, 1), the unit.
        image: (N, C, H, W), the network's input.
        generator: of the weights, on the CPU.
        probes: how many sums are drawn.
    """
    total = torch.zeros_like(image)
    for _ in range(probes):
        weights = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
        (gradient,) = torch.autograd.grad(output, image, weights, retain_graph=True)
        total += gradient.square()
    return total.detach()


def effective(gradient: Tensor) -> float:
    """Return √(1 + 12·variance) of a map (H, W) of weights ≥ 0, the variance being the mean of both axes': k for an
    even k×k."""
    spreads = []
    for axis in (0, 1):
        share = gradient.sum(axis) / gradient.sum()
        at = torch.arange(len(share), dtype=share.dtype)
        spreads.append(float((share * at.square()).sum() - (share * at).sum() ** 2))
    return math.sqrt(1 + 12 * sum(spreads) / 2)


def support(output: Tensor, image: Tensor, unit: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last row, and column, of the image in which the gradient of an output's unit is not 0.

    Args:
        output: (1, C, H′, W′) or (1, D), of the linearized network.
        image: (1, C, H, W), the network's input.
        unit: (row, column) of the unit, all its channels together; the empty tuple for the output of a dense layer.
    """
    chosen = (output[:, :, unit[0], unit[1]] if unit else output).sum()
    (gradient,) = torch.autograd.grad(chosen, image, retain_graph=True)
    rows, columns = (gradient[0] != 0).any(0).nonzero(as_tuple=True)
    return (int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))

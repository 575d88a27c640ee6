"""Convolutions with quicker ways than torch's own on a CPU, under the same names and weights: 3×3 by tiles (`kernels.winograd`), and the
gradient by 1×1 filters as one product."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layerwise.kernels import winograd

FILTERS = 20  # tiles whose work takes as long as bringing the filters, four times as many numbers as the weights, from memory
GAIN = 6  # places a tile must have at least: of 16 where the maps' sides are multiples of four
TRAINED = 2**22  # maps in · maps out · places, from which the transforms of weights and their gradient are worth their time
CHANGED = 2048  # places, from which filters that change from call to call are worth taking to their points
COUNTED = 96  # tiles, from which the gradient by the weights is the faster by them


@final
class TiledConv2d(nn.Conv2d):
    """E14 for 3×3 filters, stride 1 and padding 1, by F(4×4, 3×3): the same function as `nn.Conv2d`, to about twice its rounding.

    Where a call is not of that kind, too small to gain, in another type than float32 or not on a CPU, torch's own convolution answers.
    Made of an `nn.Conv2d` by `nn.convolution.by_tiles`.
    """

    points: Tensor | None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias))
        if not _worth(input, weight, learns=learns, changing=self.points is None):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        if learns:
            learned: Tensor = _ByTiles.apply(input, weight, bias)
            return learned
        return winograd.convolve_by(input, weight, bias) if self.points is None else winograd.convolve(input, self.points, bias)


def _worth(x: Tensor, weight: Tensor, *, learns: bool, changing: bool) -> bool:
    """Whether tiles can compute this, here and now, and are the faster way."""
    if not _plain_float32(x, weight):
        return False
    places = _places(x)
    if (learns and places * weight.shape[0] * weight.shape[1] < TRAINED) or (changing and places < CHANGED):
        return False
    return places >= GAIN * (winograd.tiles_of(x) + FILTERS)


def _places(x: Tensor) -> int:
    """Return N · H · W of maps (N, C, H, W)."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def _plain_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether maps (N, C, H, W) and weights are float32 on a CPU, here and now, and not in a program that is being translated."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.ndim == 4 and x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"


class _ByTiles(torch.autograd.Function):
    """The convolution, its gradient by the maps (the convolution with the filters turned), and by the filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map (N, C, H, W) to (N, K, H, W)."""
        ctx.save_for_backward(x, weight)
        return winograd.convolve_by(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients by maps, filters and bias that are asked for."""
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = winograd.map_gradient(gradient, weight)
        if ctx.needs_input_grad[1]:
            by_weight = winograd.weight_gradient(x, gradient) if winograd.tiles_of(x) >= COUNTED else _plainly(gradient, x, weight)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias


def _plainly(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient by the filters as torch computes it."""
    one, wanted = [1, 1], [False, True, False]
    found: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, [0], one, one, one, False, [0, 0], 1, wanted)[1]
    return found


@final
class PointwiseConv2d(nn.Conv2d):
    """E14 for 1×1 filters, padding 0: torch's own, but for the gradient by the filters, which is one product of matrices over all places,
    Σ gradient xᵀ. For many maps it takes two thirds to nine tenths of the time of torch's convolution kernel for it.

    Made of an `nn.Conv2d` by `nn.convolution.by_tiles`.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and weight.requires_grad and _plain_float32(input, weight)
        if not learns or _places(input) * weight.shape[0] * weight.shape[1] < TRAINED:
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        found: Tensor = _ByProduct.apply(input, weight, bias, self.stride)
        return found


class _ByProduct(torch.autograd.Function):
    """A 1×1 convolution whose gradient by the filters is a product of matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        """Map (N, C, H, W) to (N, K, ⌈H/s⌉, ⌈W/s⌉)."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.conv2d(x, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the gradients by maps, filters and bias that are asked for."""
        x, weight = ctx.saved_tensors
        down, right = ctx.stride
        needs_x, _, needs_bias, _ = ctx.needs_input_grad
        geometry = [down, right], [0, 0], [1, 1], False, [0, 0], 1
        by_x = torch.ops.aten.convolution_backward(gradient, x, weight, [0], *geometry, [True, False, False])[0] if needs_x else None
        seen = x[:, :, ::down, ::right].permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        by_weight = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0]).T @ seen
        return by_x, by_weight[:, :, None, None], gradient.sum((0, 2, 3)) if needs_bias else None, None

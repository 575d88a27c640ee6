"""3×3 convolutions that are computed by tiles (`kernels.winograd`) where that is the faster way, under the same names and weights."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layerwise.kernels import winograd

FILTERS = 20  # tiles whose work takes as long as bringing the filters, four times as many numbers as the weights, from memory
GAIN = 6  # places a tile must have at least: of 16 where the maps' sides are multiples of four
TRAINED = 2**22  # maps in · maps out · places, from which the transforms of weights and their gradient are worth their time
COUNTED = 96  # tiles, from which the gradient by the weights is the faster by them


@final
class TiledConv2d(nn.Conv2d):
    """E14 for 3×3 filters, stride 1 and padding 1, by F(4×4, 3×3): the same function as `nn.Conv2d`, to the rounding of a plain sum.

    Where a call is not of that kind, too small to gain, in another type than float32 or not on a CPU, torch's own convolution answers.
    Made of an `nn.Conv2d` by `nn.convolution.by_tiles`.
    """

    points: Tensor | None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias))
        if not _worth(input, weight, learns=learns):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        if learns:
            learned: Tensor = _ByTiles.apply(input, weight, bias)
            return learned
        return winograd.convolve(input, winograd.filters(weight) if self.points is None else self.points, bias)


def _worth(x: Tensor, weight: Tensor, *, learns: bool) -> bool:
    """Whether tiles can compute this, here and now, and are the faster way."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if x.ndim != 4 or not x.dtype == weight.dtype == torch.float32 or not x.device.type == weight.device.type == "cpu":
        return False
    places = x.shape[0] * x.shape[2] * x.shape[3]
    if learns and places * weight.shape[0] * weight.shape[1] < TRAINED:
        return False
    return places >= GAIN * (winograd.tiles_of(x) + FILTERS)


class _ByTiles(torch.autograd.Function):
    """The convolution, its gradient by the maps (the convolution with the filters turned), and by the filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map (N, C, H, W) to (N, K, H, W)."""
        ctx.save_for_backward(x, weight)
        return winograd.convolve(x, winograd.filters(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients by maps, filters and bias that are asked for."""
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = winograd.convolve(gradient, winograd.filters(winograd.turned(weight)), None)
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

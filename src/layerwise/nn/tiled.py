"""Convolutions with quicker ways than torch's own on a CPU, under the same names and weights: 3×3 by tiles
(`kernels.winograd`), and the gradient by 1×1 filters as one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layerwise.kernels.convolution import winograd
from layerwise.nn.kernel_choice import MIXED, PRODUCT, TORCH, WINOGRAD, Choices, Layer, Use


@final
class TiledConv2d(nn.Conv2d):
    """E14 for 3×3 filters, stride 1 and padding 1, by F(4×4, 3×3): the same function as `nn.Conv2d`, to about twice its
    rounding.

    Where a call is not of that kind, in another type than float32 or not on a CPU, or where torch's own convolution was
    measured to be the faster one here (`nn.kernel_choice`), that answers. Made of an `nn.Conv2d` by
    `nn.convolution.by_tiles`.
    """

    points: Tensor | None
    choices: Choices

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _plain_float32(input, weight):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias))
        kernel = self.choices.kernel(
            class_of(self, input.shape, "train" if learns else "infer" if self.points is not None else "evaluate")
        )
        return convolve(input, weight, bias, kernel=kernel, points=self.points)


def class_of(module: nn.Conv2d, shape: Sequence[int], use: Use) -> Layer | None:
    """Return the class of a call of a convolution with maps of this shape (N, C, H, W); None for one that is
    torch's."""
    count, maps, high, wide = shape
    size, stride = module.kernel_size[0], max(module.stride)
    return Layer.of((count, maps, high, wide), module.out_channels, size=size, stride=stride, use=use)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    kernel: str,
    points: Tensor | None = None,
    stride: int | Sequence[int] = 1,
) -> Tensor:
    """Return the convolution of maps (N, C, H, W) with filters (K, C, 3, 3), padding 1, or (K, C, 1, 1) by a kernel,
    with its gradients.

    ``points``: what `winograd.filters` made of the filters, if that is kept.
    """
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if kernel == PRODUCT:
        product: Tensor = _ByProduct.apply(
            x, weight, bias, (stride, stride) if isinstance(stride, int) else tuple(stride)
        )
        return product
    if kernel not in (WINOGRAD, MIXED):
        return torch.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)
    if learns:
        learned: Tensor = _ByTiles.apply(x, weight, bias, kernel == WINOGRAD)
        return learned
    return winograd.convolve_by(x, weight, bias) if points is None else winograd.convolve(x, points, bias)


def _plain_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether maps (N, C, H, W) and weights are float32 on a CPU, here and now, and not in a program that is being
    translated."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.ndim == 4 and x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"


class _ByTiles(torch.autograd.Function):
    """The convolution, its gradient by the maps (the convolution with the filters turned), and by the filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, whole: bool) -> Tensor:
        """Map (N, C, H, W) to (N, K, H, W); without ``whole`` torch computes the gradient by the filters."""
        ctx.save_for_backward(x, weight)
        ctx.whole = whole
        return winograd.convolve_by(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the gradients by maps, filters and bias that are asked for."""
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = winograd.map_gradient(gradient, weight)
        if ctx.needs_input_grad[1]:
            by_weight = winograd.weight_gradient(x, gradient) if ctx.whole else _plainly(gradient, x, weight)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias, None


def _plainly(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient by the filters as torch computes it."""
    one, wanted = [1, 1], [False, True, False]
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, [0], one, one, one, False, [0, 0], 1, wanted
    )[1]
    return found


@final
class PointwiseConv2d(nn.Conv2d):
    """E14 for 1×1 filters, padding 0: torch's own, but for the gradient by the filters, which is one product of
    matrices over all places, Σ gradient xᵀ. For many maps it takes two thirds to nine tenths of the time of torch's
    convolution kernel for it (AVX2).

    Where that was measured to be the faster way here. Made of an `nn.Conv2d` by `nn.convolution.by_tiles`.
    """

    choices: Choices

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = torch.is_grad_enabled() and weight.requires_grad and _plain_float32(input, weight)
        kernel = self.choices.kernel(class_of(self, input.shape, "train")) if learns else TORCH
        return convolve(input, weight, bias, kernel=kernel, stride=self.stride)


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
        by_x = (
            torch.ops.aten.convolution_backward(gradient, x, weight, [0], *geometry, [True, False, False])[0]
            if needs_x
            else None
        )
        seen = x[:, :, ::down, ::right].permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        by_weight = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0]).T @ seen
        return by_x, by_weight[:, :, None, None], gradient.sum((0, 2, 3)) if needs_bias else None, None

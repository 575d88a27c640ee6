"""Convolutions with faster kernels than torch's on a CPU, under the same names and weights: 3×3 by Winograd's algorithm
(`kernels.convolution.winograd`), and the gradient by 1×1 filters as one matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layerwise.kernels.convolution import winograd
from layerwise.nn.kernel_choice import MIXED, PRODUCT, TORCH, WINOGRAD, ConvSignature, KernelSelector, Use


@final
class WinogradConv2d(nn.Conv2d):
    """E14 for 3×3 filters, stride 1 and padding 1, by F(4×4, 3×3): the same function as `nn.Conv2d`, to about twice its
    rounding error.

    torch's convolution computes calls of another type than float32 or not on a CPU, and those for which it was measured
    to be faster (`nn.kernel_choice`). `nn.convolution.use_fast_kernels` turns an `nn.Conv2d` into this class.
    """

    points: Tensor | None
    selector: KernelSelector

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_plain_float32(input, weight):
            output: Tensor = super()._conv_forward(input, weight, bias)
            return output
        needs_gradient = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (input, weight, bias)
        )
        use: Use = "train" if needs_gradient else "infer" if self.points is not None else "evaluate"
        kernel = self.selector.select(make_signature(self, input.shape, use))
        return convolve(input, weight, bias, kernel=kernel, points=self.points)


def make_signature(module: nn.Conv2d, shape: Sequence[int], use: Use) -> ConvSignature | None:
    """Return the class of a call of a convolution with maps of this shape (N, C, H, W); None if torch computes it
    without a measurement."""
    count, maps, high, wide = shape
    size, stride = module.kernel_size[0], max(module.stride)
    return ConvSignature.for_call((count, maps, high, wide), module.out_channels, size=size, stride=stride, use=use)


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

    ``points``: the result of `winograd.transform_filters`, if it is kept.
    """
    needs_gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if kernel == PRODUCT:
        product: Tensor = _ProductGradientFunction.apply(
            x, weight, bias, (stride, stride) if isinstance(stride, int) else tuple(stride)
        )
        return product
    if kernel not in (WINOGRAD, MIXED):
        return torch.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)
    if needs_gradient:
        output: Tensor = _WinogradFunction.apply(x, weight, bias, kernel == WINOGRAD)
        return output
    return winograd.convolve(x, weight, bias) if points is None else winograd.convolve_transformed(x, points, bias)


def _is_plain_float32(x: Tensor, weight: Tensor) -> bool:
    """Whether maps (N, C, H, W) and weights are float32 on a CPU, outside autocast and compilation."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return x.ndim == 4 and x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"


class _WinogradFunction(torch.autograd.Function):
    """The convolution and its gradients with respect to the maps and the filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, winograd_gradient: bool) -> Tensor:
        """Map (N, C, H, W) to (N, K, H, W); without ``winograd_gradient`` torch computes the filters' gradient."""
        ctx.save_for_backward(x, weight)
        ctx.winograd_gradient = winograd_gradient
        return winograd.convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the needed gradients with respect to maps, filters and bias."""
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = winograd.input_gradient(gradient, weight)
        if ctx.needs_input_grad[1]:
            by_weight = (
                winograd.weight_gradient(x, gradient)
                if ctx.winograd_gradient
                else _torch_weight_gradient(gradient, x, weight)
            )
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias, None


def _torch_weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the filters' gradient as torch computes it."""
    one, mask = [1, 1], [False, True, False]
    weight_gradient: Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, [0], one, one, one, False, [0, 0], 1, mask
    )[1]
    return weight_gradient


@final
class PointwiseConv2d(nn.Conv2d):
    """E14 for 1×1 filters, padding 0: torch's convolution, except for the filters' gradient, which is one matrix
    product over all pixels, Σ gradient xᵀ, where that was measured to be faster. For many maps it takes two thirds to
    nine tenths of the time of torch's kernel (AVX2).

    `nn.convolution.use_fast_kernels` turns an `nn.Conv2d` into this class.
    """

    selector: KernelSelector

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and weight.requires_grad and _is_plain_float32(input, weight)
        kernel = self.selector.select(make_signature(self, input.shape, "train")) if needs_gradient else TORCH
        return convolve(input, weight, bias, kernel=kernel, stride=self.stride)


class _ProductGradientFunction(torch.autograd.Function):
    """A 1×1 convolution whose filter gradient is a matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int]) -> Tensor:
        """Map (N, C, H, W) to (N, K, ⌈H/s⌉, ⌈W/s⌉)."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.conv2d(x, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the needed gradients with respect to maps, filters and bias."""
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

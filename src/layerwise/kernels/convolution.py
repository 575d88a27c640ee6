"""Large convolutions whose gradient by the weights is taken in the other layout of memory, where oneDNN is faster so.

With channels last (`runtime.flags.layout_of`), oneDNN's forward pass and gradient by the maps are the faster ones on a CPU; its gradient
by the weights is as fast for small layers, and 1.5 to 3.6 times slower for those of a VGG on 224×224 (docs/benchmarks.md). The numbers
are the same but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

SIDE = 112  # pictures with a shorter side have no such layers, and are spared the detour
LARGE = 10**8  # channels in · channels out · places, from which the other layout wins


class _Apart(torch.autograd.Function):
    """A two-dimensional convolution (N, C, H, W) → (N, O, H′, W′) whose weights' gradient is computed channel after channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        """Convolve as torch does."""
        ctx.save_for_backward(x, weight)
        ctx.geometry = (list(stride), list(padding), list(dilation), False, [0, 0], groups)
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x, the weights, which are trained or would not be here, and the bias."""
        x, weight = ctx.saved_tensors
        needs_x, _, needs_bias, *_ = ctx.needs_input_grad
        by_x, outputs = None, [weight.shape[0]]
        if needs_x:
            by_x = torch.ops.aten.convolution_backward(gradient, x, weight, outputs, *ctx.geometry, [True, False, False])[0]
        plain = gradient.contiguous(), x.contiguous(), weight.contiguous()
        _, by_weight, by_bias = torch.ops.aten.convolution_backward(*plain, outputs, *ctx.geometry, [False, True, needs_bias])
        return by_x, by_weight.contiguous(memory_format=torch.channels_last), by_bias, None, None, None, None


class WeightsApart(TorchFunctionMode):
    """Within it, convolutions of at least ``least`` multiply-adds a tap with channels last compute their weights' gradient apart."""

    def __init__(self, least: int = LARGE) -> None:
        super().__init__()
        self.least = least

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, large convolutions by the detour."""
        if func is torch.nn.functional.conv2d and not kwargs and len(args) == 7 and self._large(*args):
            return _Apart.apply(*args)
        return func(*args, **(kwargs or {}))

    def _large(self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
        """Whether a convolution is one of those: with neighbours, float32, channels last, to be differentiated."""
        if x.ndim != 4 or not all(isinstance(pair, tuple) for pair in (stride, padding, dilation)):
            return False  # one picture without a batch, a number for both sides, padding by name: as modules do not call it
        places = x.shape[-2] * x.shape[-1] // (stride[0] * stride[1])
        return bool(
            weight.shape[-1] > 1 and groups == 1 and weight.shape[0] * weight.shape[1] * places >= self.least
            and x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
            and weight.is_contiguous(memory_format=torch.channels_last) and torch.is_grad_enabled() and weight.requires_grad
        )  # fmt: skip


def weights_apart(inputs: Tensor) -> AbstractContextManager[object]:
    """Return the context in which a network learns from these inputs: `WeightsApart` for large pictures (N, C, H, W) on a CPU."""
    large = inputs.ndim == 4 and inputs.device.type == "cpu" and min(inputs.shape[-2:]) >= SIDE
    return WeightsApart() if large else nullcontext()

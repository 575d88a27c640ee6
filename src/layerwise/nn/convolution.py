"""Shared parts of the image networks: initial weights, the check of the image size, and faster kernels on a CPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.errors import UsageError


def check_image_size(size: tuple[int, int], min_side: int) -> None:
    """Raise `UsageError` for images (H, W) too small for the poolings."""
    if min(size) < min_side:
        raise UsageError(
            f"images of {size[0]}×{size[1]} are too small for this network",
            expected=f"at least {min_side}×{min_side} pixels",
            do=f"set task.size={min_side} or more to enlarge them, or use fewer layers",
        )


MIN_MAPS = 16  # maps: a full vector of the widest processors
MIN_PRODUCT_WEIGHTS = 2**16  # of 1×1 filters, from which their gradient may be faster as a matrix product


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution with a stride, computed as a 1×1 convolution of every s-th pixel. E14 with k = 1, term for
    term.

    torch 2.13's own kernel for this case, on a CPU, channels last and with fewer maps than a vector has lanes (1 < C <
    8 with AVX2), writes out of bounds in the backward pass: trainings crashed at random. Parameters have the names of
    `nn.Conv2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, ⌈H/s⌉, ⌈W/s⌉)."""
        step_down, step_right = self.stride
        return F.conv2d(input[:, :, ::step_down, ::step_right], self.weight, self.bias)


def make_pointwise(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """Return a 1×1 convolution without a bias: torch's, or `StridedPointwise` where torch's is not safe."""
    cls = StridedPointwise if stride > 1 and inputs < MIN_MAPS else nn.Conv2d
    return cls(inputs, outputs, 1, stride=stride, bias=False)


def init_he_fan_out_(model: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / (outputs · k²)), and set their biases to 0.

    He et al. 2015 (Delving deep into rectifiers), section 2.2: gradients then keep their variance on the way back
    through ReLUs. Batch norms keep torch's initial γ = 1 and β = 0. Weights on the meta device are skipped: they have
    no values, and drawing them would load torch's compiler for a second and a half.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def use_fast_kernels(model: nn.Module, *, frozen: bool = False, kernels: Mapping[str, str] | None = None) -> int:
    """Replace a network's float32 convolutions on a CPU by faster ones (`nn.winograd_convolution`), in place; return
    how many were replaced.

    Winograd's algorithm computes those with 3×3 filters, stride 1, padding 1 and multiples of 16 maps in and out. Names
    and weights stay. ``frozen``: the weights no longer change, so the transformed filters are kept, which takes four
    times their memory; otherwise the gradient by 1×1 filters of many maps may be a matrix product. ``kernels``: those
    of known classes of layers (`nn.kernel_choice`); any other class is measured at its first call.
    """
    replaceable = [module for module in model.modules() if type(module) is nn.Conv2d and _is_replaceable(module)]
    winograd_layers = [module for module in replaceable if _fits_winograd(module)]
    pointwise_layers = [
        module
        for module in replaceable
        if not frozen and module.kernel_size == (1, 1) and module.weight.numel() >= MIN_PRODUCT_WEIGHTS
    ]
    if winograd_layers or pointwise_layers:
        # these import the compiler of kernels, which is slow
        from layerwise.kernels.convolution.winograd import transform_filters
        from layerwise.nn.kernel_choice import KernelSelector
        from layerwise.nn.kernel_timing import time_kernels
        from layerwise.nn.winograd_convolution import PointwiseConv2d, WinogradConv2d

        selector = KernelSelector(kernels or {}, time_kernels)
        for module in winograd_layers:
            module.__class__ = WinogradConv2d
            module.points = transform_filters(module.weight.double()) if frozen else None  # type: ignore[assignment]
        for module in pointwise_layers:
            module.__class__ = PointwiseConv2d
        for module in (*winograd_layers, *pointwise_layers):
            module.selector = selector  # type: ignore[assignment]
    return len(winograd_layers) + len(pointwise_layers)


def _is_replaceable(module: nn.Conv2d) -> bool:
    """Whether a convolution is in float32 on a CPU, without groups or dilation, and with "same" zero padding."""
    weight = module.weight
    return bool(
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and module.padding == ((module.kernel_size[0] - 1) // 2,) * 2
    )


def _fits_winograd(module: nn.Conv2d) -> bool:
    """Whether Winograd's algorithm can compute such a convolution."""
    maps = module.in_channels % MIN_MAPS == module.out_channels % MIN_MAPS == 0
    return bool(module.kernel_size == (3, 3) and module.stride == (1, 1) and maps)

"""What the networks of images share: their first weights, the refusal of images too small for them, 3×3 filters by
tiles."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.errors import UsageError


def large_enough(size: tuple[int, int], least: int) -> None:
    """Raise `UsageError` for images (H, W) too small for the poolings."""
    if min(size) < least:
        raise UsageError(
            f"images of {size[0]}×{size[1]} are too small for this network",
            expected=f"at least {least}×{least} pixels",
            do=f"set task.size={least} or more to enlarge them, or use fewer layers",
        )


SAFE = 16  # maps: a whole vector of the widest processors
MANY = 2**16  # maps in · maps out of 1×1 filters, from which their gradient as a product may be the faster one


class StridedPointwise(nn.Conv2d):
    """A 1×1 convolution with a stride: every s-th place is taken, and the 1×1 convolution goes over these. E14 with k =
    1, term for term.

    torch 2.13's own kernel of this case, on a CPU, channels last and with fewer maps than a vector has places (1 < C <
    8 with AVX2),
    writes beyond its memory on the way back: trainings died at random. Parameters and their names are those of
        `nn.Conv2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, ⌈H/s⌉, ⌈W/s⌉)."""
        down, right = self.stride
        return F.conv2d(input[:, :, ::down, ::right], self.weight, self.bias)


def pointwise(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """Return a 1×1 convolution without a bias: torch's own, and where that is not safe, one that computes the same."""
    kind = StridedPointwise if stride > 1 and inputs < SAFE else nn.Conv2d
    return kind(inputs, outputs, 1, stride=stride, bias=False)


def he_fan_out_(model: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / (outputs · k²)), and set their biases to 0.

    He et al. 2015 (Delving deep into rectifiers), section 2.2: so gradients keep their variance on the way back through
    ReLUs. Batch norms keep torch's own start, γ = 1 and β = 0. Weights on the meta device have no values to draw (and
    asking for them loads torch's compiler, for a second and a half).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def by_tiles(model: nn.Module, *, frozen: bool = False, kernels: Mapping[str, str] | None = None) -> int:
    """Have a network's float32 convolutions with 3×3 filters computed by tiles (`nn.tiled`), in place; return how many
    there are.

    Those with stride 1, padding 1 and multiples of 16 maps in and out, on a CPU. Names and weights stay. ``frozen``:
    the weights will not change any more, so that what is made of them is kept, four times their memory; else the
    gradient by 1×1 filters of many maps may be
    taken as a product. ``kernels``: those of known classes of layers (`nn.kernel_choice`); any other class is measured
    when it is first met.
    """
    free = [module for module in model.modules() if type(module) is nn.Conv2d and _free(module)]
    tiled = [module for module in free if _fits(module)]
    pointwise = [
        module for module in free if module.kernel_size == (1, 1) and module.weight.numel() >= MANY and not frozen
    ]
    if tiled or pointwise:
        from layerwise.kernels.convolution.winograd import (
            filters,
        )  # with the compiler of kernels, which other networks are spared
        from layerwise.nn.kernel_choice import Choices
        from layerwise.nn.kernel_timing import time_kernels
        from layerwise.nn.tiled import PointwiseConv2d, TiledConv2d

        choices = Choices(kernels or {}, time_kernels)
        for module in tiled:
            module.__class__ = TiledConv2d
            module.points = filters(module.weight.double()) if frozen else None  # type: ignore[assignment]
        for module in pointwise:
            module.__class__ = PointwiseConv2d
        for module in (*tiled, *pointwise):
            module.choices = choices  # type: ignore[assignment]
    return len(tiled) + len(pointwise)


def _free(module: nn.Conv2d) -> bool:
    """Whether a convolution is in float32 on a CPU, neither in groups nor dilated, with zeros around."""
    weight = module.weight
    return bool(
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and module.padding == ((module.kernel_size[0] - 1) // 2,) * 2
    )


def _fits(module: nn.Conv2d) -> bool:
    """Whether such a convolution is of the kind that tiles can compute."""
    maps = module.in_channels % SAFE == module.out_channels % SAFE == 0
    return bool(module.kernel_size == (3, 3) and module.stride == (1, 1) and maps)

"""The residual networks for 32×32 images, 20 to 110 layers, and the plain ones that they were compared with.

``N`` images, ``C`` channels, ``H W`` pixels. K. He, X. Zhang, S. Ren, J. Sun, Deep residual learning for image
recognition, CVPR 2016, section 4.2. A convolution, three stages of n blocks with 16, 32 and 64 channels on 32×32, 16×16
and 8×8 pixels, the mean over all pixels, a dense layer: 6n + 2 layers. Shortcuts have no parameters (option A), so a
plain net has as many as the residual one. Names of parameters are those of the published checkpoints
(akamaster/pytorch_resnet_cifar10).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.models.resnet import BasicBlock
from layerwise.nn.convolution import check_image_size, init_he_fan_out_
from layerwise.recipe import PositiveInt
from layerwise.registry import register

Size = tuple[PositiveInt, PositiveInt]


class PaddedShortcut(nn.Module):
    """Option A: every second pixel of x, padded with zero channels on both sides. No parameters."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + more, H/2, W/2)."""
        before = self.more // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.more - before))


def make_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the shortcut of a block: the identity, or option A at the start of a stage."""
    return nn.Identity() if stride == 1 else PaddedShortcut(outputs - inputs)


class CifarResNet(nn.Module):
    """3 stages of ``blocks`` basic blocks (E32), the width doubling from stage to stage; ``residual=False`` omits
    the shortcuts."""

    def __init__(self, blocks: int, *, width: int, channels: int, outputs: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        inputs = width
        stages = []
        for number in range(3):
            wide, stage = width * 2**number, nn.Sequential()
            for block in range(blocks):
                stride = 2 if number and not block else 1
                stage.append(
                    BasicBlock(inputs, wide, stride, make_shortcut(inputs, wide, stride) if residual else None)
                )
                inputs = wide
            stages.append(stage)
        self.layer1, self.layer2, self.layer3 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, outputs)
        init_he_fan_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to (N, outputs)."""
        x = self.relu(self.bn1(self.conv1(x)))  # (N, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, H/4, W/4)
        out: Tensor = self.linear(torch.flatten(self.avgpool(x), 1))
        return out


def build_cifar_resnet(
    blocks: int, *, width: int, channels: int, size: Size, outputs: int, residual: bool
) -> nn.Module:
    """Build a network of 6 · ``blocks`` + 2 layers. Raises `UsageError` for images under 4 pixels."""
    check_image_size(size, 4)
    return CifarResNet(blocks, width=width, channels=channels, outputs=outputs, residual=residual)


SHARED: dict[str, Any] = {
    "family": "residual",
    "tasks": ("classification", "regression"),
    "rule": "backprop",
    "year": 2015,
    "paper": "He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2015",
    "size": {"outputs": 10},
    "small": {"outputs": 3, "size": [8, 8], "width": 4, "blocks": 1},
    "recipe": {
        "task": {"size": 32},
        "stages": [
            {
                "epochs": 12,
                "batch_size": 128,
                "augment": {"crop_padding": 4, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.2, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 40, "batch_size": 32, "rule": {"lr": 0.05}}]}},
    },
}


@register(
    "resnet20",
    **SHARED,
    parameters=269722,
    summary="residual network of 20 layers for 32×32 images, with shortcuts that have no parameters",
    summary_zh="面向 32×32 图像的 20 层残差网络，捷径不含参数",
)
def resnet20(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (32, 32),
    width: PositiveInt = 16,
    blocks: PositiveInt = 3,
    residual: bool = True,
) -> nn.Module:
    """Build the network of 20 layers: images (N, C, H, W) to (N, outputs).

    ``width`` is the first stage's, ``blocks`` are each stage's; ``residual=False`` is the plain net of the same layers.
    """
    return build_cifar_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, residual=residual)


@register(
    "resnet32",
    **SHARED,
    parameters=464154,
    summary="residual network of 32 layers for 32×32 images",
    summary_zh="面向 32×32 图像的 32 层残差网络",
)
def resnet32(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (32, 32),
    width: PositiveInt = 16,
    blocks: PositiveInt = 5,
    residual: bool = True,
) -> nn.Module:
    """Build the network of 32 layers: images (N, C, H, W) to (N, outputs)."""
    return build_cifar_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, residual=residual)


@register(
    "resnet44",
    **SHARED,
    parameters=658586,
    summary="residual network of 44 layers for 32×32 images",
    summary_zh="面向 32×32 图像的 44 层残差网络",
)
def resnet44(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (32, 32),
    width: PositiveInt = 16,
    blocks: PositiveInt = 7,
    residual: bool = True,
) -> nn.Module:
    """Build the network of 44 layers: images (N, C, H, W) to (N, outputs)."""
    return build_cifar_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, residual=residual)


@register(
    "resnet56",
    **SHARED,
    parameters=853018,
    summary="residual network of 56 layers for 32×32 images; its plain form learns worse than one of 20 layers",
    summary_zh="面向 32×32 图像的 56 层残差网络；去掉捷径的同深网络反而不如 20 层",
)
def resnet56(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (32, 32),
    width: PositiveInt = 16,
    blocks: PositiveInt = 9,
    residual: bool = True,
) -> nn.Module:
    """Build the network of 56 layers: images (N, C, H, W) to (N, outputs)."""
    return build_cifar_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, residual=residual)


@register(
    "resnet110",
    **SHARED,
    parameters=1727962,
    summary="residual network of 110 layers for 32×32 images",
    summary_zh="面向 32×32 图像的 110 层残差网络",
)
def resnet110(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (32, 32),
    width: PositiveInt = 16,
    blocks: PositiveInt = 18,
    residual: bool = True,
) -> nn.Module:
    """Build the network of 110 layers: images (N, C, H, W) to (N, outputs)."""
    return build_cifar_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, residual=residual)

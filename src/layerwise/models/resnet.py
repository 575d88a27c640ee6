"""Residual networks: ResNet (2015), ResNeXt (2016) and wide ResNet (2016), with torchvision's names of parameters.

``N`` images, ``C`` channels, ``H W`` pixels. K. He, X. Zhang, S. Ren, J. Sun, Deep residual learning for image
recognition, CVPR 2016. The one idea: a block learns what to add to its input, y = x + F(x), so a block with F = 0 does
no harm, and gradients reach the first layer through the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.nn.convolution import check_image_size, init_he_fan_out_, make_pointwise
from layerwise.recipe import PositiveInt
from layerwise.registry import register

Blocks = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt]
Size = tuple[PositiveInt, PositiveInt]
Block = Callable[[int, int, int], nn.Module]  # of (inputs, width, stride)
SMALLEST = 32  # pixels: the network halves its maps five times


class BasicBlock(nn.Module):
    """y = ReLU(x + F(x)) (E32), F two 3×3 convolutions with batch norm, ReLU between them; figure 5, left, of the
    paper.

    ``downsample`` is the shortcut: the identity, or a projection to F(x)'s shape. With ``None`` there is no shortcut: y
    = ReLU(F(x)), a plain net's layers under the same names.
    """

    def __init__(self, inputs: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        y: Tensor = self.relu(out if self.downsample is None else self.downsample(x) + out)
        return y


class Bottleneck(nn.Module):
    """y = ReLU(x + F(x)) (E32), F a 1×1 convolution down to ``width``, a 3×3 one, and a 1×1 one up to ``outputs``;
    figure 5, right.

    The stride is the 3×3 convolution's, as in torchvision ("v1.5"); in the paper it is the first one's, which sees
    only a quarter of the pixels. ``groups`` cut the 3×3 convolution into paths of their own (ResNeXt's cardinality).
    """

    def __init__(
        self, inputs: int, width: int, *, outputs: int, stride: int, groups: int, downsample: nn.Module
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        y: Tensor = self.relu(self.downsample(x) + out)
        return y


def make_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the shortcut of a block (option B): the identity if the shapes agree, else a 1×1 convolution with batch
    norm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(make_pointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A stem (7×7 convolution, max pooling), four stages of residual blocks, global average pooling, and a linear
    layer."""

    def __init__(
        self, block: Block, *, expansion: int, blocks: Blocks, width: int, channels: int, outputs: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        stages = []
        for number, count in enumerate(blocks):  # width doubles as the sides halve
            wide = width * 2**number
            first = block(inputs, wide, 2 if number else 1)
            inputs = wide * expansion
            stages.append(nn.Sequential(first, *(block(inputs, wide, 1) for _ in range(count - 1))))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, outputs)
        init_he_fan_out_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to (N, outputs)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512 or 2048, H/32, W/32)
        out: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return out


def build_basic_resnet(blocks: Blocks, *, width: int, channels: int, size: Size, outputs: int) -> nn.Module:
    """Build a network of basic blocks. Raises `UsageError` for images under 32 pixels."""
    check_image_size(size, SMALLEST)

    def block(inputs: int, wide: int, stride: int) -> nn.Module:
        return BasicBlock(inputs, wide, stride, make_shortcut(inputs, wide, stride))

    return ResNet(block, expansion=1, blocks=blocks, width=width, channels=channels, outputs=outputs)


def build_bottleneck_resnet(
    blocks: Blocks, *, width: int, channels: int, size: Size, outputs: int, groups: int = 1, group_width: int = 64
) -> nn.Module:
    """Build a network of bottlenecks. Raises `UsageError` for images under 32 pixels.

    Each of the 3×3 convolution's ``groups`` has ``group_width`` channels in a stage of 64, in proportion in the others,
    at least 1.
    """
    check_image_size(size, SMALLEST)

    def block(inputs: int, wide: int, stride: int) -> nn.Module:
        inner, outputs = max(1, wide * group_width // 64) * groups, 4 * wide
        shortcut = make_shortcut(inputs, outputs, stride)
        return Bottleneck(inputs, inner, outputs=outputs, stride=stride, groups=groups, downsample=shortcut)

    return ResNet(block, expansion=4, blocks=blocks, width=width, channels=channels, outputs=outputs)


SHARED: dict[str, Any] = {
    "family": "residual",
    "tasks": ("classification", "regression"),
    "rule": "backprop",
    "size": {"outputs": 1000},
    "small": {"outputs": 3, "size": [32, 32], "width": 4, "blocks": [1, 1, 1, 1]},
    "recipe": {
        "task": {"size": 224},
        "stages": [
            {
                "epochs": 30,
                "batch_size": 64,
                "augment": {"crop_padding": 28, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.05, "schedule": "one-cycle", "warmup": 0.2, "l2": 5e-5},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 60, "batch_size": 32, "rule": {"lr": 0.02}}]}},
    },
}
HE: dict[str, Any] = {"year": 2015, "paper": "He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2015"}
XIE: dict[str, Any] = {
    "year": 2016,
    "paper": "Xie, Girshick, Dollár, Tu & He, Aggregated residual transformations for deep neural networks, 2016",
}
ZAGORUYKO: dict[str, Any] = {"year": 2016, "paper": "Zagoruyko & Komodakis, Wide residual networks, 2016"}


@register(
    "resnet18",
    **SHARED,
    **HE,
    parameters=11689512,
    summary="ResNet of 18 layers: eight blocks of two 3×3 convolutions, each added to its input",
    summary_zh="18 层 ResNet：八个残差块，每块两层 3×3 卷积，输出与输入相加",
)
def resnet18(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (2, 2, 2, 2),
) -> nn.Module:
    """Build ResNet-18: images (N, C, H, W) to (N, outputs). ``width`` is the first stage's, ``blocks`` count those of
    each stage."""
    return build_basic_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs)


@register(
    "resnet34",
    **SHARED,
    **HE,
    parameters=21797672,
    summary="ResNet of 34 layers: sixteen blocks of two 3×3 convolutions",
    summary_zh="34 层 ResNet：十六个残差块，每块两层 3×3 卷积",
)
def resnet34(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 6, 3),
) -> nn.Module:
    """Build ResNet-34: images (N, C, H, W) to (N, outputs)."""
    return build_basic_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs)


@register(
    "resnet50",
    **SHARED,
    **HE,
    parameters=25557032,
    summary="ResNet of 50 layers: sixteen bottlenecks of 1×1, 3×3 and 1×1 convolutions",
    summary_zh="50 层 ResNet：十六个瓶颈块，每块依次为 1×1、3×3、1×1 卷积",
)
def resnet50(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 6, 3),
) -> nn.Module:
    """Build ResNet-50: images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs)


@register(
    "resnet101",
    **SHARED,
    **HE,
    parameters=44549160,
    summary="ResNet of 101 layers: 33 bottlenecks, 23 of them in the third stage",
    summary_zh="101 层 ResNet：33 个瓶颈块，其中 23 个在第三阶段",
)
def resnet101(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 23, 3),
) -> nn.Module:
    """Build ResNet-101: images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs)


@register(
    "resnet152",
    **SHARED,
    **HE,
    parameters=60192808,
    summary="ResNet of 152 layers: 50 bottlenecks; the network that won ImageNet 2015",
    summary_zh="152 层 ResNet：50 个瓶颈块；2015 年 ImageNet 竞赛冠军所用的网络",
)
def resnet152(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 8, 36, 3),
) -> nn.Module:
    """Build ResNet-152: images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs)


@register(
    "resnext50_32x4d",
    **SHARED,
    **XIE,
    parameters=25028904,
    summary="ResNeXt of 50 layers: the 3×3 convolution of each bottleneck in 32 groups of 4 channels",
    summary_zh="50 层 ResNeXt：瓶颈块中的 3×3 卷积分为 32 组，每组 4 个通道",
)
def resnext50_32x4d(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 6, 3),
) -> nn.Module:
    """Build ResNeXt-50 (32×4d): images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(
        blocks, width=width, channels=channels, size=size, outputs=outputs, groups=32, group_width=4
    )


@register(
    "resnext101_32x8d",
    **SHARED,
    **XIE,
    parameters=88791336,
    summary="ResNeXt of 101 layers: the 3×3 convolution of each bottleneck in 32 groups of 8 channels",
    summary_zh="101 层 ResNeXt：瓶颈块中的 3×3 卷积分为 32 组，每组 8 个通道",
)
def resnext101_32x8d(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 23, 3),
) -> nn.Module:
    """Build ResNeXt-101 (32×8d): images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(
        blocks, width=width, channels=channels, size=size, outputs=outputs, groups=32, group_width=8
    )


@register(
    "wide_resnet50_2",
    **SHARED,
    **ZAGORUYKO,
    parameters=68883240,
    summary="wide ResNet of 50 layers: the 3×3 convolution of each bottleneck twice as wide as ResNet-50's",
    summary_zh="50 层宽 ResNet：瓶颈块中 3×3 卷积的通道数为 ResNet-50 的两倍",
)
def wide_resnet50_2(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 6, 3),
) -> nn.Module:
    """Build Wide ResNet-50-2: images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, group_width=128)


@register(
    "wide_resnet101_2",
    **SHARED,
    **ZAGORUYKO,
    parameters=126886696,
    summary="wide ResNet of 101 layers: the 3×3 convolution of each bottleneck twice as wide as ResNet-101's",
    summary_zh="101 层宽 ResNet：瓶颈块中 3×3 卷积的通道数为 ResNet-101 的两倍",
)
def wide_resnet101_2(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    blocks: Blocks = (3, 4, 23, 3),
) -> nn.Module:
    """Build Wide ResNet-101-2: images (N, C, H, W) to (N, outputs)."""
    return build_bottleneck_resnet(blocks, width=width, channels=channels, size=size, outputs=outputs, group_width=128)

"""VGG (2014): depth from 3×3 convolutions alone, with torchvision's names of parameters; and its forms for 32×32
images.

``N`` images, ``C`` channels, ``H W`` pixels. K. Simonyan, A. Zisserman, Very deep convolutional networks for
large-scale image recognition, ICLR 2015; batch norm: S. Ioffe, C. Szegedy, ICML 2015. The one idea: two 3×3
convolutions see what one 5×5 sees (E16), with fewer weights and a ReLU more. Five stages, each ending in 2×2 pooling,
with 64, 128, 256, 512 and 512 channels; the depth is in how many convolutions a stage has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerwise.nn.convolution import check_image_size, init_he_fan_out_
from layerwise.nn.layers import AdaptiveMean
from layerwise.recipe import Decay, PositiveInt
from layerwise.registry import register

Size = tuple[PositiveInt, PositiveInt]
SMALLEST = 32  # pixels: five poolings halve the sides
# the paper's A, B, D, E
VGG11, VGG13, VGG16, VGG19 = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


class VGG(nn.Module):
    """Convolutional stages, pooled to ``grid`` × ``grid``, and a classifier."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module, grid: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = AdaptiveMean(grid)  # the identity at the intended size; larger images are pooled to it
        self.classifier = classifier
        init_he_fan_out_(self)
        for module in self.modules():
            if isinstance(module, nn.Linear) and not module.weight.is_meta:
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to (N, outputs)."""
        out: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


def make_stages(depths: tuple[int, ...], *, channels: int, width: int, batch_norm: bool) -> nn.Sequential:
    """Return 3×3 convolutions with ReLU, as many in each stage as in ``depths``, and 2×2 pooling after each stage."""
    layers: list[nn.Module] = []
    inputs = channels
    for number, depth in enumerate(depths):
        maps = width * min(2**number, 8)
        for _ in range(depth):
            norm = [nn.BatchNorm2d(maps)] if batch_norm else []
            layers += [nn.Conv2d(inputs, maps, 3, padding=1), *norm, nn.ReLU(inplace=True)]
            inputs = maps
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def build_vgg(
    depths: tuple[int, ...],
    *,
    outputs: int,
    channels: int,
    size: Size,
    width: int,
    dense: int,
    dropout: float,
    batch_norm: bool = False,
) -> nn.Module:
    """Build the network for 224×224: (N, C, H, W) to (N, outputs). Raises `UsageError` for images under 32 pixels.

    Convolutions start as He et al. 2015 (fan out), dense weights from N(0, 0.01²), biases at 0, as in torchvision.
    """
    check_image_size(size, SMALLEST)
    classifier = nn.Sequential(
        nn.Linear(8 * width * 7 * 7, dense),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(dense, dense),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(dense, outputs),
    )
    return VGG(make_stages(depths, channels=channels, width=width, batch_norm=batch_norm), classifier, 7)


def build_small_vgg(depths: tuple[int, ...], *, outputs: int, channels: int, size: Size, width: int) -> nn.Module:
    """Build the network for 32×32, with batch norm and one dense layer over the mean of the last 512 maps, which at
    32×32 are 1×1.

    The common form on CIFAR (kuangliu/pytorch-cifar). Raises `UsageError` for images under 32 pixels.
    """
    check_image_size(size, SMALLEST)
    return VGG(make_stages(depths, channels=channels, width=width, batch_norm=True), nn.Linear(8 * width, outputs), 1)


FAMILY: dict[str, Any] = {
    "family": "convolutional",
    "tasks": ("classification", "regression"),
    "rule": "backprop",
    "year": 2014,
    "paper": "Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition, 2014",
}
PLAIN: dict[str, Any] = {
    "size": {"outputs": 1000},
    "small": {"outputs": 3, "size": [32, 32], "width": 3, "dense": 16},
    "recipe": {
        "task": {"size": 224},
        "stages": [
            {
                "epochs": 30,
                "batch_size": 32,
                "augment": {"crop_padding": 28, "flip": "horizontal"},
                "rule": {
                    "optimizer": "nesterov",
                    "lr": 0.01,
                    "schedule": "one-cycle",
                    "warmup": 0.2,
                    "l2": 2.5e-4,
                    "clip_grad": 5.0,
                },
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 60}]}},
    },
}
NORMALIZED: dict[str, Any] = {
    "size": {"outputs": 1000},
    "small": {"outputs": 3, "size": [32, 32], "width": 3, "dense": 16},
    "recipe": {
        "task": {"size": 224},
        "stages": [
            {
                "epochs": 30,
                "batch_size": 32,
                "augment": {"crop_padding": 28, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.02, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 60}]}},
    },
}
SMALL: dict[str, Any] = {
    "size": {"outputs": 10},
    "small": {"outputs": 3, "size": [32, 32], "width": 3},
    "recipe": {
        "task": {"size": 32},
        "stages": [
            {
                "epochs": 12,
                "batch_size": 128,
                "augment": {"crop_padding": 4, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.1, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 40, "batch_size": 32, "rule": {"lr": 0.05}}]}},
    },
}


@register(
    "vgg11",
    **FAMILY,
    **PLAIN,
    parameters=132863336,
    summary="VGG of 11 layers: 8 3×3 convolutions, and three dense layers",
    summary_zh="11 层 VGG：8 层 3×3 卷积加三层全连接",
)
def vgg11(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-11: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(VGG11, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout)


@register(
    "vgg13",
    **FAMILY,
    **PLAIN,
    parameters=133047848,
    summary="VGG of 13 layers: 10 3×3 convolutions, and three dense layers",
    summary_zh="13 层 VGG：10 层 3×3 卷积加三层全连接",
)
def vgg13(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-13: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(VGG13, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout)


@register(
    "vgg16",
    **FAMILY,
    **PLAIN,
    parameters=138357544,
    summary="VGG of 16 layers: 13 3×3 convolutions, and three dense layers",
    summary_zh="16 层 VGG：13 层 3×3 卷积加三层全连接",
)
def vgg16(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-16: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(VGG16, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout)


@register(
    "vgg19",
    **FAMILY,
    **PLAIN,
    parameters=143667240,
    summary="VGG of 19 layers: 16 3×3 convolutions, and three dense layers",
    summary_zh="19 层 VGG：16 层 3×3 卷积加三层全连接",
)
def vgg19(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-19: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(VGG19, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout)


@register(
    "vgg11_bn",
    **FAMILY,
    **NORMALIZED,
    parameters=132868840,
    summary="VGG of 11 layers: 8 3×3 convolutions, each with batch norm, and three dense layers",
    summary_zh="11 层 VGG：8 层 3×3 卷积（各带批归一化）加三层全连接",
)
def vgg11_bn(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-11 with batch norm: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(
        VGG11, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout, batch_norm=True
    )


@register(
    "vgg13_bn",
    **FAMILY,
    **NORMALIZED,
    parameters=133053736,
    summary="VGG of 13 layers: 10 3×3 convolutions, each with batch norm, and three dense layers",
    summary_zh="13 层 VGG：10 层 3×3 卷积（各带批归一化）加三层全连接",
)
def vgg13_bn(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-13 with batch norm: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(
        VGG13, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout, batch_norm=True
    )


@register(
    "vgg16_bn",
    **FAMILY,
    **NORMALIZED,
    parameters=138365992,
    summary="VGG of 16 layers: 13 3×3 convolutions, each with batch norm, and three dense layers",
    summary_zh="16 层 VGG：13 层 3×3 卷积（各带批归一化）加三层全连接",
)
def vgg16_bn(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-16 with batch norm: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(
        VGG16, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout, batch_norm=True
    )


@register(
    "vgg19_bn",
    **FAMILY,
    **NORMALIZED,
    parameters=143678248,
    summary="VGG of 19 layers: 16 3×3 convolutions, each with batch norm, and three dense layers",
    summary_zh="19 层 VGG：16 层 3×3 卷积（各带批归一化）加三层全连接",
)
def vgg19_bn(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: Size = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build VGG-19 with batch norm: images (N, C, H, W) to (N, outputs)."""
    return build_vgg(
        VGG19, outputs=outputs, channels=channels, size=size, width=width, dense=dense, dropout=dropout, batch_norm=True
    )


@register(
    "vgg11_bn_small",
    **FAMILY,
    **SMALL,
    parameters=9231114,
    summary="VGG of 8 3×3 convolutions with batch norm for 32×32 images, and one dense layer",
    summary_zh="面向 32×32 图像的 VGG：8 层带批归一化的 3×3 卷积加一层全连接",
)
def vgg11_bn_small(
    *, outputs: PositiveInt, channels: PositiveInt = 3, size: Size = (32, 32), width: PositiveInt = 64
) -> nn.Module:
    """Build VGG-11 for small images: (N, C, H, W) to (N, outputs)."""
    return build_small_vgg(VGG11, outputs=outputs, channels=channels, size=size, width=width)


@register(
    "vgg13_bn_small",
    **FAMILY,
    **SMALL,
    parameters=9416010,
    summary="VGG of 10 3×3 convolutions with batch norm for 32×32 images, and one dense layer",
    summary_zh="面向 32×32 图像的 VGG：10 层带批归一化的 3×3 卷积加一层全连接",
)
def vgg13_bn_small(
    *, outputs: PositiveInt, channels: PositiveInt = 3, size: Size = (32, 32), width: PositiveInt = 64
) -> nn.Module:
    """Build VGG-13 for small images: (N, C, H, W) to (N, outputs)."""
    return build_small_vgg(VGG13, outputs=outputs, channels=channels, size=size, width=width)


@register(
    "vgg16_bn_small",
    **FAMILY,
    **SMALL,
    parameters=14728266,
    summary="VGG of 13 3×3 convolutions with batch norm for 32×32 images, and one dense layer",
    summary_zh="面向 32×32 图像的 VGG：13 层带批归一化的 3×3 卷积加一层全连接",
)
def vgg16_bn_small(
    *, outputs: PositiveInt, channels: PositiveInt = 3, size: Size = (32, 32), width: PositiveInt = 64
) -> nn.Module:
    """Build VGG-16 for small images: (N, C, H, W) to (N, outputs)."""
    return build_small_vgg(VGG16, outputs=outputs, channels=channels, size=size, width=width)


@register(
    "vgg19_bn_small",
    **FAMILY,
    **SMALL,
    parameters=20040522,
    summary="VGG of 16 3×3 convolutions with batch norm for 32×32 images, and one dense layer",
    summary_zh="面向 32×32 图像的 VGG：16 层带批归一化的 3×3 卷积加一层全连接",
)
def vgg19_bn_small(
    *, outputs: PositiveInt, channels: PositiveInt = 3, size: Size = (32, 32), width: PositiveInt = 64
) -> nn.Module:
    """Build VGG-19 for small images: (N, C, H, W) to (N, outputs)."""
    return build_small_vgg(VGG19, outputs=outputs, channels=channels, size=size, width=width)

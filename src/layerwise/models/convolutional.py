"""Convolutional networks: LeNet-5 (1998) and a configurable one.

``N`` examples, ``C`` channels, ``H W`` pixels. Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning
applied to document recognition, Proc. IEEE 86 (1998). The one idea: the same small filters everywhere, so few weights
see the whole image.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.nn.convolution import check_image_size
from layerwise.nn.layers import make_activation
from layerwise.recipe import Decay, PositiveInt
from layerwise.registry import register

Pool = Literal["max", "average"]


def make_pool(kind: Pool) -> nn.Module:
    """Return 2×2 pooling (E15): the largest value or the mean."""
    return nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2)


class ConvNet(nn.Module):
    """Convolutional features under a classifier."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K)."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


@register(
    "lenet5",
    family="convolutional",
    tasks=("classification", "regression"),
    rule="backprop",
    year=1998,
    paper="LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, 1998",
    summary="LeNet-5: two convolutions, two poolings, three dense layers; relu and max-pooling, or the tanh original",
    summary_zh="LeNet-5：两层卷积、两次池化、三层全连接；默认 ReLU 与最大池化，也可用 tanh 原版",
    parameters=61706,
    size={"outputs": 10},
    small={"outputs": 3, "size": [12, 12]},
    recipe={
        "task": {"size": 28},
        "stages": [{"epochs": 10, "batch_size": 64, "rule": {"lr": 0.002, "schedule": "one-cycle", "warmup": 0.2}}],
    },
    aliases=("lenet",),
)
def lenet5(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 1,
    size: tuple[PositiveInt, PositiveInt] = (28, 28),
    activation: str = "relu",
    pool: Pool = "max",
) -> nn.Module:
    """Build LeNet-5: images (N, C, H, W) to (N, outputs). ``activation=tanh``, ``pool=average`` is the original's
    form.

    28×28 images get the border of 2 that makes the paper's 32×32. The original's scaled pooling, sparse connections
    between maps and radial output units are left out, as everywhere today.
    """
    check_image_size(size, 12)
    border = 2 if size[0] < 32 else 0
    height, width = (((side + 2 * border - 4) // 2 - 4) // 2 for side in size)
    classifier = nn.Sequential(
        nn.Linear(16 * height * width, 120),
        make_activation(activation),
        nn.Linear(120, 84),
        make_activation(activation),
        nn.Linear(84, outputs),
    )
    features = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=border),  # (N, 6, 28, 28)
        make_activation(activation),
        make_pool(pool),  # (N, 6, 14, 14)
        nn.Conv2d(6, 16, 5),  # (N, 16, 10, 10)
        make_activation(activation),
        make_pool(pool),  # (N, 16, 5, 5)
    )
    return ConvNet(features, classifier)


@register(
    "cnn",
    family="convolutional",
    tasks=("classification", "regression"),
    rule="backprop",
    year=1989,
    paper="LeCun et al., Backpropagation applied to handwritten zip code recognition, 1989",
    summary="a convolutional network of your own measure: widths, kernel, pooling, batch norm, dropout",
    summary_zh="可配置的卷积网络：通道数、卷积核、池化、批归一化、dropout 均可设定",
    parameters=421642,
    size={"outputs": 10},
    small={"outputs": 3, "size": [8, 8], "widths": [8, 16], "dense": [16]},
    recipe={
        "stages": [{"epochs": 10, "batch_size": 64, "rule": {"lr": 0.001, "schedule": "one-cycle", "warmup": 0.2}}]
    },
)
def cnn(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 1,
    size: tuple[PositiveInt, PositiveInt] = (28, 28),
    widths: tuple[PositiveInt, ...] = (32, 64),
    kernel: PositiveInt = 3,
    dense: tuple[PositiveInt, ...] = (128,),
    activation: str = "relu",
    pool: Pool = "max",
    batch_norm: bool = False,
    dropout: Decay = 0.0,
) -> nn.Module:
    """Build the network: per width a convolution of the same size, activation and 2×2 pooling, then dense layers.

    Images (N, C, H, W) to (N, outputs). Raises `UsageError` for an even kernel or images too small for the
    poolings.
    """
    if kernel % 2 == 0:
        raise UsageError("the kernel's side must be odd, to keep the image's size", received=f"model.kernel={kernel}")
    check_image_size(size, 2 ** len(widths))
    head: list[nn.Module] = []
    width = math.prod(side >> len(widths) for side in size) * (widths[-1] if widths else channels)
    for units in dense:
        head += [nn.Linear(width, units), make_activation(activation)]
        if dropout:
            head.append(nn.Dropout(dropout))
        width = units
    features: list[nn.Module] = []
    for before, after in zip((channels, *widths), widths, strict=False):
        features.append(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=not batch_norm))
        if batch_norm:
            features.append(nn.BatchNorm2d(after))
        features += [make_activation(activation), make_pool(pool)]
    return ConvNet(nn.Sequential(*features), nn.Sequential(*head, nn.Linear(width, outputs)))

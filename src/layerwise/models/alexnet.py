"""AlexNet (2012), the network that won ImageNet, with torchvision's names of parameters; and its form for 32×32
images.

``N`` images, ``C`` channels, ``H W`` pixels. A. Krizhevsky, I. Sutskever, G. E. Hinton, ImageNet classification with
deep convolutional neural networks, NIPS 2012; in the form of A. Krizhevsky, One weird trick for parallelizing
convolutional neural networks (2014), which is not cut in two for two devices and has no local response normalization.
The one idea: depth, ReLU, dropout, and enough images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerwise.nn.convolution import check_image_size, init_he_fan_out_
from layerwise.nn.layers import AdaptiveMean
from layerwise.recipe import Decay, PositiveInt
from layerwise.registry import register


class AlexNet(nn.Module):
    """Five convolutions with overlapping pooling (3×3, stride 2), then three dense layers with dropout."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, grid: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = AdaptiveMean(grid)  # the identity at the intended size; larger images are pooled to it
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to (N, outputs)."""
        out: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


def make_features(first: nn.Conv2d, *, width: int, kernel: int, padding: int) -> nn.Sequential:
    """Return the features: ``first``, then convolutions of widths 3, 6, 4, 4 times ``width``, with ReLUs and poolings
    with ``padding``."""

    def make_pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, padding=padding)

    return nn.Sequential(
        first,
        nn.ReLU(inplace=True),
        make_pool(),
        nn.Conv2d(width, 3 * width, kernel, padding=kernel // 2),
        nn.ReLU(inplace=True),
        make_pool(),
        nn.Conv2d(3 * width, 6 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        make_pool(),
    )


def make_classifier(inputs: int, *, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return the classifier: two dense layers, each after dropout, and the last one."""
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(inputs, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs),
    )


SHARED: dict[str, Any] = {
    "family": "convolutional",
    "tasks": ("classification", "regression"),
    "rule": "backprop",
    "year": 2012,
    "paper": "Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional neural networks, 2012",
}


@register(
    "alexnet",
    **SHARED,
    summary="AlexNet: five convolutions and three dense layers with ReLU and dropout, for 224×224 images",
    summary_zh="AlexNet：五层卷积加三层全连接，ReLU 与 dropout，面向 224×224 图像",
    parameters=61100840,
    size={"outputs": 1000},
    small={"outputs": 3, "size": [63, 63], "width": 4, "dense": 16},
    recipe={
        "task": {"size": 224},
        "stages": [
            {
                "epochs": 30,
                "batch_size": 64,
                "augment": {"crop_padding": 28, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.01, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 60, "batch_size": 32}]}},
    },
)
def alexnet(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: tuple[PositiveInt, PositiveInt] = (224, 224),
    width: PositiveInt = 64,
    dense: PositiveInt = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build AlexNet: images (N, C, H, W) to (N, outputs). ``width`` is the first layer's, ``dense`` the hidden dense
    layers'.

    Weights start as torch draws them: uniformly within ±1/√inputs. Raises `UsageError` for images under 63 pixels.
    """
    check_image_size(size, 63)
    features = make_features(nn.Conv2d(channels, width, 11, stride=4, padding=2), width=width, kernel=5, padding=0)
    return AlexNet(features, make_classifier(4 * width * 6 * 6, hidden=dense, outputs=outputs, dropout=dropout), 6)


@register(
    "alexnet_small",
    **SHARED,
    summary="AlexNet for 32×32 images: the same layers and widths, a finer first convolution, narrower dense layers",
    summary_zh="面向 32×32 图像的 AlexNet：层次与通道数不变，首层卷积更细，全连接层更窄",
    parameters=4560714,
    size={"outputs": 10},
    small={"outputs": 3, "size": [16, 16], "width": 4, "dense": 16},
    recipe={
        "task": {"size": 32},
        "stages": [
            {
                "epochs": 12,
                "batch_size": 128,
                "augment": {"crop_padding": 4, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.02, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 40, "batch_size": 32}]}},
    },
)
def alexnet_small(
    *,
    outputs: PositiveInt,
    channels: PositiveInt = 3,
    size: tuple[PositiveInt, PositiveInt] = (32, 32),
    width: PositiveInt = 64,
    dense: PositiveInt = 1024,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build AlexNet for small images: (N, C, H, W) to (N, outputs).

    Where AlexNet's first convolution is 11×11 with stride 4, this one is 5×5 with stride 2; poolings have a border of
    1, so that sides halve: 32, 16, 8, 4, 2. Convolutions start as He et al. 2015 (fan out), so that a short training
    learns something; dense layers as torch draws them. Raises `UsageError` for images under 16 pixels.
    """
    check_image_size(size, 16)
    features = make_features(nn.Conv2d(channels, width, 5, stride=2, padding=2), width=width, kernel=5, padding=1)
    init_he_fan_out_(features)
    return AlexNet(features, make_classifier(4 * width * 2 * 2, hidden=dense, outputs=outputs, dropout=dropout), 2)

"""AlexNet (2012), the network that won ImageNet, with torchvision's names of parameters; and its form for 32×32
images.

``N`` images, ``C`` channels, ``H W`` pixels. A. Krizhevsky, I. Sutskever, G. E. Hinton, ImageNet classification with
deep convolutional neural networks, NIPS 2012; in the form of A. Krizhevsky, One weird trick for parallelizing
convolutional neural networks (2014), which is not cut in two for two devices and has no local response normalization.
The one idea: depth, ReLU, dropout, and images enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerwise.nn.convolution import he_fan_out_, large_enough
from layerwise.nn.pooling import AdaptiveMean
from layerwise.recipe import Count, Decay
from layerwise.registry import register


class AlexNet(nn.Module):
    """Five convolutions with overlapping pooling (3×3, stride 2), then three dense layers with dropout."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, places: int) -> None:
        super().__init__()
        self.features = features
        self.avgpool = AdaptiveMean(places)  # nothing at the intended size; larger images are brought to it
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to (N, outputs)."""
        out: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return out


def convolutions(first: nn.Conv2d, *, width: int, kernel: int, border: int) -> nn.Sequential:
    """Return the features behind the first convolution: widths 1, 3, 6, 4, 4 times ``width``; poolings with a
    ``border``."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, padding=border)

    return nn.Sequential(
        first,
        nn.ReLU(inplace=True),
        pool(),
        nn.Conv2d(width, 3 * width, kernel, padding=kernel // 2),
        nn.ReLU(inplace=True),
        pool(),
        nn.Conv2d(3 * width, 6 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4 * width, 4 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        pool(),
    )


def dense_layers(inputs: int, *, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return the classifier: two dense layers behind dropout, and the last."""
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
                "batch": 64,
                "augment": {"crop": 28, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.01, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 60, "batch": 32}]}},
    },
)
def alexnet(
    *,
    outputs: Count,
    channels: Count = 3,
    size: tuple[Count, Count] = (224, 224),
    width: Count = 64,
    dense: Count = 4096,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build AlexNet: images (N, C, H, W) to (N, outputs). ``width`` is the first layer's, ``dense`` the hidden dense
    layers'.

    Weights start as torch draws them: uniformly within ±1/√inputs. Raises `UsageError` for images under 63 pixels.
    """
    large_enough(size, 63)
    features = convolutions(nn.Conv2d(channels, width, 11, stride=4, padding=2), width=width, kernel=5, border=0)
    return AlexNet(features, dense_layers(4 * width * 6 * 6, hidden=dense, outputs=outputs, dropout=dropout), 6)


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
                "batch": 128,
                "augment": {"crop": 4, "flip": "horizontal"},
                "rule": {"optimizer": "nesterov", "lr": 0.02, "schedule": "one-cycle", "warmup": 0.2, "l2": 2.5e-4},
            }
        ],
        "variants": {"small": {"stages": [{"epochs": 40, "batch": 32}]}},
    },
)
def alexnet_small(
    *,
    outputs: Count,
    channels: Count = 3,
    size: tuple[Count, Count] = (32, 32),
    width: Count = 64,
    dense: Count = 1024,
    dropout: Decay = 0.5,
) -> nn.Module:
    """Build AlexNet for small images: (N, C, H, W) to (N, outputs).

    Where AlexNet's first convolution is 11×11 with stride 4, this one is 5×5 with stride 2; poolings have a border of
    1, so that sides
    halve: 32, 16, 8, 4, 2. Convolutions start as He et al. 2015 (fan out), so that a short training gets somewhere;
    dense layers as torch draws them. Raises `UsageError` for images under 16 pixels.
    """
    large_enough(size, 16)
    features = convolutions(nn.Conv2d(channels, width, 5, stride=2, padding=2), width=width, kernel=5, border=1)
    he_fan_out_(features)
    return AlexNet(features, dense_layers(4 * width * 2 * 2, hidden=dense, outputs=outputs, dropout=dropout), 2)

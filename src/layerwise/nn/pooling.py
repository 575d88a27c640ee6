"""Mean pooling to a given number of places, with a gradient that can be repeated bit for bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveMean(nn.AdaptiveAvgPool2d):
    """The mean of the windows ⌊i·H/p⌋ … ⌈(i + 1)·H/p⌉ − 1 down, and so across: (N, C, H, W) to (N, C, p, p), whatever H
    and W are.

    torch's own kernel adds its gradients in any order on CUDA and is refused under ``train.deterministic``. There the
    same means are two matrix products, P x Qᵀ, whose order is fixed.
    """

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self.places = places

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, places, places)."""
        if input.is_cuda and torch.are_deterministic_algorithms_enabled():
            down, across = (window_means(side, self.places).to(input) for side in input.shape[2:])
            return down @ input @ across.T
        return F.adaptive_avg_pool2d(input, self.output_size)


def window_means(inputs: int, outputs: int) -> Tensor:
    """Return the matrix P (outputs, inputs), float64, that takes the mean of each window of adaptive pooling along one
    axis."""
    place, at = torch.arange(outputs)[:, None], torch.arange(inputs)[None]
    inside = (at >= place * inputs // outputs) & (at < -(-(place + 1) * inputs // outputs))
    return inside / inside.sum(1, keepdim=True, dtype=torch.float64)

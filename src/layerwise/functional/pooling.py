"""Pooling (E15): a window's largest value or its mean, map by map.

``N`` examples, ``C`` channels, ``H W`` pixels. Networks use torch's own kernels (`torch.nn.MaxPool2d`,
`torch.nn.AvgPool2d`), which
tests hold equal to these. Sources: K. Fukushima, Biological Cybernetics 36 (1980); LeCun et al., Proc. IEEE 86 (1998).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def windows(x: Tensor, size: int, *, stride: int) -> Tensor:
    """Return every window x[s·i : s·i+k, s·j : s·j+k] of images (N, C, H, W), as (N, C, H′, W′, k, k). A view:
    nothing is copied."""
    return x.unfold(2, size, stride).unfold(3, size, stride)


def max_pool(x: Tensor, size: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """Return y[i,j] = max x[s·i : s·i+k, s·j : s·j+k] (E15), (N, C, H′, W′).

    Args:
        x: images (N, C, H, W), floating point.
        size: k, the window's side.
        stride: s, the window's own side if None.
        padding: a border of −∞, so that it never is the largest; at most half the window.
    """
    bordered = F.pad(x, (padding,) * 4, value=float("-inf"))
    return windows(bordered, size, stride=stride or size).amax((-2, -1))


def mean_pool(x: Tensor, size: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """Return y[i,j] = (1/k²) Σ x[s·i : s·i+k, s·j : s·j+k] (E15), (N, C, H′, W′); a border counts as zeros.

    Args:
        x: images (N, C, H, W).
        size: k, the window's side.
        stride: s, the window's own side if None.
        padding: zeros on each side, which the k² counts too; at most half the window.
    """
    return windows(F.pad(x, (padding,) * 4), size, stride=stride or size).mean((-2, -1))

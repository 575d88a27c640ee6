"""Convolution as networks mean it, cross-correlation (E14), written as its sum over the kernel's positions; and pooling
(E15), a window's largest value or its mean, map by map.

``N`` examples, ``C`` channels in, ``K`` channels out, ``H W`` pixels, ``M × P`` the kernel's sides. Networks use
torch's own kernels (`torch.nn.Conv2d`, `torch.nn.MaxPool2d`, `torch.nn.AvgPool2d`), which tests hold equal to these.
Sources: K. Fukushima, Biological Cybernetics 36 (1980); LeCun et al., Neural Computation 1 (1989) and Proc. IEEE 86
(1998).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def output_size(side: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return the number of positions of a kernel along a side: ⌊(side + 2p − d(k−1) − 1)/s⌋ + 1; 0 or less if it does
    not fit."""
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def cross_correlation(
    x: Tensor,
    weights: Tensor,
    *,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Return y[k,i,j] = Σ_c Σₘₙ x[c, s·i + d·m, s·j + d·n] w[k,c,m,n] + b[k] (E14), (N, K, H′, W′).

    A border of ``padding`` zeros is laid around x first. E14's plain form has s = d = 1 and one channel.

    Args:
        x: images (N, C, H, W).
        weights: w (K, C, M, P).
        bias: b (K,), or None for zero.
        stride: s, pixels from one position of the kernel to the next.
        padding: zeros on each side.
        dilation: d, pixels from one weight of the kernel to the next.
    """
    x = F.pad(x, (padding,) * 4)  # (N, C, H + 2p, W + 2p)
    rows, columns = weights.shape[-2:]
    height = output_size(x.shape[-2], rows, stride=stride, dilation=dilation)
    width = output_size(x.shape[-1], columns, stride=stride, dilation=dilation)
    y = x.new_zeros(x.shape[0], weights.shape[0], height, width)
    for m in range(rows):
        for n in range(columns):
            top, left = dilation * m, dilation * n
            seen = x[
                ..., top : top + stride * (height - 1) + 1 : stride, left : left + stride * (width - 1) + 1 : stride
            ]
            y = y + torch.einsum("nchw,kc->nkhw", seen, weights[..., m, n])  # every position of one weight at once
    return y if bias is None else y + bias[:, None, None]


def unfold_windows(x: Tensor, size: int, *, stride: int) -> Tensor:
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
    return unfold_windows(bordered, size, stride=stride or size).amax((-2, -1))


def mean_pool(x: Tensor, size: int, *, stride: int | None = None, padding: int = 0) -> Tensor:
    """Return y[i,j] = (1/k²) Σ x[s·i : s·i+k, s·j : s·j+k] (E15), (N, C, H′, W′); a border counts as zeros.

    Args:
        x: images (N, C, H, W).
        size: k, the window's side.
        stride: s, the window's own side if None.
        padding: zeros on each side, which the k² counts too; at most half the window.
    """
    return unfold_windows(F.pad(x, (padding,) * 4), size, stride=stride or size).mean((-2, -1))

"""Convolution as networks mean it, cross-correlation (E14), written as its sum over the kernel's places.

``N`` examples, ``C`` channels in, ``K`` channels out, ``H W`` pixels, ``M × P`` the kernel's sides. Networks use
torch's own kernel (`torch.nn.Conv2d`), which tests hold equal to this. Source: LeCun et al., Neural Computation 1
(1989).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def output_side(side: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return how many places a kernel has along a side: ⌊(side + 2p − d(k−1) − 1)/s⌋ + 1; 0 or less where it does not
    fit."""
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
        stride: s, pixels from one place of the kernel to the next.
        padding: zeros on each side.
        dilation: d, pixels from one weight of the kernel to the next.
    """
    x = F.pad(x, (padding,) * 4)  # (N, C, H + 2p, W + 2p)
    rows, columns = weights.shape[-2:]
    height = output_side(x.shape[-2], rows, stride=stride, dilation=dilation)
    width = output_side(x.shape[-1], columns, stride=stride, dilation=dilation)
    y = x.new_zeros(x.shape[0], weights.shape[0], height, width)
    for m in range(rows):
        for n in range(columns):
            top, left = dilation * m, dilation * n
            seen = x[
                ..., top : top + stride * (height - 1) + 1 : stride, left : left + stride * (width - 1) + 1 : stride
            ]
            y = y + torch.einsum("nchw,kc->nkhw", seen, weights[..., m, n])  # every place of one weight at once
    return y if bias is None else y + bias[:, None, None]

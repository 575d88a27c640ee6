"""Random erasing: a rectangle of an image is overwritten, so that the network cannot rely on a single part.

``N`` images, ``C`` channels, ``H W`` pixels. Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang, Random erasing data
augmentation (AAAI 2020). The functions draw nothing themselves: they take draws as arguments.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Fill = Literal["noise", "black", "mean"]
Range = tuple[float, float]
WORD = (1 << 32) - 1


def draw_rectangles(u: Tensor, area: Range, aspect: Range, size: tuple[int, int]) -> Tensor:
    """Return rectangles (N, 4) int64 in images of ``size`` (H, W): left, top, width, height.

    Args:
        u: draws (N, 4) from [0, 1): of the area, the ratio, the position from the left and from the top.
        area: range of the share of the image's area, s.
        aspect: range of height to width, r, drawn evenly in its logarithm (as torchvision does; the paper draws r
            itself).
        size: (H, W).

    Sides are √(s·H·W·r) and √(s·H·W/r), rounded, at least one pixel and no longer than the image's.
    """
    height, width = size
    area_share = area[0] + (area[1] - area[0]) * u[:, 0].double()
    ratio = torch.exp(math.log(aspect[0]) + math.log(aspect[1] / aspect[0]) * u[:, 1].double())
    h = (area_share * height * width * ratio).sqrt().round().clamp(1, height)
    w = (area_share * height * width / ratio).sqrt().round().clamp(1, width)
    left = torch.floor(u[:, 2].double() * (width - w + 1)).minimum(width - w)
    top = torch.floor(u[:, 3].double() * (height - h + 1)).minimum(height - h)
    return torch.stack([left, top, w, h], 1).long()


def rectangle_mask(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which pixels lie inside rectangles (N, 4), as (N, 1, H, W) booleans."""
    left, top, width, height = (box[:, c : c + 1] for c in range(4))
    rows, columns = (torch.arange(n, device=box.device)[None] for n in size)
    in_rows = (rows >= top) & (rows < top + height)  # (N, H)
    in_columns = (columns >= left) & (columns < left + width)  # (N, W)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def erase(x: Tensor, box: Tensor, at: Tensor, fill: Fill, u: Tensor) -> Tensor:
    """Return images (N, C, H, W) in which those with the indices ``at`` have their rectangle (N, 4) overwritten.

    ``fill``: ``hash_noise`` (each pixel and channel drawn from [0, 1), the paper's best; a hash of the image's draw u
    (N,) and of the position), ``black``, or ``mean``, the image's own mean color.
    """
    if not len(at):
        return x
    selected = x[at]
    if fill == "noise":
        color = hash_noise(u[at], (selected.shape[1], selected.shape[2], selected.shape[3])).to(x.dtype)
    else:
        color = selected.mean((2, 3), keepdim=True) if fill == "mean" else torch.zeros_like(selected[:, :, :1, :1])
    return x.index_copy(0, at, torch.where(rectangle_mask(box[at], (x.shape[2], x.shape[3])), color, selected))


def hash_noise(u: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return values from [0, 1), (N, C, H, W), by a counter hash (MurmurHash3's finalizer) of each image's draw u
    (N,) and the position."""
    seeds = (u.double() * 2**24).long()  # the precision of a float32 draw
    positions = torch.arange(math.prod(shape), device=u.device)
    h = hash32(seeds[:, None] * 0x9E3779B1 + 1)
    return (hash32(h + positions) >> 8).view(len(u), *shape).double() * 2.0**-24


def hash32(h: Tensor) -> Tensor:
    """Return a bijective hash of 32-bit numbers, stored in int64."""
    h = h & WORD
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        h = ((h ^ (h >> shift)) * factor) & WORD
    return h ^ (h >> 16)

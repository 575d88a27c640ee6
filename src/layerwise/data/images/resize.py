"""Images brought to the size that a network takes: one way, for files, arrays and bytes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]


def grown(height: int, width: int, size: Size) -> Size:
    """Return the sides that an image has when both just reach ``size``, its proportions kept but for rounding."""
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * factor)), max(size[1], round(width * factor))


def fitted(x: Tensor, size: Size) -> Tensor:
    """Bring images (N, C, H, W) to ``size``: scale until both sides reach it (bilinear, antialiased), crop the
    center.

    Bytes stay bytes, rounded to whole levels, and are cut before they are scaled.
    """
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    if not x.is_floating_point():  # cut first: fewer pixels to make, and none to copy
        factor = max(size[0] / height, size[1] / width)
        rows, columns = min(height, round(size[0] / factor)), min(width, round(size[1] / factor))
        top, left = (height - rows) // 2, (width - columns) // 2
        x = x[:, :, top : top + rows, left : left + columns]
        x = x.contiguous(memory_format=torch.channels_last)  # torch's fast way for bytes wants it
        return x if (rows, columns) == size else F.interpolate(x, size, mode="bilinear", antialias=True)
    sides = grown(height, width, size)
    if sides != (height, width):
        x = F.interpolate(x, sides, mode="bilinear", antialias=True)
    top, left = (sides[0] - size[0]) // 2, (sides[1] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]].clamp_(0, 1)


def fit(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Bring one image (H, W, C) to ``size`` (`fitted`)."""
    if pixels.shape[:2] == size:
        return pixels
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return np.ascontiguousarray(fitted(x, size)[0].permute(1, 2, 0).numpy())


def least(height: int, width: int, size: Size) -> Size:
    """Return the fewest rows and columns of an image that `fitted` would only shrink to ``size``."""
    factor = max(size[0] / height, size[1] / width)
    return math.ceil(height * factor), math.ceil(width * factor)

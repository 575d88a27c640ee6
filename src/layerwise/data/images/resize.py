"""Resizing images to the input size of a network: one method for files, arrays and bytes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]


def compute_cover_size(height: int, width: int, size: Size) -> Size:
    """Return the smallest sides of an image that cover ``size``, with its proportions kept but for rounding."""
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * factor)), max(size[1], round(width * factor))


def resize_images(x: Tensor, size: Size) -> Tensor:
    """Resize images (N, C, H, W) to ``size``: scale until they cover it (bilinear, antialiased), crop the center.

    Bytes stay bytes, rounded to whole levels, and are cropped before they are scaled.
    """
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    if not x.is_floating_point():  # crop first: fewer pixels to compute, and none to copy
        factor = max(size[0] / height, size[1] / width)
        rows, columns = min(height, round(size[0] / factor)), min(width, round(size[1] / factor))
        top, left = (height - rows) // 2, (width - columns) // 2
        x = x[:, :, top : top + rows, left : left + columns]
        x = x.contiguous(memory_format=torch.channels_last)  # torch's fast path for bytes needs it
        return x if (rows, columns) == size else F.interpolate(x, size, mode="bilinear", antialias=True)
    sides = compute_cover_size(height, width, size)
    if sides != (height, width):
        x = F.interpolate(x, sides, mode="bilinear", antialias=True)
    top, left = (sides[0] - size[0]) // 2, (sides[1] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]].clamp_(0, 1)


def resize_image(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize one image (H, W, C) to ``size`` (`resize_images`)."""
    if pixels.shape[:2] == size:
        return pixels
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return np.ascontiguousarray(resize_images(x, size)[0].permute(1, 2, 0).numpy())


def compute_draft_size(height: int, width: int, size: Size) -> Size:
    """Return the fewest rows and columns of an image that `resize_images` would only shrink to ``size``."""
    factor = max(size[0] / height, size[1] / width)
    return math.ceil(height * factor), math.ceil(width * factor)

"""Histograms of oriented gradients (HOG): hand-made features of an image, the best before features were learned.

``N`` images, ``C`` channels, ``H W`` pixels, ``B`` bins of direction, ``Y X`` cells. N. Dalal, B. Triggs, Histograms
of oriented gradients for human detection, CVPR 2005. Edge directions are counted in small cells, and each cell is
normalized with its neighbors, so that neither brightness nor a small shift matters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP = 0.2  # of a normalized block, so that no single edge dominates it (Lowe 2004)
EPS = 1e-3  # added to a block's norm, for images in [0, 1]


def compute_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (size, direction) of each pixel's gradient, (N, H, W) each; directions in [0, π), so that swapping light
    and dark changes nothing.

    g = (x[i, j+1] − x[i, j−1], x[i+1, j] − x[i−1, j]), the border repeated outwards; of several channels the one that
    changes most.
    """
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]  # (N, C, H, W)
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    size, channel = torch.hypot(across, down).max(1, keepdim=True)
    angle = torch.atan2(down.gather(1, channel), across.gather(1, channel)).remainder(math.pi)
    return size[:, 0], angle[:, 0]


def compute_cell_histograms(x: Tensor, *, cell: int, bins: int = 9) -> Tensor:
    """Return each cell's histogram of directions, (N, B, Y, X), of images (N, C, H, W).

    Y = ⌊H / cell⌋, X = ⌊W / cell⌋. A pixel votes with its gradient's size, shared between the two nearest bins and the
    four nearest cells, in proportion to the distance from their middles.
    """
    size, angle = compute_gradients(x)
    position = angle * (bins / math.pi) - 0.5  # bin b's middle is at b
    low = position.floor()
    share = position - low
    votes = x.new_zeros(len(x), bins, *x.shape[2:])
    for index, part in ((low, 1 - share), (low + 1, share)):
        votes.scatter_add_(1, index.long().remainder(bins)[:, None], (size * part)[:, None])
    rows, columns = x.shape[2] // cell, x.shape[3] // cell
    before = cell // 2
    after = (rows * cell + cell - before - x.shape[2], columns * cell + cell - before - x.shape[3])
    tent = (
        1 - (torch.arange(2 * cell, dtype=x.dtype, device=x.device) - before - (cell - 1) / 2).abs() / cell
    ).clamp_min(0)
    padded = F.pad(votes.flatten(0, 1)[:, None], (before, after[1], before, after[0]))  # (N·B, 1, ·, ·)
    histograms = F.conv2d(padded, torch.outer(tent, tent)[None, None], stride=cell)
    return histograms.view(len(x), bins, rows, columns)


def hog(x: Tensor, *, cell: int, bins: int = 9, block: int = 2) -> Tensor:
    """Return the features of images (N, C, H, W) in [0, 1], (N, blocks · block² · B).

    Each block of ``block`` × ``block`` neighboring cells, at every position, is normalized by v/√(‖v‖² + ε²), cut off
    at 0.2, and normalized again. Raises `ValueError` for images smaller than a block.
    """
    if min(x.shape[2:]) < block * cell:
        raise ValueError(
            f"a block of {block}×{block} cells of {cell} pixels does not fit into {x.shape[2]}×{x.shape[3]} pixels"
        )
    v = compute_cell_histograms(x, cell=cell, bins=bins)
    v = v.unfold(2, block, 1).unfold(3, block, 1)  # (N, B, Y′, X′, block, block)
    v = v.permute(0, 2, 3, 4, 5, 1).flatten(3)  # (N, Y′, X′, block²·B)
    v = (v / (v.square().sum(-1, keepdim=True) + EPS**2).sqrt()).clamp_max(CLIP)
    return (v / (v.square().sum(-1, keepdim=True) + EPS**2).sqrt()).flatten(1)

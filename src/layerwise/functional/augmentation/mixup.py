"""MixUp and CutMix: two images in one, and a loss that expects both in their shares.

``N`` images, ``C`` channels, ``H W`` pixels. H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, mixup: beyond empirical
risk minimization (ICLR 2018): x̃ = λx + (1−λ)x′. S. Yun et al., CutMix (ICCV 2019): a rectangle of x′, of the share 1−λ
of the area, is pasted into x. In both λ ~ Beta(α, α) and L = λ·ℓ(f(x̃), y) + (1−λ)·ℓ(f(x̃), y′). The functions draw
nothing themselves: they take draws as arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerwise.functional.augmentation.erasing import rectangle_mask


def find_partners(count: int) -> Tensor:
    """Return the partner of each image of a batch, (N,): neighbors, 0 with 1, 2 with 3 …; the last of an odd number is
    its own partner.

    In a shuffled order this is a uniformly random pairing, and splitting the batch between pairs keeps it.
    """
    index = torch.arange(count) ^ 1
    return torch.where(index < count, index, torch.arange(count))


def beta_quantiles(u: Tensor, alpha: float) -> Tensor:
    """Return λ ~ Beta(α, α) as its quantiles at draws u (N,) from [0, 1), float64."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, u.cpu().double().numpy())).to(u.device)


def draw_cutmix_boxes(u: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """Return CutMix's rectangles (N, 4) int64 in images of ``size`` (H, W): left, top, width, height.

    Sides W√(1−λ) and H√(1−λ) about a center drawn evenly from the image, draws u (N, 2); parts beyond the border are
    cut off, as in the paper's code.
    """
    height, width = size
    root = (1 - share.double()).clamp_min(0).sqrt()
    sides = []
    for column, full in ((0, width), (1, height)):
        side = torch.floor(full * root)
        middle = torch.floor(u[:, column].double() * full)
        start = (middle - torch.floor(side / 2)).clamp(0, full)
        sides.append((start, (middle - torch.floor(side / 2) + side).clamp(0, full) - start))
    (left, across), (top, down) = sides
    return torch.stack([left, top, across, down], 1).long()


def mix_images(x: Tensor, share: Tensor, box: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) mixed with their `find_partners`, and the shares (N,) that remain of the originals.

    Args:
        x: images, in any scale.
        share: λ (N,); 1 leaves an image as it is.
        box: CutMix's rectangles (N, 4).
        cuts: which images get a rectangle of their partner, (N,) booleans; the others are averaged.

    The share of an image with a rectangle is counted in pixels.
    """
    other = x[find_partners(len(x)).to(x.device)]
    mask = rectangle_mask(box, (x.shape[2], x.shape[3])) & (cuts & (share < 1)).view(-1, 1, 1, 1)
    remaining = 1 - mask.double().mean((1, 2, 3))
    own_share = torch.where(cuts, remaining, share.double()).to(x.dtype)
    blend = torch.where(cuts, 1, share).to(x.dtype).view(-1, 1, 1, 1)
    return torch.where(mask, other, other + blend * (x - other)), own_share

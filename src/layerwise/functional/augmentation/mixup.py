"""MixUp and CutMix: two images in one, and a loss that expects both in their shares.

``N`` images, ``C`` channels, ``H W`` pixels. H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz, mixup: beyond empirical
risk minimization (ICLR 2018): x̃ = λx + (1−λ)x′. S. Yun et al., CutMix (ICCV 2019): a rectangle of x′, of the share 1−λ
of the area, is pasted into x. In both λ ~ Beta(α, α) and L = λ·ℓ(f(x̃), y) + (1−λ)·ℓ(f(x̃), y′). Nothing here draws:
draws are given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerwise.functional.augmentation.erasing import inside


def partners(count: int) -> Tensor:
    """Return who is mixed with whom in a batch, (N,): neighbors, 0 with 1, 2 with 3 …; the last of an odd number stays
    by itself.

    In a shuffled order that is a uniformly random pairing, and one that any cut between pairs leaves whole.
    """
    index = torch.arange(count) ^ 1
    return torch.where(index < count, index, torch.arange(count))


def shares(u: Tensor, alpha: float) -> Tensor:
    """Return λ ~ Beta(α, α) as its quantiles at draws u (N,) from [0, 1), float64."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, u.cpu().double().numpy())).to(u.device)


def pasted(u: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """Return CutMix's rectangles (N, 4) int64 in images of ``size`` (H, W): left, top, width, height.

    Sides W√(1−λ) and H√(1−λ) about a middle drawn evenly from the image, draws u (N, 2); what reaches over the border
    is cut off, as in the paper's code.
    """
    height, width = size
    root = (1 - share.double()).clamp_min(0).sqrt()
    sides = []
    for column, whole in ((0, width), (1, height)):
        side = torch.floor(whole * root)
        middle = torch.floor(u[:, column].double() * whole)
        start = (middle - torch.floor(side / 2)).clamp(0, whole)
        sides.append((start, (middle - torch.floor(side / 2) + side).clamp(0, whole) - start))
    (left, across), (top, down) = sides
    return torch.stack([left, top, across, down], 1).long()


def mixed(x: Tensor, share: Tensor, box: Tensor, cuts: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) mixed with their `partners`, and the shares (N,) that remain of their own.

    Args:
        x: images, in any scale.
        share: λ (N,); 1 leaves an image as it is.
        box: CutMix's rectangles (N, 4).
        cuts: which images get a rectangle of their partner, (N,) booleans; the others are averaged.

    The share of a cut image is what is left of it in pixels.
    """
    other = x[partners(len(x)).to(x.device)]
    mask = inside(box, (x.shape[2], x.shape[3])) & (cuts & (share < 1)).view(-1, 1, 1, 1)
    left = 1 - mask.double().mean((1, 2, 3))
    kept = torch.where(cuts, left, share.double()).to(x.dtype)
    blend = torch.where(cuts, 1, share).to(x.dtype).view(-1, 1, 1, 1)
    return torch.where(mask, other, other + blend * (x - other)), kept

"""TrivialAugment: each image is changed by one operation, drawn evenly, at a strength drawn evenly.

``N`` images, ``C`` channels, ``H W`` pixels, values in [0, 1]. S. G. Müller, F. Hutter, TrivialAugment: tuning-free yet
state-of-the-art data augmentation (ICCV 2021): the wide set of 14 operations with 31 strengths each. No search for a
policy beats drawing one. The functions draw nothing themselves: they take draws as arguments. Images with the same
operation are changed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto-contrast",
    "equalize",
)
MOVES = OPERATIONS[1:6]
LEVELS = 31  # strengths m/30, m from 0 to 30
MAX_MAGNITUDES = {
    "shear-x": 0.99,
    "shear-y": 0.99,
    "translate-x": 32.0,
    "translate-y": 32.0,
    "rotate": 135.0,
    "brightness": 0.99,
    "color": 0.99,
    "contrast": 0.99,
    "sharpness": 0.99,
}
GRAY = (0.299, 0.587, 0.114)
SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))  # of 13


class Operations(NamedTuple):
    """The operation of each image, ``operation`` (N,) its number, and ``strength`` (N,) in [0, 1] with ``sign`` (N,)
    ±1."""

    operation: Tensor
    strength: Tensor
    sign: Tensor


def choose_operations(u: Tensor) -> Operations:
    """Return the operations that draws u (N, 3) from [0, 1) give: operation, strength, sign."""
    operation = (u[:, 0].double() * len(OPERATIONS)).long().clamp_max(len(OPERATIONS) - 1)
    level = (u[:, 1].double() * LEVELS).long().clamp_max(LEVELS - 1)
    return Operations(
        operation, (level.double() / (LEVELS - 1)).to(u.dtype), torch.where(u[:, 2] < 0.5, -1.0, 1.0).to(u.dtype)
    )


def compute_magnitudes(operations: Operations) -> Tensor:
    """Return each operation's magnitude (N,): shear, pixels, degrees, or a factor's distance from 1, with its sign;
    bits that posterize keeps (8 to 2); the level from which solarize inverts (1 to 0); 0 for those without a
    strength."""
    maxima = torch.tensor([MAX_MAGNITUDES.get(name, 0.0) for name in OPERATIONS]).to(operations.strength)
    out = operations.sign * operations.strength * maxima[operations.operation]
    out = torch.where(operations.operation == OPERATIONS.index("posterize"), 8 - (operations.strength * 6).round(), out)
    return torch.where(operations.operation == OPERATIONS.index("solarize"), 1 - operations.strength, out)


def affine_matrices(operations: Operations, size: tuple[int, int]) -> Tensor:
    """Return the affine maps (N, 3, 3) of images of ``size`` (H, W), identities where the operation moves nothing.

    As in the original, which maps positions of the result to positions of the image: shear about the upper left corner,
    translation, and rotation, counter-clockwise about the middle.
    """
    value, middle = compute_magnitudes(operations).double(), [(side - 1) / 2 for side in size]
    out = torch.eye(3, dtype=torch.float64, device=value.device).repeat(len(value), 1, 1)

    def put(name: str, *cells: tuple[int, int, Tensor]) -> None:
        at = operations.operation == OPERATIONS.index(name)
        for row, column, entry in cells:
            out[at, row, column] = entry[at]

    put("shear-x", (0, 1, -value), (0, 2, -value / 2))  # from a pixel's middle, half a pixel from the border
    put("shear-y", (1, 0, -value), (1, 2, -value / 2))
    put("translate-x", (0, 2, -value))
    put("translate-y", (1, 2, -value))
    cos, sin = torch.cos(value * math.pi / 180), torch.sin(value * math.pi / 180)
    y, x = middle
    put(
        "rotate",
        (0, 0, cos),
        (0, 1, sin),
        (1, 0, -sin),
        (1, 1, cos),
        (0, 2, x - cos * x - sin * y),
        (1, 2, y + sin * x - cos * y),
    )
    return out


def apply_color_operations(x: Tensor, operations: Operations) -> Tensor:
    """Return images (N, C, H, W) after the operations that change colors only; the other images are unchanged."""
    value, out = compute_magnitudes(operations).to(x.dtype), x
    for name, change in COLOR_OPERATIONS.items():
        at = torch.nonzero(operations.operation == OPERATIONS.index(name))[:, 0]
        if len(at):
            out = out.index_copy(0, at, change(x[at], value[at].view(-1, 1, 1, 1)))
    return out


def blend(x: Tensor, other: Tensor, value: Tensor) -> Tensor:
    """Return other + (1 + value)·(x − other), kept within [0, 1]."""
    return (other + (1 + value) * (x - other)).clamp(0, 1)


def to_gray(x: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) of images."""
    return x if x.shape[1] == 1 else (x * torch.tensor(GRAY).to(x).view(1, 3, 1, 1)).sum(1, keepdim=True)


def smooth(x: Tensor) -> Tensor:
    """Return images smoothed by 3×3 weights, the outermost pixels as they are."""
    if min(x.shape[2:]) < 3:
        return x
    planes = x.flatten(0, 1)[:, None]
    kernel = torch.tensor(SMOOTH).to(x)[None, None] / 13
    inner = F.conv2d(planes, kernel).view(*x.shape[:2], x.shape[2] - 2, x.shape[3] - 2)
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = inner
    return out


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Return images of which each level keeps its highest bits only."""
    step = torch.exp2(8 - bits)
    return torch.floor((x * 255).round() / step) * step / 255


def autocontrast(x: Tensor) -> Tensor:
    """Return images each of whose channels reaches from 0 to 1 (`auto-contrast`); channels of one value stay."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp_min(1e-12), x)


def equalize(x: Tensor) -> Tensor:
    """Return images with the histogram of each channel equalized.

    With the counts h of a channel's levels and s = (Σh − its last count) // 255: level i ↦ (Σ_{j<i} h_j + s // 2) // s,
    at most 255, as Pillow has it; s = 0 changes nothing.
    """
    level = (x * 255).round().long().flatten(2).flatten(0, 1)  # (N·C, P)
    counts = torch.zeros(len(level), 256, dtype=torch.long, device=x.device).scatter_add_(
        1, level, torch.ones_like(level)
    )
    last = counts.gather(1, level.amax(1, keepdim=True))
    step = (level.shape[1] - last) // 255
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp_min(1)).clamp_max(255)
    levels = torch.where(step > 0, table.gather(1, level), level)
    return (levels.to(x.dtype) / 255).view(x.shape)


COLOR_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, v: blend(x, torch.zeros_like(x), v),
    "color": lambda x, v: blend(x, to_gray(x), v),
    "contrast": lambda x, v: blend(x, to_gray(x).mean((2, 3), keepdim=True), v),
    "sharpness": lambda x, v: blend(x, smooth(x), v),
    "posterize": posterize,
    "solarize": lambda x, v: torch.where(x < v, x, 1 - x),
    "auto-contrast": lambda x, v: autocontrast(x),
    "equalize": lambda x, v: equalize(x),
}

"""Changes of pictures by given draws, as pure functions (S10): nothing here draws, so that the caller decides what is random.

``N`` pictures, ``C`` channels, ``H W`` pixels, values in [0, 1]. P. Y. Simard, D. Steinkraus, J. C. Platt, Best practices for
convolutional neural networks (2003); A. Krizhevsky et al. (2012). The one idea: rotated a little, a cat is still a cat, so every
such change is an example for nothing. Rotation, scale and shift are one affine map, so that pixels are interpolated once.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

Flip = Literal["none", "horizontal", "vertical", "both"]
Padding = Literal["zeros", "border", "reflection"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
# each change has columns of its own in the draws, so that switching one on leaves the others' draws alone
ROTATE, SCALE, FLIP_X, FLIP_Y, SHIFT_X, SHIFT_Y, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(10)
DRAWS = 10


class AugmentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of a stage's ``augment``: the widest change of each kind; 0 and ``none`` leave it out.

    ``rotate``: degrees, drawn from [−rotate, rotate]. ``scale`` s: factors from [1/(1+s), 1+s], evenly in their logarithm. ``crop`` c:
    the picture gets a border of c pixels and is cut back to its size at a random place, so that it shifts by up to c. ``flip``:
    mirrored left to right (``horizontal``), top to bottom (``vertical``) or each of both, with probability ½. ``brightness``,
    ``contrast``, ``saturation`` a: factors from [1 − a, 1 + a]; ``hue``: turns of the colour circle, from [−hue, hue]. ``padding``: what
    lies outside the picture: black, its border's colours, or its mirror image.
    """

    rotate: Annotated[float, msgspec.Meta(ge=0, le=180)] = 0.0
    scale: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    crop: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    flip: Flip = "none"
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    padding: Padding = "zeros"

    @property
    def moves(self) -> bool:
        """Whether pixels change their place by other than a flip."""
        return bool(self.rotate or self.scale or self.crop)

    @property
    def colours(self) -> bool:
        """Whether anything needs three channels."""
        return bool(self.saturation or self.hue)

    @property
    def idle(self) -> bool:
        """Whether nothing changes."""
        return not (self.moves or self.colours or self.brightness or self.contrast or self.flip != "none")


class Changes(NamedTuple):
    """What happens to each picture. ``angle`` (N,) degrees, clockwise; ``factor`` (N,) of its size; ``shift`` (N, 2) whole pixels to the
    right and down; ``mirrored`` (N, 2) left to right and top to bottom; ``brightness``, ``contrast``, ``saturation`` (N,) factors;
    ``hue`` (N,) turns."""

    angle: Tensor
    factor: Tensor
    shift: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor


def changes(u: Tensor, options: AugmentOptions) -> Changes:
    """Return what draws u (N, 10) from [0, 1) mean under these options."""
    o, even = options, 2 * u - 1  # from [−1, 1)
    allowed = u.new_tensor([o.flip in ("horizontal", "both"), o.flip in ("vertical", "both")], dtype=torch.bool)
    return Changes(
        o.rotate * even[:, ROTATE],
        torch.exp(math.log1p(o.scale) * even[:, SCALE]),
        torch.floor(u[:, [SHIFT_X, SHIFT_Y]] * (2 * o.crop + 1)).clamp_max(2 * o.crop) - o.crop,  # a draw may round up to 1
        (u[:, [FLIP_X, FLIP_Y]] < 0.5) & allowed,
        1 + o.brightness * even[:, BRIGHTNESS],
        1 + o.contrast * even[:, CONTRAST],
        1 + o.saturation * even[:, SATURATION],
        o.hue * even[:, HUE],
    )


def augment(x: Tensor, u: Tensor, options: AugmentOptions) -> Tensor:
    """Return pictures changed by their draws: rotated, scaled, shifted, then mirrored, then in their colours.

    Args:
        x: pictures (N, C, H, W) in [0, 1].
        u: draws (N, 10) from [0, 1), column by column those named above, in the pictures' type and on their device.
        options: how far each change goes.

    What comes out of a picture depends on it and its own draws alone, whatever else is in the batch.
    """
    if not len(x) or options.idle:
        return x
    change = changes(u, options)
    if options.moves:
        x = moved(x, change, options.padding)
    for axis, column in ((3, 0), (2, 1)):
        if options.flip in ("both", ("horizontal", "vertical")[column]):
            x = torch.where(change.mirrored[:, column].view(-1, 1, 1, 1), x.flip(axis), x)
    return coloured(x, change, options)


def moved(x: Tensor, change: Changes, padding: Padding) -> Tensor:
    """Return pictures (N, C, H, W) rotated and scaled about their middle, then shifted by whole pixels, bilinearly.

    The map of places is p ↦ m + t + f·R(θ)(p − m), with m the middle.
    """
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine  # a third of a second, so only where it is used

    height, width = x.shape[2:]
    middle = x.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(len(x), 2)
    matrix = get_affine_matrix2d(change.shift, middle, change.factor[:, None].expand(-1, 2), change.angle)  # (N, 3, 3)
    return warp_affine(x, matrix[:, :2], (height, width), mode="bilinear", padding_mode=padding, align_corners=True)


def coloured(x: Tensor, change: Changes, options: AugmentOptions) -> Tensor:
    """Return pictures (N, C, H, W) with other brightness, contrast, saturation and hue, in this order, kept within [0, 1]."""
    from kornia import enhance

    if options.brightness:
        x = enhance.adjust_brightness_accumulative(x, change.brightness)
    if options.contrast:
        x = enhance.adjust_contrast_with_mean_subtraction(x, change.contrast)
    if options.saturation:
        x = enhance.adjust_saturation_with_gray_subtraction(x, change.saturation)
    if options.hue:
        x = enhance.adjust_hue(x, 2 * math.pi * change.hue)
    return x

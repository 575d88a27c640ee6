"""Augmentation of images by given draws, as pure functions: the caller decides what is random.

``N`` images, ``C`` channels, ``H W`` pixels, values in [0, 1]. P. Y. Simard, D. Steinkraus, J. C. Platt, Best practices
for convolutional neural networks (2003); A. Krizhevsky et al. (2012). A slightly rotated cat is still a cat, so every
such change is another training example. Random resized crop, rotation, scale and shift are one affine map, so that
pixels are interpolated once. Other changes: `trivial_augment`, `erasing`, `mixup`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.functional.augmentation import erasing, trivial_augment
from layerwise.functional.augmentation.erasing import Fill

Flip = Literal["none", "horizontal", "vertical", "both"]
Padding = Literal["zeros", "border", "reflection"]
Policy = Literal["none", "trivial"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Part = Annotated[float, msgspec.Meta(gt=0, le=1)]
Aspect = Annotated[float, msgspec.Meta(ge=0.01, le=100)]
Alpha = Annotated[float, msgspec.Meta(ge=0, le=100)]
# each change has columns of its own in the draws, so that switching one on leaves the others' draws alone
ROTATE, SCALE, FLIP_X, FLIP_Y, SHIFT_X, SHIFT_Y, BRIGHTNESS, CONTRAST, SATURATION, HUE = range(10)
AREA, ASPECT, LEFT, TOP, POLICY, LEVEL, SIGN, ERASE, ERASE_AREA, ERASE_ASPECT, ERASE_LEFT, ERASE_TOP, NOISE = range(
    10, 23
)
MIXED, KIND, SHARE, BOX_X, BOX_Y = range(23, 28)
FIRST, DRAWS = 10, 28  # the first ten are drawn separately, so that old recipes keep their draws


class AugmentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of a stage's ``augment``: the widest change of each kind; 0 and ``none`` leave it out.

    ``rotate``: degrees, drawn from [−rotate, rotate]. ``scale`` s: factors from [1/(1+s), 1+s], evenly in their
    logarithm. ``crop_padding`` c: the image gets a border of c pixels and is cut back to its size at a random position,
    so that it shifts by up to c. ``flip``: mirrored left to right (``horizontal``), top to bottom (``vertical``) or
    each of both, with probability ½. ``brightness``, ``contrast``, ``saturation`` a: factors from [1 − a, 1 + a];
    ``hue``: turns of the color circle, from [−hue, hue]. ``padding``: what lies outside the image: black, its border's
    colors, or its mirror image.

    ``crop_scale``: a random resized crop (Szegedy et al. 2015): a part of the image, its share of the area drawn from
    this range and its ratio of width to height from ``crop_ratio``, evenly in the logarithm, brought to the image's
    size; (1, 1) leaves it out. ``policy``: ``trivial`` changes each image by one operation of TrivialAugment.
    ``erase_prob``: the probability of random erasing, of a rectangle with a share of the area from ``erase_scale`` and
    a ratio of height to width from ``erase_ratio``, filled with ``erase_fill``. ``mixup``, ``cutmix``: α of the
    Beta(α, α) from which the shares of two mixed images are drawn, 0 for none; with both, each mixes half of the
    images; ``mix_prob``: the probability that an image is mixed at all.
    """

    rotate: Annotated[float, msgspec.Meta(ge=0, le=180)] = 0.0
    scale: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    crop_padding: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    flip: Flip = "none"
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    padding: Padding = "zeros"
    crop_scale: tuple[Part, Part] = (1.0, 1.0)
    crop_ratio: tuple[Aspect, Aspect] = (3 / 4, 4 / 3)
    policy: Policy = "none"
    erase_prob: Share = 0.0
    erase_scale: tuple[Part, Part] = (0.02, 0.4)
    erase_ratio: tuple[Aspect, Aspect] = (0.3, 10 / 3)
    erase_fill: Fill = "noise"
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    mix_prob: Share = 1.0

    @property
    def has_affine(self) -> bool:
        """Whether pixels move other than by a flip and a crop."""
        return bool(self.rotate or self.scale or self.crop_padding)

    @property
    def is_shift_only(self) -> bool:
        """Whether pixels move only by whole pixels."""
        return bool(self.crop_padding) and not (self.rotate or self.scale)

    @property
    def has_random_crop(self) -> bool:
        """Whether random resized crop is on."""
        return self.crop_scale != (1.0, 1.0)

    @property
    def has_mixing(self) -> bool:
        """Whether images are mixed with others of their batch."""
        return bool((self.mixup or self.cutmix) and self.mix_prob)

    @property
    def needs_color(self) -> bool:
        """Whether anything needs three channels."""
        return bool(self.saturation or self.hue)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes in an image by itself."""
        moved = self.has_affine or self.has_random_crop or self.policy != "none" or self.flip != "none"
        return not (moved or self.needs_color or self.brightness or self.contrast or self.erase_prob)


class TransformParams(NamedTuple):
    """The transform of each image. ``angle`` (N,) degrees, clockwise; ``factor`` (N,) of its size; ``shift`` (N, 2)
    whole pixels to the right and down; ``mirrored`` (N, 2) left to right and top to bottom; ``brightness``,
    ``contrast``, ``saturation`` (N,) factors; ``hue`` (N,) turns."""

    angle: Tensor
    factor: Tensor
    shift: Tensor
    mirrored: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor


def compute_params(u: Tensor, options: AugmentOptions) -> TransformParams:
    """Return the parameters that draws u (N, 28) from [0, 1) give under these options."""
    o, even = options, 2 * u - 1  # from [−1, 1)
    sides = (o.flip in ("horizontal", "both"), o.flip in ("vertical", "both"))
    return TransformParams(
        o.rotate * even[:, ROTATE],
        torch.exp(math.log1p(o.scale) * even[:, SCALE]),
        torch.floor(u[:, SHIFT_X : SHIFT_Y + 1] * (2 * o.crop_padding + 1)).clamp_max(2 * o.crop_padding)
        - o.crop_padding,  # a draw may round up to 1
        torch.stack([u[:, column] < 0.5 * side for column, side in zip((FLIP_X, FLIP_Y), sides, strict=True)], 1),
        1 + o.brightness * even[:, BRIGHTNESS],
        1 + o.contrast * even[:, CONTRAST],
        1 + o.saturation * even[:, SATURATION],
        o.hue * even[:, HUE],
    )


def compute_crop_boxes(u: Tensor, options: AugmentOptions, size: tuple[int, int]) -> Tensor:
    """Return the parts of images of ``size`` (H, W) that random resized crops take, (N, 4) int64: left, top, width,
    height.

    Sides are √(a·H·W·r) and √(a·H·W/r), rounded and no longer than the image's, for a share a of its area and a ratio
    r; the position is drawn evenly.
    """
    height, width = size
    (low, high), (narrow, wide) = options.crop_scale, options.crop_ratio
    area = (low + (high - low) * u[:, AREA].double()) * height * width
    ratio = torch.exp(math.log(narrow) + math.log(wide / narrow) * u[:, ASPECT].double())
    w = (area * ratio).sqrt().round().clamp(1, width)
    h = (area / ratio).sqrt().round().clamp(1, height)
    left = torch.floor(u[:, LEFT].double() * (width - w + 1)).minimum(width - w)
    top = torch.floor(u[:, TOP].double() * (height - h + 1)).minimum(height - h)
    return torch.stack([left, top, w, h], 1).long()


def augment(x: Tensor, u: Tensor, options: AugmentOptions) -> Tensor:
    """Return images changed by their draws: cropped, rotated, scaled, shifted and TrivialAugment's moves in one
    interpolation, then mirrored, then TrivialAugment's other operations, then in their colors, then with a rectangle
    erased.

    Args:
        x: images (N, C, H, W) in [0, 1], or uint8.
        u: draws (N, 28) from [0, 1), column by column those named above, on the images' device.
        options: how far each change goes.

    Returns images in [0, 1], of the draws' type if they were uint8. The result of an image depends only on it and its
    own draws, not on the rest of the batch.
    """
    if not len(x) or options.is_identity:
        return to_unit_range(x, u.dtype)
    params, size = compute_params(u, options), (x.shape[2], x.shape[3])
    box = compute_crop_boxes(u, options, size) if options.has_random_crop else None
    operations = trivial_augment.choose_operations(u[:, [POLICY, LEVEL, SIGN]]) if options.policy == "trivial" else None
    if options.is_shift_only and box is None and operations is None:
        x = shift_images(x, params.shift, options.padding)
    elif options.has_affine or operations is not None:
        x = warp_images(to_unit_range(x, u.dtype), params, options, box=box, operations=operations)
    elif box is not None:
        x = crop_images(x, box) if x.device.type == "cpu" else crop_by_sampling(to_unit_range(x, u.dtype), box)
    for axis, column in ((3, 0), (2, 1)):
        if options.flip in ("both", ("horizontal", "vertical")[column]):
            x = flip_images(x, params.mirrored[:, column], axis)
    x = to_unit_range(x, u.dtype)
    if operations is not None:
        x = trivial_augment.apply_color_operations(x, operations)
    x = adjust_colors(x, params, options)
    return erase_rectangles(x, u, options) if options.erase_prob else x


def flip_images(x: Tensor, which: Tensor, axis: int) -> Tensor:
    """Return images (N, C, H, W) of which some, (N,) booleans, are mirrored along an axis."""
    if x.device.type != "cpu":
        return torch.where(which.view(-1, 1, 1, 1), x.flip(axis), x)
    x = x.clone()
    for n in torch.nonzero(which)[:, 0].tolist():  # half of the work of flipping all, and the memory layout stays
        x[n] = x[n].flip(axis - 1)
    return x


def to_unit_range(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images in [0, 1]: uint8 ones divided by 255, others as they are."""
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x


def shift_images(x: Tensor, shift: Tensor, padding: Padding) -> Tensor:
    """Return images (N, C, H, W), bytes too, moved by whole pixels (N, 2) to the right and down: y[i, j] = x[i −
    down, j − right]."""
    rows, row_inside = _source_indices(x.shape[2], shift[:, 1].long(), padding)
    columns, column_inside = _source_indices(x.shape[3], shift[:, 0].long(), padding)
    number = torch.arange(len(x), device=x.device)[:, None, None]
    index = (number * x.shape[2] + rows[:, :, None]) * x.shape[3] + columns[
        :, None, :
    ]  # (N, H, W), in the images one after another
    pixels = (
        x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).index_select(0, index.flatten()).view(*index.shape, x.shape[1])
    )
    if padding == "zeros":
        pixels.mul_((row_inside[:, :, None] & column_inside[:, None, :])[..., None])
    return pixels.permute(0, 3, 1, 2)


def _source_indices(side: int, shift: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    """Return, for each index of a side moved by shifts (N,), its source index and whether that lies inside, both (N,
    side)."""
    at = torch.arange(side, device=shift.device)[None] - shift[:, None]
    inside = (at >= 0) & (at < side)
    if padding == "reflection" and side > 1:  # about the border's middle, again and again
        at = (at % (2 * side - 2) - (side - 1)).abs().neg() + side - 1
    return at.clamp(0, side - 1), inside


def crop_images(x: Tensor, box: Tensor) -> Tensor:
    """Return parts (N, 4) of images (N, C, H, W), each brought to (H, W) bilinearly; for bytes, rounded to whole
    levels.

    One image at a time: on the CPU torch's resizing of bytes is ten times faster than its general sampling of a batch.
    """
    size = (x.shape[2], x.shape[3])
    out = torch.empty_like(x)
    for at, (left, top, width, height) in enumerate(box.tolist()):
        part = x[at : at + 1, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        out[at : at + 1] = F.interpolate(part, size, mode="bilinear", align_corners=False)
    return out


def crop_by_sampling(x: Tensor, box: Tensor) -> Tensor:
    """Return what `crop_images` does for images (N, C, H, W) in [0, 1], all at once, which is faster on other devices
    than the CPU: y[i, j] is x at top + (i + ½)·h/H − ½ and left + (j + ½)·w/W − ½, clamped between the centers of the
    part's first and last pixels."""
    grid = []
    for start, length, side in ((box[:, 0:1], box[:, 2:3], x.shape[3]), (box[:, 1:2], box[:, 3:4], x.shape[2])):
        at = (torch.arange(side, device=x.device, dtype=x.dtype)[None] + 0.5) * length / side - 0.5
        at = start + at.clamp_min(0).minimum((length - 1).to(x.dtype))  # (N, side)
        grid.append(2 * at / max(1, side - 1) - 1)
    across, down = grid
    grid_points = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), 3)  # (N, H, W, 2)
    return F.grid_sample(x, grid_points, mode="bilinear", padding_mode="border", align_corners=True)


def warp_images(
    x: Tensor,
    params: TransformParams,
    options: AugmentOptions,
    *,
    box: Tensor | None = None,
    operations: trivial_augment.Operations | None = None,
) -> Tensor:
    """Return images (N, C, H, W) cropped, rotated and scaled about their middle, shifted by whole pixels, and moved
    as TrivialAugment says, bilinearly.

    The map of positions is p ↦ T(m + t + f·R(θ)(K(p) − m)), with m the middle, K that of the crop and T
    TrivialAugment's. Images whose map is the identity stay as they are.
    """
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine  # a third of a second to import

    height, width = x.shape[2:]
    middle = torch.stack([x.new_full((len(x),), (side - 1) / 2) for side in (width, height)], 1)
    matrix = get_affine_matrix2d(params.shift, middle, params.factor[:, None].expand(-1, 2), params.angle)  # (N, 3, 3)
    if box is not None:
        matrix = matrix @ crop_matrices(box, (height, width)).to(matrix)
    at = torch.arange(len(x), device=x.device)
    if operations is not None:
        matrix = trivial_augment.affine_matrices(operations, (height, width)).to(matrix) @ matrix
        if not options.has_affine:
            at = torch.nonzero((matrix - torch.eye(3).to(matrix)).abs().amax((1, 2)) > 1e-6)[:, 0]
    if not len(at):
        return x
    warped = warp_affine(
        x[at], matrix[at, :2], (height, width), mode="bilinear", padding_mode=options.padding, align_corners=True
    )
    return warped if len(at) == len(x) else x.index_copy(0, at, warped)


def crop_matrices(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the affine maps (N, 3, 3) that bring the parts (N, 4) of images to ``size``: x ↦ (x + ½ − left)·W/w −
    ½ for pixels' middles, and so for y."""
    full = torch.tensor([size[1], size[0]], device=box.device).double()
    factor = full / box[:, 2:]  # (N, 2)
    matrix = torch.diag_embed(torch.cat([factor, torch.ones_like(factor[:, :1])], 1))
    matrix[:, :2, 2] = (0.5 - box[:, :2]) * factor - 0.5
    return matrix


def erase_rectangles(x: Tensor, u: Tensor, options: AugmentOptions) -> Tensor:
    """Return images (N, C, H, W) in which those selected by their draw lose a rectangle (`erasing`)."""
    columns = u[:, [ERASE_AREA, ERASE_ASPECT, ERASE_LEFT, ERASE_TOP]]
    box = erasing.draw_rectangles(columns, options.erase_scale, options.erase_ratio, (x.shape[2], x.shape[3]))
    at = torch.nonzero(u[:, ERASE] < options.erase_prob)[:, 0]
    return erasing.erase(x, box, at, options.erase_fill, u[:, NOISE])


def adjust_colors(x: Tensor, params: TransformParams, options: AugmentOptions) -> Tensor:
    """Return images (N, C, H, W) with other brightness, contrast, saturation and hue, in this order, kept within [0,
    1]."""
    from kornia import enhance

    if options.brightness:
        x = enhance.adjust_brightness_accumulative(x, params.brightness)
    if options.contrast:
        x = enhance.adjust_contrast_with_mean_subtraction(x, params.contrast)
    if options.saturation:
        x = enhance.adjust_saturation_with_gray_subtraction(x, params.saturation)
    if options.hue:
        x = enhance.adjust_hue(x, 2 * math.pi * params.hue)
    return x

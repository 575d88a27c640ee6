"""S10: rotation, scale, shift, flips and colors against SciPy, NumPy and Pillow, one image at a time."""

from __future__ import annotations

import colorsys
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy import ndimage
from torch import Tensor

from layerwise.functional.augmentation import transforms as aug
from layerwise.functional.augmentation.transforms import AugmentOptions, augment, compute_params

MODES = {"zeros": "constant", "border": "nearest", "reflection": "mirror"}


def images(count: int = 6, channels: int = 3, height: int = 9, width: int = 12) -> Tensor:
    return torch.rand(count, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def drawn(count: int = 6) -> Tensor:
    return torch.rand(count, aug.DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def warped(
    image: NDArray[np.float64], angle: float, factor: float, shift: tuple[float, float], mode: str
) -> NDArray[np.float64]:
    """Return a plane (H, W) turned clockwise about its middle, scaled and shifted to the right and down, by SciPy."""
    a = np.deg2rad(angle)
    # rows grow downwards: in (row, column) a clockwise turn is this matrix
    forward = factor * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    back, middle = np.linalg.inv(forward), (np.array(image.shape) - 1) / 2
    offset = middle - back @ (middle + np.array([shift[1], shift[0]]))
    # a black border of our own, for SciPy's cuts off between the last pixel and what lies outside
    border = 40
    padded = np.pad(image, border, mode={"constant": "constant", "nearest": "edge", "mirror": "reflect"}[mode])  # type: ignore[call-overload]
    at = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij")).reshape(2, -1)
    source = back @ at + offset[:, None] + border
    return ndimage.map_coordinates(padded, source, order=1).reshape(image.shape)


@pytest.mark.parametrize("padding", MODES)
def test_moves_are_scipys(padding: str) -> None:
    x, u = images(), drawn()
    options = msgspec.convert({"rotate": 25, "scale": 0.2, "crop_padding": 2, "padding": padding}, AugmentOptions)
    found, change = augment(x, u, options), compute_params(u, options)
    for n in range(len(x)):
        right, down = change.shift[n].tolist()
        for plane, got in zip(x[n].numpy(), found[n].numpy(), strict=True):
            want = warped(plane, float(change.angle[n]), float(change.factor[n]), (right, down), MODES[padding])
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("crop", [3, 40])  # within the image, and several times as far as it reaches
@pytest.mark.parametrize("padding", MODES)
def test_a_crop_alone_shifts_whole_pixels(padding: Any, crop: int) -> None:
    """Exactly, and images of bytes stay whole levels."""
    x, u = (images(20) * 255).round().byte(), drawn(20)
    options = AugmentOptions(crop_padding=crop, padding=padding)
    found = augment(x, u, options)
    mode: Any = {"zeros": "constant", "border": "edge", "reflection": "reflect"}[padding]
    for n, (right, down) in enumerate(compute_params(u, options).shift.long().tolist()):
        wide = np.pad(x[n].numpy(), ((0, 0), (crop, crop), (crop, crop)), mode=mode)
        part = wide[:, crop - down : crop - down + 9, crop - right : crop - right + 12]
        assert np.array_equal((found[n] * 255).round().byte().numpy(), part)
        assert np.array_equal(augment(x.double() / 255, u, options)[n].numpy(), part / 255.0)


@pytest.mark.parametrize(("flip", "axes"), [("horizontal", (2,)), ("vertical", (1,)), ("both", (2, 1))])
def test_flips_mirror_about_half_of_the_images(flip: Any, axes: tuple[int, ...]) -> None:
    x, u = images(200, 1, 3, 4), drawn(200)
    found = augment(x, u, AugmentOptions(flip=flip))
    for n in range(200):
        want = x[n].numpy()
        for axis in axes:
            if u[n, aug.FLIP_X if axis == 2 else aug.FLIP_Y] < 0.5:
                want = np.flip(want, axis)
        assert np.array_equal(found[n].numpy(), want)
    same = float((found == x).flatten(1).all(1).double().mean())
    assert abs(same - 0.5 ** len(axes)) < 0.12


@pytest.mark.parametrize(
    ("key", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("saturation", ImageEnhance.Color), ("contrast", ImageEnhance.Contrast)],
)
def test_colors_are_pillows(key: str, enhancer: Any) -> None:
    """To within Pillow's rounding to whole levels."""
    x, u = (images() * 255).round() / 255, drawn()
    options = msgspec.convert({key: 0.6}, AugmentOptions)
    found, factors = augment(x, u, options), getattr(compute_params(u, options), key)
    for n in range(len(x)):
        image = Image.fromarray((x[n].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        want = np.asarray(enhancer(image).enhance(float(factors[n])), dtype=np.float64) / 255
        np.testing.assert_allclose(found[n].permute(1, 2, 0).numpy(), want, rtol=0, atol=2.5 / 255)


def test_hue_turns_the_color_circle() -> None:
    x, u = images(3, 3, 2, 2), drawn(3)
    options = AugmentOptions(hue=0.3)
    found = augment(x, u, options).permute(0, 2, 3, 1).reshape(-1, 3)
    turns = compute_params(u, options).hue.repeat_interleave(4).tolist()
    for (r, g, b), got, turn in zip(x.permute(0, 2, 3, 1).reshape(-1, 3).tolist(), found.tolist(), turns, strict=True):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        assert got == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=1e-5)


ALL = AugmentOptions(
    rotate=20, scale=0.2, crop_padding=2, flip="both", brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1
)


def test_a_images_change_does_not_depend_on_its_batch() -> None:
    x, u = images(12).float(), drawn(12).float()
    whole = augment(x, u, ALL)
    assert torch.equal(torch.cat([augment(x[at : at + 5], u[at : at + 5], ALL) for at in range(0, 12, 5)]), whole)
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert augment(x[:0], u[:0], ALL).shape == (0, 3, 9, 12)


def test_draws_lie_within_what_was_asked_and_use_it_all() -> None:
    u = torch.rand(20_000, aug.DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = compute_params(u, ALL)
    for value, low, high in (
        (found.angle, -20, 20),
        (found.factor, 1 / 1.2, 1.2),
        (found.shift, -2, 2),
        (found.brightness, 0.7, 1.3),
        (found.hue, -0.1, 0.1),
    ):
        assert low <= float(value.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(value.max()) <= high
    shares = [float((found.shift[:, 0] == s).double().mean()) for s in range(-2, 3)]
    assert max(abs(share - 0.2) for share in shares) < 0.02
    assert abs(float(found.factor.log().mean())) < 0.01
    top = torch.full((1, aug.DRAWS), 1.0)  # a draw in float32 may round up to 1
    assert compute_params(top, ALL).shift.tolist() == [[2, 2]]


def test_one_more_change_leaves_the_others_draws_alone() -> None:
    u = drawn()
    alone, together = compute_params(u, AugmentOptions(rotate=20)), compute_params(u, ALL)
    assert torch.equal(alone.angle, together.angle)
    assert not alone.mirrored.any()
    assert AugmentOptions(padding="border").is_identity
    assert augment(images(), u, AugmentOptions()).equal(images())


@pytest.mark.parametrize(
    "table",
    [{"rotate": 181}, {"crop_padding": -1}, {"flip": "sideways"}, {"hue": 0.6}, {"scale": -0.1}, {"padding": "gray"}],
)
def test_values_out_of_range_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, AugmentOptions)

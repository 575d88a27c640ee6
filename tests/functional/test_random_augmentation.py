"""Random resized crop, TrivialAugment, random erasing, MixUp and CutMix against Pillow, NumPy loops and closed
forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from layerwise.functional.augmentation import erasing, mixup, trivial_augment
from layerwise.functional.augmentation import transforms as aug
from layerwise.functional.augmentation.transforms import AugmentOptions, augment, compute_crop_boxes
from layerwise.functional.augmentation.trivial_augment import OPERATIONS, Operations


def images(count: int, channels: int = 3, height: int = 40, width: int = 48) -> Tensor:
    """Smooth images in whole levels, (N, C, H, W) float64."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 6, 7, dtype=torch.float64, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


def drawn(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, aug.DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loops(image: NDArray[np.float64], box: list[int]) -> NDArray[np.float64]:
    """Return a part of a plane (H, W) brought to its size, one pixel at a time."""
    left, top, width, height = box
    part, out = image[top : top + height, left : left + width], np.empty_like(image)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            v = min(max((y + 0.5) * height / out.shape[0] - 0.5, 0), height - 1)
            h = min(max((x + 0.5) * width / out.shape[1] - 0.5, 0), width - 1)
            i, j = int(v), int(h)
            k, m = min(i + 1, height - 1), min(j + 1, width - 1)
            above = part[i, j] * (1 - h + j) + part[i, m] * (h - j)
            below = part[k, j] * (1 - h + j) + part[k, m] * (h - j)
            out[y, x] = above * (1 - v + i) + below * (v - i)
    return out


CROP = AugmentOptions(crop_scale=(0.1, 0.6))


def test_a_random_resized_crop_is_a_part_interpolated() -> None:
    x, u = images(5, height=20, width=24), drawn(5)
    found, bytes_ = augment(x, u, CROP), augment((x * 255).round().byte(), u, CROP)
    for n, box in enumerate(compute_crop_boxes(u, CROP, (20, 24)).tolist()):
        for c in range(3):
            want = loops(x[n, c].numpy(), box)
            np.testing.assert_allclose(found[n, c].numpy(), want, atol=1e-9)
            np.testing.assert_allclose(
                aug.crop_by_sampling(x, compute_crop_boxes(u, CROP, (20, 24)))[n, c].numpy(), want, atol=1e-9
            )
            np.testing.assert_allclose(
                bytes_[n, c].numpy(), want, atol=0.51 / 255 + 1 / 255
            )  # torch's bytes: rounded twice


def test_with_other_moves_the_crop_is_part_of_the_same_map() -> None:
    """Beside a shift of no pixel it goes the other way; the same but where the image's parts beyond the crop come in,
    at its border."""
    x, u = images(8), drawn(8)
    whole = aug.compute_params(u, CROP)
    box = compute_crop_boxes(u, CROP, (40, 48))
    found, want = aug.warp_images(x, whole, CROP, box=box), aug.crop_images(x, box)
    edge = (torch.tensor([40, 48]).max() / box[:, 2:].min()).ceil().long()  # how many pixels one of the image's becomes
    torch.testing.assert_close(
        found[:, :, edge:-edge, edge:-edge], want[:, :, edge:-edge, edge:-edge], rtol=0, atol=1e-9
    )


def test_crops_use_the_range_and_stay_inside() -> None:
    u = drawn(20_000)
    box = compute_crop_boxes(u, CROP, (224, 300)).double()
    assert bool((box[:, :2] >= 0).all())
    assert bool((box[:, 0] + box[:, 2] <= 300).all() and (box[:, 1] + box[:, 3] <= 224).all())
    area, ratio = box[:, 2] * box[:, 3] / (224 * 300), box[:, 2] / box[:, 3]
    assert 0.098 < float(area.min()) < 0.105
    assert 0.59 < float(area.max()) < 0.605
    assert float(area.mean()) == pytest.approx(0.35, abs=0.005)
    assert float(ratio.min()) == pytest.approx(0.75, abs=0.02)
    assert float(ratio.max()) == pytest.approx(4 / 3, abs=0.03)
    places = box[:, 0] / (300 - box[:, 2]).clamp_min(1)
    assert float(places.mean()) == pytest.approx(0.5, abs=0.01)


def original(image: Image.Image, name: str, value: float) -> Image.Image:
    """Return what the operation of the paper's code (Pillow) makes of an image."""
    size, affine, bilinear = image.size, Image.Transform.AFFINE, Image.Resampling.BILINEAR
    matrices = {
        "shear-x": (1, value, 0, 0, 1, 0), "shear-y": (1, 0, 0, value, 1, 0), "translate-x": (1, 0, value, 0, 1, 0),
        "translate-y": (1, 0, 0, 0, 1, value),
    }  # fmt: skip
    enhancers: dict[str, Any] = {
        "brightness": ImageEnhance.Brightness,
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in matrices:
        return image.transform(size, affine, matrices[name], resample=bilinear)
    if name == "rotate":
        return image.rotate(value, resample=bilinear)
    if name in enhancers:
        return enhancers[name](image).enhance(1 + value)  # type: ignore[no-any-return]
    if name == "posterize":
        return ImageOps.posterize(image, int(value))
    if name == "solarize":
        return ImageOps.solarize(image, int(value * 255 + 0.5))
    return {"identity": lambda p: p, "auto-contrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}[name](image)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name: str) -> None:
    count, levels = 6, [0, 6, 12, 18, 24, 30]
    x = images(count)
    x[0], x[1] = x[0] * 0.5, 0.25 + x[1] * 0.25
    x = (x * 255).round() / 255
    chosen = Operations(
        torch.full((count,), OPERATIONS.index(name)),
        torch.tensor(levels).double() / 30,
        torch.tensor([1.0, -1, 1, -1, 1, -1]).double(),
    )
    change = aug.compute_params(drawn(count), AugmentOptions())
    moved = aug.warp_images(x, change, AugmentOptions(), operations=chosen) if name in trivial_augment.MOVES else x
    found = trivial_augment.apply_color_operations(moved, chosen)
    value = trivial_augment.compute_magnitudes(chosen).tolist()
    for n in range(count):
        image = Image.fromarray((x[n].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        want = np.asarray(original(image, name, value[n]), dtype=np.float64) / 255
        got = found[n].permute(1, 2, 0).numpy()
        if name in trivial_augment.MOVES:  # Pillow's blends with black at the border end a pixel sooner
            inner = np.asarray(original(Image.new("L", image.size, 255), name, value[n])) == 255
            wide = np.pad(inner, 1)
            inner = wide[2:, 1:-1] & wide[:-2, 1:-1] & wide[1:-1, 2:] & wide[1:-1, :-2]
            got, want = got[inner], want[inner]
            assert len(got) > 20 or abs(value[n]) > 30
        np.testing.assert_allclose(got, want, rtol=0, atol=2.01 / 255, err_msg=f"{name} {value[n]}")


def test_operations_are_drawn_evenly() -> None:
    chosen = trivial_augment.choose_operations(drawn(28_000)[:, :3])
    counts = torch.bincount(chosen.operation, minlength=14)
    assert len(counts) == 14
    assert float((counts / 2000 - 1).abs().max()) < 0.1
    assert sorted({round(30 * s) for s in chosen.strength.tolist()}) == list(range(31))
    assert float(chosen.sign.mean()) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("fill", ["noise", "black", "mean"])
def test_erasing_overwrites_one_rectangle(fill: Any) -> None:
    x, u = images(200, height=12, width=16), drawn(200)
    options = AugmentOptions(erase_prob=0.4, erase_fill=fill, erase_scale=(0.1, 0.3))
    found = augment(x, u, options)
    hit = [n for n in range(200) if u[n, aug.ERASE] < 0.4]
    for n in range(200):
        changed = np.argwhere((found[n] != x[n]).any(0).numpy())
        if n not in hit:
            assert not len(changed)
            continue
        (top, left), (bottom, right) = changed.min(0), changed.max(0)
        height, width = bottom - top + 1, right - left + 1
        assert 0.1 * 192 * 0.7 < height * width < 0.3 * 192 * 1.4
        box = found[n, :, top : bottom + 1, left : right + 1]
        want = {"black": torch.zeros(3), "mean": x[n].mean((1, 2))}.get(fill)
        if want is not None:
            torch.testing.assert_close(box, want.double().view(3, 1, 1).expand_as(box))
        else:
            assert len(changed) == height * width
    if fill == "noise":
        values = torch.cat([found[n][found[n] != x[n]] for n in hit])
        assert float(values.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(values.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.02)
        assert len(values.unique()) > 0.99 * len(values)


def test_rectangles_have_the_ratios_asked_for() -> None:
    box = erasing.draw_rectangles(drawn(5000)[:, :4], (0.02, 0.2), (0.5, 2.0), (200, 200)).double()
    ratio = box[:, 3] / box[:, 2]
    assert float(ratio.min()) == pytest.approx(0.5, abs=0.03)
    assert float(ratio.max()) == pytest.approx(2.0, abs=0.1)
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.03)


def test_neighbors_are_mixed() -> None:
    assert mixup.find_partners(6).tolist() == [1, 0, 3, 2, 5, 4]
    assert mixup.find_partners(5).tolist() == [1, 0, 3, 2, 4]
    assert mixup.find_partners(0).tolist() == []


def test_shares_are_betas() -> None:
    from scipy import stats

    u = drawn(4000)[:, 0]
    for alpha in (0.2, 1.0):
        assert stats.kstest(mixup.beta_quantiles(u, alpha).numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixup_and_cutmix_pixel_by_pixel() -> None:
    x, u = images(7, height=9, width=11), drawn(7)
    share = torch.tensor([0.3, 1.0, 0.9, 0.5, 0.5, 0.7, 0.2]).double()
    cuts = torch.tensor([False, False, True, True, False, True, False])
    box = mixup.draw_cutmix_boxes(u[:, :2], share, (9, 11))
    found, kept = mixup.mix_images(x, share, box, cuts)
    other = [1, 0, 3, 2, 5, 4, 6]
    for n in range(7):
        left, top, width, height = box[n].tolist()
        for row in range(9):
            for column in range(11):
                own, others = x[n, :, row, column], x[other[n], :, row, column]
                want = share[n] * own + (1 - share[n]) * others
                if cuts[n]:
                    want = others if top <= row < top + height and left <= column < left + width else own
                torch.testing.assert_close(found[n, :, row, column], want)
        left_over = 1 - width * height / 99
        assert float(kept[n]) == pytest.approx(left_over if cuts[n] else float(share[n]))


def test_a_pasted_rectangle_has_its_share_unless_it_is_cut_off() -> None:
    u = torch.full((3, 2), 0.5, dtype=torch.float64)
    box = mixup.draw_cutmix_boxes(u, torch.tensor([0.75, 0.0, 1.0]), (100, 200))
    assert box.tolist() == [[50, 25, 100, 50], [0, 0, 200, 100], [100, 50, 0, 0]]
    corner = mixup.draw_cutmix_boxes(torch.zeros(1, 2), torch.tensor([0.75]), (100, 200))
    assert corner.tolist() == [[0, 0, 50, 25]]


EVERYTHING = AugmentOptions(crop_scale=(0.2, 1.0), flip="horizontal", policy="trivial", erase_prob=0.5, brightness=0.2)


@pytest.mark.parametrize("options", [EVERYTHING, CROP])
def test_a_images_changes_do_not_depend_on_its_batch(options: AugmentOptions) -> None:
    x, u = (images(16) * 255).round().byte(), drawn(16).float()
    whole = augment(x, u, options)
    assert whole.dtype == torch.float32
    assert torch.equal(torch.cat([augment(x[at : at + 3], u[at : at + 3], options) for at in range(0, 16, 3)]), whole)
    assert whole.min() >= 0
    assert whole.max() <= 1

"""E16 against following every pixel through sets of indices, one layer after the other."""

from __future__ import annotations

import random

import pytest

from layerwise.functional.receptive_field import Field, Window, add_layer, merge_fields, span_units, stack_layers


def seen(windows: list[Window], unit: int) -> set[int]:
    """The oracle: the pixels that a unit of the last map sees, by walking back from it index by index."""
    found = {unit}
    for k, s, p, d in reversed(windows):
        found = {s * i + d * m - p for i in found for m in range(k)}
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_field_is_the_span_of_the_pixels_seen(seed: int) -> None:
    rng = random.Random(seed)
    windows = [
        Window(rng.randint(1, 5), rng.randint(1, 3), rng.randint(0, 2), rng.randint(1, 3))
        for _ in range(rng.randint(1, 5))
    ]
    fields = stack_layers(windows)
    assert len(fields) == len(windows)
    for depth, field in enumerate(fields, start=1):
        for unit in (0, 1, 7):
            pixels = seen(windows[:depth], unit)
            assert field.at(unit) == (min(pixels), max(pixels))
            assert field.size == max(pixels) - min(pixels) + 1


def test_the_recursion_of_the_formula() -> None:
    """rₗ = rₗ₋₁ + (kₗ−1)·dₗ·Πᵢ<ₗ sᵢ, literally."""
    windows = [Window(5, 1, 2), Window(2, 2), Window(3, 2, 1, 2), Window(3)]
    r, product = 1, 1
    for field, window in zip(stack_layers(windows), windows, strict=True):
        r += (window.kernel - 1) * window.dilation * product
        product *= window.stride
        assert (field.size, field.jump) == (r, product)


def test_published_fields() -> None:
    """Araujo et al. 2019, table 1: VGG-16's last pooling sees 212 pixels 32 apart; AlexNet's last one 195, 32 apart."""
    conv, pool = Window(3, 1, 1), Window(2, 2)
    vgg16 = [conv, conv, pool, conv, conv, pool, *([conv] * 3 + [pool]) * 3]
    assert (stack_layers(vgg16)[-1].size, stack_layers(vgg16)[-1].jump) == (212, 32)
    alexnet = [Window(11, 4), Window(3, 2), Window(5, 1, 2), Window(3, 2), conv, conv, conv, Window(3, 2)]
    assert (stack_layers(alexnet)[-1].size, stack_layers(alexnet)[-1].jump) == (195, 32)


def test_starts_and_borders() -> None:
    same = add_layer(Field(), Window(3, padding=1))
    assert (same.start, same.first, same.last) == (0.0, -1, 1)
    assert add_layer(Field(), Window(2, 2)).start == 0.5
    assert same.at(0, side=28) == (0, 1)
    assert same.at(27, side=28) == (26, 27)


def test_branches_and_dense_layers() -> None:
    block = add_layer(add_layer(Field(jump=2), Window(3, 1, 1)), Window(3, 1, 1))
    assert merge_fields(block, Field(jump=2)) == Field(-4, 4, 2)
    assert span_units(Field(-2, 3, 4), 5) == Field(-2, 19, 0)
    with pytest.raises(ValueError, match="1 and 2 pixels apart"):
        merge_fields(Field(), Field(jump=2))

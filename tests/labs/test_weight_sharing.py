"""C13: fewer weights, yes; robust only in part. Without sharing, the part that holds falls too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layerwise.labs import base
from layerwise.labs import weight_sharing as lab
from layerwise.labs.training import load_batches

SMALL = lab.Plan("digits", 200, 2, 1, 1)


def test_without_sharing_the_weights_are_not_few() -> None:
    """The sabotage: filters of its own at each place. The check that holds with sharing does not."""
    shared, unshared = (lab.measure("quick", shared=kind, plan=SMALL) for kind in ("convolution", "local"))
    assert shared.checks[0].passed
    assert not unshared.checks[0].passed
    assert not base.is_held(unshared)


def test_against_itself_nothing_is_gained() -> None:
    findings = lab.measure("quick", shared="dense", plan=SMALL)
    assert set(findings.margins) == {0}
    assert not base.is_held(findings)


@pytest.mark.parametrize(
    ("kind", "weights"), [("convolution", 8 * (9 + 1)), ("local", 144 * 8 * (9 + 1)), ("dense", 144 * 8 * (144 + 1))]
)
def test_weights_are_those_of_the_formula(kind: str, weights: int) -> None:
    x = torch.rand(2, 1, 12, 12)
    net = lab.build_network(kind, x, 10, 0)
    assert lab.count_first_layer_weights(net) == weights
    assert net(x).shape == (2, 10)


def test_a_local_layer_with_equal_filters_is_the_convolution() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    local = lab.LocalConv2d(conv, (5, 6))
    with torch.no_grad():
        local.weight.copy_(conv.weight.flatten(1).expand(30, 4, 27))
        local.bias.copy_(conv.bias[:, None].expand(4, 30))  # type: ignore[index]
    x = torch.rand(2, 3, 5, 6)
    assert torch.allclose(local(x), conv(x), atol=1e-6)


def test_a_convolution_carries_a_shift_on_and_a_local_layer_does_not() -> None:
    x = F.pad(torch.rand(1, 1, 4, 4), (4, 4, 4, 4))
    conv = nn.Conv2d(1, 2, 3, padding=1)
    local = lab.LocalConv2d(conv, (12, 12))
    for layer, equal in ((conv, True), (local, False)):
        there = layer(x.roll((1, 2), (2, 3)))
        assert torch.allclose(there[..., 1:, 2:], layer(x)[..., :-1, :-2], atol=1e-6) is equal


def test_moving_is_exact_for_whole_pixels_and_keeps_the_middle_when_zooming() -> None:
    batch = lab.add_border(load_batches("digits", seed=0)).test
    x = batch.inputs
    right = lab.move_images(batch, right=1).inputs
    assert torch.allclose(right, x.roll(1, 3), atol=1e-5)  # the border is background
    assert torch.allclose(lab.move_images(batch, down=-2).inputs, x.roll(-2, 2), atol=1e-5)
    assert torch.allclose(lab.move_images(batch).inputs, x, atol=1e-5)
    ink = x - x.min()
    small = lab.move_images(batch, zoom=0.5).inputs - x.min()
    assert float(small.sum() / ink.sum()) == pytest.approx(0.25, abs=0.03)  # the area
    flipped = lab.move_images(lab.replace(batch, inputs=x.flip(3)), zoom=0.8).inputs.flip(3)
    assert torch.allclose(flipped, lab.move_images(batch, zoom=0.8).inputs, atol=1e-4)

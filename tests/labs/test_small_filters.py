"""C23: the race is fair by count, and nobody wins against itself."""

from __future__ import annotations

import torch
from torch import nn

from layerwise.inspection.views.summary import summarize_layers
from layerwise.labs import base
from layerwise.labs import small_filters as lab

SMALL = lab.Plan("digits", 100, 3, 1, (0.003,))
SHAPE = (1, 8, 8)


def test_multiply_adds_are_those_of_the_summary() -> None:
    for side in (3, 7):
        net = lab.build_network(side, (4, 6), channels=1, classes=10, seed=0)
        counted = sum(row.multiply_adds for row in summarize_layers(net, SHAPE) if row.type == "Conv2d")
        assert counted == lab.count_multiply_adds(side, (4, 6), SHAPE)
    # by hand: a stage of 7×7 from 1 map to 4 on 64 places, and from 4 to 6 on 16
    assert lab.count_multiply_adds(7, (4, 6), SHAPE) == 64 * 49 * 4 + 16 * 49 * 24


def test_widths_make_the_cost_equal_and_fields_are_seven_and_twenty() -> None:
    for shape in (SHAPE, (1, 28, 28), (3, 32, 32)):
        widths = lab.find_equal_widths(7, shape)
        assert abs(lab.count_multiply_adds(7, widths, shape) / lab.count_multiply_adds(3, lab.WIDTHS, shape) - 1) < 0.05
    assert lab.find_equal_widths(3, SHAPE) == lab.WIDTHS
    for side in (3, 7):  # 7 pixels; behind the pooling 8, and six more places of two pixels each
        assert lab.compute_field_sides(lab.build_network(side, (2, 2), channels=1, classes=2, seed=0), SHAPE) == [
            7,
            8 + 6 * 2,
        ]


def test_the_same_filters_in_both_parts_do_not_win() -> None:
    findings = lab.measure("quick", kinds={"small": 7, "large": 7}, plan=SMALL)
    assert findings.margins == (0.0, 0.0, 0.0)
    assert not base.is_held(findings)


def test_exchanged_parts_turn_the_margin_and_unequal_cost_is_seen() -> None:
    findings = lab.measure("quick", kinds={"small": 7, "large": 3}, plan=SMALL)
    turned = lab.measure("quick", kinds={"small": 3, "large": 7}, plan=SMALL)
    assert findings.margins == tuple(-m for m in turned.margins)
    costs = {"small": 100, "large": 150}
    net = lab.build_network(3, (2, 2), channels=1, classes=2, seed=0)
    assert [check.passed for check in lab._build_checks({"small": net, "large": net}, costs, SHAPE)] == [False, True]


def test_filters_have_hes_weights() -> None:
    net = lab.build_network(7, (16, 64), channels=16, classes=10, seed=0)
    assert isinstance(net[3], nn.Conv2d)
    torch.testing.assert_close(float(net[3].weight.detach().std()), (2 / (64 * 49)) ** 0.5, rtol=0.02, atol=0)

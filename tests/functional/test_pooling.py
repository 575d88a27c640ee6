"""E15 against loops in float64, and torch's kernels against E15."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import pytest
import torch
from torch import Tensor, nn

from layerwise.functional.convolution import max_pool, mean_pool
from layerwise.models.convolutional import make_pool

FORMS = [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1)]


def by_loops(x: Tensor, size: int, stride: int, padding: int, *, largest: bool) -> Tensor:
    """Every window's values gathered one by one; a border of −∞ for the largest and of zeros for the mean."""
    count, channels, height, width = x.shape
    sides = [(side + 2 * padding - size) // stride + 1 for side in (height, width)]
    y = torch.zeros(count, channels, *sides, dtype=torch.float64)
    for n, c, i, j in itertools.product(range(count), range(channels), *map(range, sides)):
        values = []
        for m, q in itertools.product(range(size), repeat=2):
            row, column = stride * i + m - padding, stride * j + q - padding
            inside = 0 <= row < height and 0 <= column < width
            values.append(float(x[n, c, row, column]) if inside else -math.inf if largest else 0.0)
        y[n, c, i, j] = max(values) if largest else fmean(values)
    return y


@pytest.mark.parametrize(("size", "stride", "padding"), FORMS)
def test_the_formulas_and_torchs_kernels_are_the_loops(size: int, stride: int, padding: int) -> None:
    x = torch.randn(2, 2, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for ours, theirs, largest in ((max_pool, nn.MaxPool2d, True), (mean_pool, nn.AvgPool2d, False)):
        want = by_loops(x, size, stride, padding, largest=largest)
        torch.testing.assert_close(ours(x, size, stride=stride, padding=padding), want, rtol=1e-13, atol=0)
        torch.testing.assert_close(theirs(size, stride, padding)(x), want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("kind", "formula"), [("max", max_pool), ("average", mean_pool)])
def test_the_catalogs_networks_pool_by_the_formula(kind: str, formula: object) -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(make_pool(kind)(x), formula(x, 2))  # type: ignore[arg-type, operator]

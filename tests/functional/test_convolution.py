"""E14 against loops over every index in float64, and torch's kernel against E14."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from layerwise.functional.convolution import cross_correlation, output_size
from layerwise.models.convolutional import cnn

FORMS = [
    {"stride": 1, "padding": 0, "dilation": 1},
    {"stride": 2, "padding": 1, "dilation": 1},
    {"stride": 1, "padding": 2, "dilation": 2},
    {"stride": 3, "padding": 0, "dilation": 2},
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(x: Tensor, w: Tensor, b: Tensor, *, stride: int, padding: int, dilation: int) -> Tensor:
    """y[n,k,i,j] = Σ_c Σₘₙ x[s·i + d·m − p, …] w[k,c,m,n] + b[k], one multiplication after the other; 0 beyond the
    border."""
    (count, channels, height, width), (filters, _, rows, columns) = x.shape, w.shape
    sides = [
        len(range(0, side + 2 * padding - dilation * (k - 1), stride)) for side, k in ((height, rows), (width, columns))
    ]
    y = torch.zeros(count, filters, *sides, dtype=torch.float64)
    for n, k, i, j in itertools.product(range(count), range(filters), range(sides[0]), range(sides[1])):
        total = float(b[k])
        for c, m, q in itertools.product(range(channels), range(rows), range(columns)):
            row, column = stride * i + dilation * m - padding, stride * j + dilation * q - padding
            if 0 <= row < height and 0 <= column < width:
                total += float(x[n, c, row, column]) * float(w[k, c, m, q])
        y[n, k, i, j] = total
    return y


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_formula_and_torchs_kernel_are_the_loops(form: dict[str, int]) -> None:
    x, w, b = drawn(2, 2, 8, 7), drawn(3, 2, 3, 2, seed=1), drawn(3, seed=2)
    want = by_loops(x, w, b, **form)
    torch.testing.assert_close(cross_correlation(x, w, bias=b, **form), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.conv2d(x, w, b, **form), want, rtol=1e-12, atol=1e-12)
    assert output_size(8, 3, **form) == want.shape[2]


def test_the_plain_form_of_one_channel() -> None:
    x = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
    w = torch.tensor([[1.0, 0.0], [0.0, -2.0]], dtype=torch.float64).view(1, 1, 2, 2)
    # by hand: x[i,j] − 2 x[i+1,j+1]
    assert cross_correlation(x, w)[0, 0].tolist() == [[0 - 8, 1 - 10], [3 - 14, 4 - 16]]


def test_the_catalogs_networks_convolve_by_the_formula() -> None:
    torch.manual_seed(0)
    model = cnn(outputs=3, channels=2, size=(8, 8), widths=(4, 5), kernel=5).double()
    x = drawn(2, 2, 8, 8)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        assert layer.bias is not None
        torch.testing.assert_close(layer(x), cross_correlation(x, layer.weight, bias=layer.bias, padding=2))
        x = torch.relu(layer(x))


def test_its_gradient_is_that_of_torchs_kernel() -> None:
    x, w = drawn(1, 2, 6, 6).requires_grad_(), drawn(2, 2, 3, 3, seed=1).requires_grad_()
    ours = torch.autograd.grad(cross_correlation(x, w, stride=2, padding=1).square().sum(), [x, w])
    theirs = torch.autograd.grad(torch.conv2d(x, w, stride=2, padding=1).square().sum(), [x, w])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)

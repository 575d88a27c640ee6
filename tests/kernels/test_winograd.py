"""Convolution by tiles: the identity behind it, its results and gradients against float64, whoever computes which tile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.kernels import team, winograd
from layerwise.kernels.tiles import POINTS, A, B, G, matrices


@contextmanager
def threads(count: int) -> Iterator[None]:
    old = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(old)


def test_the_matrices_make_a_correlation_with_six_products() -> None:
    draw = np.random.default_rng(0)
    signal, taps = draw.standard_normal(6), draw.standard_normal(3)
    wanted = [sum(signal[place + k] * taps[k] for k in range(3)) for place in range(4)]
    np.testing.assert_allclose(A.T @ ((G @ taps) * (B.T @ signal)), wanted, rtol=1e-12)


def largest_error(points: tuple[float, ...]) -> float:
    """Return the largest error of a tile over 128 maps, all in float32, beside float64, as a part of the largest output."""
    a, g, b = matrices(points)
    draw = np.random.default_rng(0)
    tiles, taps = draw.standard_normal((100, 128, 6, 6)).clip(0), draw.standard_normal((16, 128, 3, 3)) / 24
    tiles, taps = tiles.astype(np.float32), taps.astype(np.float32)
    exact = torch.conv2d(torch.from_numpy(tiles).double(), torch.from_numpy(taps).double()).numpy()
    a, g, b = (matrix.astype(np.float32) for matrix in (a, g, b))
    products = np.einsum("tcij,kcij->tkij", b.T @ tiles @ b, g @ taps @ g.T)
    return float(np.abs(a.T @ products @ a - exact).max() / np.abs(exact).max())


def test_the_points_are_why_it_is_as_exact() -> None:
    """Those of Lavin and Gray, 0, ±1, ±2, ∞, have several times the error."""
    assert largest_error((0, 1, -1, 2, -2)) > 3 * largest_error(POINTS)


def drawn(pictures: int, maps: int, outputs: int, high: int, wide: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Return maps, filters, a bias and a gradient by the outputs, of order one."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(pictures, maps, high, wide, generator=draw)
    weight = torch.randn(outputs, maps, 3, 3, generator=draw) / (9 * maps) ** 0.5
    return x, weight, torch.randn(outputs, generator=draw), torch.randn(pictures, outputs, high, wide, generator=draw)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs, and the gradients by maps and filters, as torch's own convolution has them in float64."""
    x, weight = (t.double().requires_grad_() for t in (x, weight))
    y = torch.conv2d(x, weight, bias.double(), padding=1)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient.double())]


def tiled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Return the same by tiles."""
    return [winograd.convolve_by(x, weight, bias), winograd.map_gradient(gradient, weight), winograd.weight_gradient(x, gradient)]


SIDES, MAPS = st.integers(1, 14), st.sampled_from([16, 32, 48])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), MAPS, MAPS, SIDES, SIDES, st.integers(0, 9), st.integers(1, 3), st.booleans())
def test_outputs_and_gradients_are_those_of_float64(
    pictures: int, maps: int, outputs: int, high: int, wide: int, seed: int, count: int, last: bool
) -> None:
    given_ = drawn(pictures, maps, outputs, high, wide, seed)
    if last:
        given_ = tuple(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in given_)
    with threads(count):
        found = tiled(*given_)
    for got, wanted in zip(found, exact(*given_), strict=True):
        assert got.shape == wanted.shape
        assert float((got - wanted).abs().max()) <= 8e-6 * float(wanted.abs().max()) + 1e-7


def test_sums_of_many_maps_are_as_exact_as_torchs_own() -> None:
    """The largest error over 512 maps, within three times that of torch's convolution in float32."""
    x, weight, bias, gradient = drawn(2, 512, 32, 9, 9, 0)
    wanted, *_ = exact(x, weight, bias, gradient)
    ours, theirs = winograd.convolve(x, winograd.filters(weight), bias), torch.conv2d(x, weight, bias, padding=1)
    assert float((ours - wanted).abs().max()) < 3 * float((theirs - wanted).abs().max()) + 1e-6


@pytest.mark.parametrize("data", [drawn(6, 16, 32, 13, 13, 0), drawn(3, 128, 128, 5, 5, 1)], ids=["tiles shared", "maps shared"])
def test_which_thread_takes_a_tile_changes_no_bit(data: tuple[torch.Tensor, ...]) -> None:
    """Outputs are the same on any number of threads, the filters' gradient each time with the same number."""
    with threads(1):
        alone = tiled(*data)
    for count in (2, 3):
        with threads(count):
            first = tiled(*data)
            for _ in range(4):
                assert all(torch.equal(a, b) for a, b in zip(tiled(*data), first, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first[:2], alone[:2], strict=True))


def test_without_torchs_openmp_python_threads_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = drawn(6, 16, 32, 13, 13, 0)
    with threads(3):
        assert team.torchs_openmp() is not None
        wanted = tiled(*data)
        monkeypatch.setattr(team, "torchs_openmp", lambda: None)
        assert all(torch.equal(a, b) for a, b in zip(tiled(*data), wanted, strict=True))

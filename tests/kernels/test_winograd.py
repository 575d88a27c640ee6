"""Convolution by tiles: the identity behind it, its results and gradients against float64, whoever computes which
tile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.kernels import parallel, simd
from layerwise.kernels.convolution import winograd, winograd_transforms
from layerwise.kernels.convolution.winograd_transforms import POINTS, A, B, G, make_matrices
from layerwise.kernels.jit import compile_entry


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
    """Return the largest error of a tile over 128 maps, all in float32, beside float64, as a part of the largest
    output."""
    a, g, b = make_matrices(points)
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


def drawn(images: int, maps: int, outputs: int, high: int, wide: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Return maps, filters, a bias and a gradient by the outputs, of order one."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, maps, high, wide, generator=draw)
    weight = torch.randn(outputs, maps, 3, 3, generator=draw) / (9 * maps) ** 0.5
    return x, weight, torch.randn(outputs, generator=draw), torch.randn(images, outputs, high, wide, generator=draw)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs, and the gradients by maps and filters, as torch's own convolution has them in float64."""
    x, weight = (t.double().requires_grad_() for t in (x, weight))
    y = torch.conv2d(x, weight, bias.double(), padding=1)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient.double())]


def tiled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Return the same by tiles."""
    return [
        winograd.convolve(x, weight, bias),
        winograd.input_gradient(gradient, weight),
        winograd.weight_gradient(x, gradient),
    ]


def tiles_of(x: torch.Tensor, size: int, margin: int) -> torch.Tensor:
    """Return the tiles (N, C, rows, columns, size, size) of maps (N, C, H, W), 4 places apart, in float64 with zeros
    around."""
    high, wide = x.shape[2:]
    around = (margin, -wide % 4 + margin, margin, -high % 4 + margin)
    return torch.nn.functional.pad(x.double(), around).unfold(2, size, 4).unfold(3, size, 4)


def sandwich(matrix: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """Return |L| |x| |Lᵀ| over the last two dimensions."""
    left = torch.from_numpy(np.abs(matrix))
    return left @ x.abs() @ left.T


UNIT = 2.0**-24  # float32 rounds by at most this part
LAMBDA = 8.0


def roundings(transforms: int, terms: int) -> float:
    """Return how many units of the sums of absolute values an error may be.

    A number that comes out of n operations, each with an error of at most `UNIT`, is off by at most n · UNIT ·
    Σ|terms|, to first order (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2002, lemma 3.1), and if the
    errors are independent and of mean zero, by at most λ · √n · UNIT · Σ|terms| but with probability 2 n e^(−λ²/2) (N.
    J. Higham and T. Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019, theorem 2.4): with λ = 8 less
    than 10⁻⁹ for any n here. n is one for each of the ``terms`` of the sum between the transforms, one more for the
    bias, and for each of six transforms at most 7: a constant's own rounding, and six operations for the six terms.
    """
    count = 7 * transforms + terms + 1
    return min(count, LAMBDA * count**0.5)


def bounds(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gradient: torch.Tensor, *, parts: int
) -> list[torch.Tensor]:
    """Return the largest errors that float32 may make by tiles in the outputs and in the gradients by maps and filters.

    Σ|terms| is |Aᵀ| [Σ (|G| |g| |Gᵀ|) ⊙ (|Bᵀ| |d| |B|)] |A| + |bias| for the outputs, and accordingly for the others.
    ``parts``: of a sum over tiles at most.
    """

    def joined(maps: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        points = torch.einsum("ncxyij,kcij->nkxyij", sandwich(B.T, tiles_of(maps, 6, 1)), sandwich(G, filters.double()))
        places = sandwich(A.T, points).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
        return places[:, :, : maps.shape[2], : maps.shape[3]]

    spread, parted = sandwich(B.T, tiles_of(x, 6, 1)), sandwich(A, tiles_of(gradient, 4, 0))
    gathered = sandwich(G.T, torch.einsum("ncxyij,nkxyij->kcij", spread, parted))
    return [
        UNIT * roundings(6, x.shape[1]) * (joined(x, weight) + bias.double().abs()[:, None, None]),
        UNIT * roundings(6, weight.shape[0]) * joined(gradient, weight.flip(2, 3).transpose(0, 1)),
        UNIT * roundings(6, winograd.count_tiles(x) + parts) * gathered,
    ]


def assert_within_bounds(found: list[torch.Tensor], data: tuple[torch.Tensor, ...]) -> None:
    x, weight, bias, gradient = data
    limits = bounds(x, weight, bias, gradient, parts=64)
    for got, wanted, limit in zip(found, exact(*data), limits, strict=True):
        assert got.shape == wanted.shape
        assert float(((got - wanted).abs() - limit).max()) <= 0


SIDES, MAPS = st.integers(1, 14), st.sampled_from([16, 32, 48])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), MAPS, MAPS, SIDES, SIDES, st.integers(0, 9), st.integers(1, 3), st.booleans())
def test_outputs_and_gradients_are_those_of_float64(
    images: int, maps: int, outputs: int, high: int, wide: int, seed: int, count: int, last: bool
) -> None:
    given_ = drawn(images, maps, outputs, high, wide, seed)
    if last:
        given_ = tuple(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in given_)
    with threads(count):
        found = tiled(*given_)
    assert_within_bounds(found, given_)


@pytest.mark.parametrize("shape", [(2, 512, 32, 9, 9), (1, 32, 512, 9, 9), (40, 128, 128, 14, 14)], ids=str)
def test_long_sums_stay_within_the_bounds_of_float32(shape: tuple[int, int, int, int, int]) -> None:
    data = drawn(*shape, seed=0)
    assert_within_bounds(tiled(*data), data)


def test_the_bounds_notice_products_in_bfloat16() -> None:
    """Numbers rounded to 8 bits break them by far, as a wrong type of the sums would."""
    x, weight, bias, gradient = drawn(2, 64, 32, 9, 9, 0)
    with pytest.raises(AssertionError):
        assert_within_bounds(tiled(x.bfloat16().float(), weight, bias, gradient), (x, weight, bias, gradient))


def test_filters_that_are_kept_give_the_same_outputs() -> None:
    x, weight, bias, _ = drawn(3, 32, 48, 9, 9, 0)
    found = winograd.convolve_transformed(x, winograd.transform_filters(weight.double()), bias)
    wanted = torch.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert float(((found - wanted).abs() - bounds(x, weight, bias, torch.zeros(3, 48, 9, 9), parts=0)[0]).max()) <= 0


def test_products_use_the_widest_vectors_of_the_processor() -> None:
    """The machine code of the product has fused operations on 512-bit registers with AVX-512, and none where there is
    none."""

    def product(a: int, b: int, c: int, depth: int) -> None:
        winograd_transforms.multiply(a, 64, 4, b, 64, 128, c, 128, depth)

    compiled = numba.njit("void(int64, int64, int64, int64)")(product)
    [code] = compiled.inspect_asm().values()
    if simd.widest_lanes() == 16:
        assert len(re.findall(r"vfmadd\w+ps\s[^\n]*%zmm", code)) >= 2 * winograd_transforms.ROWS
        assert "%ymm" not in code
    else:
        assert "%zmm" not in code


def test_lanes_are_those_of_numbas_target_not_of_the_processor() -> None:
    """With features of a smaller processor asked for, numba compiles for that one, and kernels are as wide as it."""
    script = "from layerwise.kernels.simd import widest_lanes; print(widest_lanes())"
    env = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx512f"}
    lanes = [
        subprocess.run(
            [sys.executable, "-c", script], env=env | more, capture_output=True, text=True, check=True
        ).stdout.strip()
        for more in ({}, {"NUMBA_CPU_FEATURES": "+sse2"})
    ]
    assert lanes == ["16", "8"]


@compile_entry
def two_phases(numbers: int) -> None:
    """First phase: each part copies a vector from 0 to 1; second: each part copies that one on. Own numbers: the three
    places."""
    part = parallel.claim_panel(numbers)
    while part < 64:
        winograd_transforms.copy_vector(
            parallel.read_argument(numbers, 0) + winograd_transforms.VECTOR_BYTES * part,
            parallel.read_argument(numbers, 1) + winograd_transforms.VECTOR_BYTES * part,
        )
        parallel.signal_done(numbers)
        part = parallel.claim_panel(numbers)
    parallel.wait_for_done(numbers, 64)
    part = parallel.claim_part(numbers)
    while part < 64:
        winograd_transforms.copy_vector(
            parallel.read_argument(numbers, 1) + winograd_transforms.VECTOR_BYTES * (63 - part),
            parallel.read_argument(numbers, 2) + winograd_transforms.VECTOR_BYTES * part,
        )
        part = parallel.claim_part(numbers)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_a_second_phase_waits_for_the_first(count: int) -> None:
    """What the second phase copies is what the first one, on whatever thread, has copied before."""
    given_ = torch.randn(64, winograd_transforms.WIDE)
    with threads(count):
        for _ in range(200):
            between, found = torch.zeros_like(given_), torch.zeros_like(given_)
            parallel.parallel_for(two_phases(), 64, [t.data_ptr() for t in (given_, between, found)])
            assert torch.equal(found, given_.flip(0))


def test_large_workspaces_are_used_again_and_small_ones_are_not_kept() -> None:
    spaces = winograd.WorkspacePool()
    large, small = spaces.acquire(36, 512, 512), spaces.acquire(36, 16, 16)
    spaces.release(large)
    spaces.release(small)
    assert len(spaces.free) == 1
    again = spaces.acquire(36 * 512, 512)
    assert again.data_ptr() == large.data_ptr()
    assert spaces.acquire(36, 512, 512).data_ptr() != large.data_ptr()
    for piece in (again, *(torch.empty(36, 512, 513 + k) for k in range(3)), torch.empty(36, 1024, 1024)):
        spaces.release(piece)
    assert len(spaces.free) == spaces.COUNT


@pytest.mark.parametrize(
    "data", [drawn(6, 16, 32, 13, 13, 0), drawn(3, 128, 128, 5, 5, 1)], ids=["tiles shared", "maps shared"]
)
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
        assert parallel.find_torch_openmp() is not None
        wanted = tiled(*data)
        monkeypatch.setattr(parallel, "find_torch_openmp", lambda: None)
        assert all(torch.equal(a, b) for a, b in zip(tiled(*data), wanted, strict=True))

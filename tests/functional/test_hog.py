"""HOG against loops over every pixel, bin and cell in float64, and what it should not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layerwise.functional.hog import compute_cell_histograms, hog


def naive_cells(x: np.ndarray, cell: int, bins: int) -> np.ndarray:
    """One image (C, H, W): each pixel's vote is handed to every cell and bin by its distance from their middles."""
    channels, height, width = x.shape
    rows, columns = height // cell, width // cell
    found = np.zeros((bins, rows, columns))
    for i in range(height):
        for j in range(width):
            best, angle = -1.0, 0.0
            for c in range(channels):
                across = x[c, i, min(j + 1, width - 1)] - x[c, i, max(j - 1, 0)]
                down = x[c, min(i + 1, height - 1), j] - x[c, max(i - 1, 0), j]
                if math.hypot(across, down) > best:
                    best, angle = math.hypot(across, down), math.degrees(math.atan2(down, across)) % 180
            for b in range(bins):
                apart = abs(angle - (b + 0.5) * 180 / bins)
                turn = max(0, 1 - min(apart, 180 - apart) / (180 / bins))
                for r in range(rows):
                    for s in range(columns):
                        near = [max(0, 1 - abs(p - (q + 0.5) * cell + 0.5) / cell) for p, q in ((i, r), (j, s))]
                        found[b, r, s] += best * turn * near[0] * near[1]
    return found


def naive_hog(x: np.ndarray, cell: int, bins: int, block: int) -> np.ndarray:
    found = naive_cells(x, cell, bins)
    features: list[float] = []
    for r in range(found.shape[1] - block + 1):
        for s in range(found.shape[2] - block + 1):
            v = [found[b, r + i, s + j] for i in range(block) for j in range(block) for b in range(bins)]
            for _ in range(2):
                norm = math.sqrt(sum(a * a for a in v) + 1e-6)
                v = [min(a / norm, 0.2) if _ == 0 else a / norm for a in v]
            features += v
    return np.array(features)


@pytest.mark.parametrize(
    ("shape", "cell", "bins", "block"),
    [((1, 8, 8), 2, 9, 2), ((3, 9, 11), 3, 9, 2), ((2, 11, 10), 4, 6, 1), ((1, 12, 12), 3, 8, 3)],
    ids=str,
)
def test_features_are_those_of_the_loops(shape: tuple[int, int, int], cell: int, bins: int, block: int) -> None:
    x = np.random.default_rng(0).random((2, *shape))
    found = hog(torch.from_numpy(x), cell=cell, bins=bins, block=block)
    assert np.allclose(found.numpy(), [naive_hog(one, cell, bins, block) for one in x], atol=1e-10)


def test_an_edge_votes_for_its_direction() -> None:
    """A ramp of slope 1 in a direction: every inner pixel votes with size 2, all in the bins about that direction."""
    at = torch.arange(16.0, dtype=torch.float64)
    for degrees in (10, 50, 130):
        turn = math.radians(degrees)
        ramp = (at[None, :] * math.cos(turn) + at[:, None] * math.sin(turn))[None, None]
        inner = compute_cell_histograms(ramp, cell=4)[0, :, 1:3, 1:3]
        assert torch.allclose(inner.sum(0), torch.full((2, 2), 2.0 * 16, dtype=torch.float64))
        assert torch.allclose(inner[degrees // 20], inner.sum(0))  # the middle of its bin


def test_brightness_contrast_and_inversion_do_not_matter() -> None:
    x = torch.rand(3, 1, 12, 12, dtype=torch.float64)
    plain = hog(x, cell=3)
    for other in (0.5 * x + 0.3, 1 - x):
        assert torch.allclose(hog(other, cell=3), plain, atol=1e-4)
    assert not torch.allclose(hog(x.flip(3), cell=3), plain, atol=0.1)
    assert torch.equal(hog(torch.zeros(1, 1, 8, 8), cell=2), torch.zeros(1, 9 * 36))


def test_a_image_smaller_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="2×2 cells of 5 pixels does not fit into 8×8 pixels"):
        hog(torch.rand(1, 1, 8, 8), cell=5)

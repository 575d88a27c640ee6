"""S03: Gabor's response to gratings in closed form against the integral done numerically, and the measures against
small cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layerwise.functional.gabor import (
    Gabor,
    angle_between,
    energy_response,
    gabor,
    grating,
    grating_response,
    modulation,
    selectivity,
)

CELLS = [
    Gabor(orientation=30, wavelength=5, phase=0, aspect=0.6, bandwidth=1.4),
    Gabor(orientation=117, wavelength=7, phase=90, aspect=1.0, bandwidth=1.0),
    Gabor(orientation=75, wavelength=4, phase=200, aspect=0.8, bandwidth=2.0),
]


def grid(step: float) -> tuple[torch.Tensor, torch.Tensor]:
    at = torch.arange(-40, 40, step, dtype=torch.float64)
    return at[None, :], at[:, None]


@pytest.mark.parametrize("cell", CELLS)
def test_response_is_the_integral(cell: Gabor) -> None:
    x, y = grid(0.5)
    field = gabor(x, y, cell) * 0.25
    assert float(field.sum()) == pytest.approx(0, abs=1e-9)
    for angle, wavelength, phase in (
        (cell.orientation, cell.wavelength, 20.0),
        (50.0, 6.0, 130.0),
        (100.0, 3.0, 0.0),
        (10.0, 12.0, 300.0),
    ):
        seen = grating(x, y, orientation=angle, wavelength=wavelength, phase=phase)
        found = grating_response(cell, orientation=angle, wavelength=wavelength, phase=phase)
        assert found == pytest.approx(float((field * seen).sum()), abs=1e-9)


def test_gabor_by_hand() -> None:
    """One pixel, in NumPy, from the formula as Daugman wrote it."""
    cell, x, y, theta = CELLS[0], 1.5, -2.0, math.radians(30)
    u, v = -x * math.sin(theta) + y * math.cos(theta), x * math.cos(theta) + y * math.sin(theta)
    ratio = 2**1.4
    sigma = 5 / math.pi * math.sqrt(math.log(2) / 2) * (ratio + 1) / (ratio - 1)
    wave = np.cos(2 * np.pi * u / 5) - np.exp(-2 * (np.pi * sigma / 5) ** 2)
    want = 0.6 / (np.pi * sigma**2) * np.exp(-(u**2 + 0.36 * v**2) / (2 * sigma**2)) * wave
    assert float(gabor(torch.tensor(x), torch.tensor(y), cell)) == pytest.approx(float(want), rel=1e-5)


def test_orientation_zero_is_horizontal_and_45_rises_to_the_right() -> None:
    x, y = torch.tensor([0.0, 5.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    level = grating(x, y, orientation=0, wavelength=4)
    assert level.tolist() == pytest.approx([1, 1, 0], abs=1e-6)  # the same along x
    rising = grating(
        torch.tensor([0.0, 3.0, 3.0]), torch.tensor([0.0, 3.0, -3.0]), orientation=45, wavelength=math.sqrt(72)
    )
    assert rising.tolist() == pytest.approx([1, 1, -1], abs=1e-6)


def test_energy_and_measures_by_hand() -> None:
    assert energy_response(torch.tensor(3.0), torch.tensor(-4.0)) == 25
    assert modulation(torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.0, 5.0]])).tolist() == [0.5, 0, 1]
    assert modulation(torch.zeros(3)) == 0
    angles = torch.tensor([0.0, 45, 90, 135])
    assert selectivity(torch.tensor([[1.0, 1, 1, 1], [0, 2, 0, 0], [3, 0, 1, 0]]), angles).tolist() == pytest.approx(
        [0, 1, 0.5], abs=1e-6
    )
    assert angle_between(torch.tensor([179.0, 10, 100]), torch.tensor([1.0, 20, 10])).tolist() == [2, 10, 90]

"""Orientation-selective cells (1962): the visual cortex in three fixed layers.

``N`` images, ``C`` channels, ``H W`` pixels, ``K`` orientations. D. H. Hubel, T. N. Wiesel, Receptive fields of
single neurones in the cat's striate cortex, J. Physiol. 148 (1959); Receptive fields, binocular interaction and
functional architecture in the cat's visual cortex, J. Physiol. 160 (1962). The one idea: each layer reads the one
before it, and gives up one feature, phase or position, to keep another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.functional.gabor import Gabor, energy_response, gabor
from layerwise.registry import register

QUADRATURE = (0.0, 90.0)  # degrees: a central stripe, and an edge
FIELD_SIGMAS = 3.5  # radius of a filter in standard deviations of the envelope


def divide_orientations(count: int) -> tuple[float, ...]:
    """Return K orientations evenly over 180 degrees, from the horizontal on."""
    return tuple(180.0 * k / count for k in range(count))


class SimpleCells(nn.Module):
    """Rectified Gabor filters: at each position and orientation, one cell for each of the phases 0°, 90°, 180° and
    270°.

    Two filters in quadrature serve four cells, since no cell fires below zero: one cell's rate is the filter's
    response, its partner's the negative response. Cells whose field exceeds the image are left out.
    """

    filters: Tensor  # (2K, C, S, S): the K of phase 0, then the K of phase 90

    def __init__(self, cells: list[Gabor], channels: int) -> None:
        super().__init__()
        radius = math.ceil(FIELD_SIGMAS * max(cell.sigma / min(1.0, cell.aspect) for cell in cells))
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        x, y = offsets[None, :], -offsets[:, None]  # rows run downwards, y upwards
        filters = torch.stack([gabor(x, y, cell) for cell in cells])[:, None]  # (2K, 1, S, S)
        self.register_buffer("filters", (filters / channels).repeat(1, channels, 1, 1).float())

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to (N, 4K, H − S + 1, W − S + 1), phase by phase: 0°, 90°, 180°, 270°."""
        linear = F.conv2d(x, self.filters)  # (N, 2K, H′, W′)
        return torch.relu(torch.cat([linear, -linear], 1))


class ComplexCells(nn.Module):
    """The energy model: each cell sums the squares of the four simple cells of its orientation and position, which
    removes the phase.

    Of r and −r only one fires, so the four squares are those of the quadrature pair: r₀² + r₉₀².
    """

    def forward(self, simple: Tensor) -> Tensor:
        """Map simple cells (N, 4K, H, W) to complex cells (N, K, H, W)."""
        even, odd, even_off, odd_off = simple.chunk(4, 1)
        return energy_response(even, odd) + energy_response(even_off, odd_off)


class OrientationCells(nn.Module):
    """Simple cells, complex cells, and complex cells of a larger field, which pool over positions. No parameters to
    learn."""

    def __init__(self, cells: list[Gabor], *, channels: int, pool: int) -> None:
        super().__init__()
        self.simple = SimpleCells(cells, channels)
        self.complex = ComplexCells()
        self.pooled = nn.AvgPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the pooled complex cells (N, K, H″, W″)."""
        pooled: Tensor = self.pooled(self.complex(self.simple(x)))
        return pooled


@register(
    "orientation-cells",
    family="history",
    tasks=(),
    rule=None,
    year=1962,
    paper="Hubel & Wiesel, Receptive fields, binocular interaction and functional architecture in the cat's visual "
    "cortex, 1962",
    summary="simple and complex cells of the visual cortex: oriented Gabor filters and their energy; learns nothing",
    summary_zh="视皮层的简单细胞与复杂细胞：有方向的 Gabor 滤波器及其能量；不学习",
    parameters=0,
    small={"orientations": 4, "wavelength": 4.0, "size": [32, 32]},
    aliases=("simple-cells", "complex-cells", "hubel-wiesel"),
    why="its selectivity is built in: the filters are Gabor's formula, as Hubel and Wiesel found the cells and "
    "not as these came to be. "
    "A network that learns such filters from images is `cnn`, in its first layer",
    why_zh="它的方向选择性由公式给出：滤波器即 Gabor 函数，描述休伯尔与维泽尔观察到的细胞，而非细胞如何形成。"
    "能从图像中学到这类滤波器的是 `cnn` 的第一层",
)
def orientation_cells(
    *,
    orientations: int = 8,
    wavelength: float = 6.0,
    aspect: float = 0.7,
    bandwidth: float = 1.0,
    pool: int = 4,
    channels: int = 1,
    size: tuple[int, int] = (64, 64),
) -> nn.Module:
    """Build the three layers: images (N, C, H, W), larger ones than ``size`` too, to pooled complex cells (N, K, H″,
    W″).

    Args:
        orientations: K, evenly over 180 degrees.
        wavelength: λ, pixels from stripe to stripe, at least 2 (the finest that pixels carry).
        aspect: γ, a field's width over its length.
        bandwidth: octaves of spatial frequency to which a cell responds.
        pool: side of the square of positions that a pooled cell reads.
        channels: C; each counts alike.
        size: the image's sides.

    Raises `UsageError` for values that no cell has, and for images smaller than the pooled cells' field.
    """
    if orientations < 1 or pool < 1:
        raise UsageError(
            "there must be cells",
            expected="model.orientations and model.pool of at least 1",
            received=f"orientations={orientations}, pool={pool}",
        )
    if wavelength < 2 or not 0 < aspect <= 1 or not 0.1 <= bandwidth <= 3:
        raise UsageError(
            "no cell has such a field",
            expected="wavelength ≥ 2 pixels, aspect in (0, 1], bandwidth 0.1 to 3 octaves",
            received=f"wavelength={wavelength:g}, aspect={aspect:g}, bandwidth={bandwidth:g}",
        )
    cells = [
        Gabor(orientation=angle, wavelength=wavelength, phase=phase, aspect=aspect, bandwidth=bandwidth)
        for phase in QUADRATURE
        for angle in divide_orientations(orientations)
    ]
    model = OrientationCells(cells, channels=channels, pool=pool)
    field = model.simple.filters.shape[-1] + pool - 1
    if min(size) < field:
        raise UsageError(
            f"images of {size[0]}×{size[1]} are smaller than one cell's field",
            expected=f"at least {field}×{field} pixels",
            do="take a smaller model.wavelength or model.pool",
        )
    return model

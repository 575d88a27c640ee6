"""The view ``filtered``: the responses of orientation-selective cells to two photographs.

``K`` orientations, ``H`` × ``W`` pixels. The photographs come with scikit-learn; the view uses them in gray at half
size.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.data import sklearn_datasets
from layerwise.data.images.decoding import decode
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.inspection.views.tuning import require_cells
from layerwise.models.orientation import OrientationCells, divide_orientations
from layerwise.plotting.images import Floats, draw_image_sheet

COLUMNS = 4
WIDTH = 200.0  # of a photograph in the figure
BRIGHTEST = 0.995  # quantile of the responses that is drawn white


@dataclass(frozen=True)
class FilteredImage:
    """A photograph (1, H, W) in [0, 1], cropped to where whole filters fit, and the responses (K, H, W) of the
    ``simple`` cells of phase 0 and of the ``complex`` cells."""

    image: Tensor
    simple: Tensor
    complex: Tensor


def view(target: Target, *, out: Path | None) -> View:
    """Return the distribution of each photograph's energy over orientations. Writes ``filtered-NAME.svg`` for each.

    Raises `UsageError` for another model.
    """
    model, arguments = require_cells(target, "filtered")
    angles = divide_orientations(arguments["orientations"])
    photographs, figures = [], []
    for name, pixels in load_gray_photographs().items():
        filtered = filter_image(model, pixels)
        mean = filtered.complex.mean((1, 2))
        share = (mean / mean.sum()).tolist()
        size = list(filtered.image.shape[1:])
        photographs.append({"name": name, "size": size, "energy": mean.tolist(), "share": share})
        figures += save(out, f"filtered-{Path(name).stem}.svg", draw_figure(target, name, filtered, angles))
    data = {"arguments": arguments, "orientations": list(angles), "photographs": photographs}
    return View("filtered", data, _format_text(target, data), figures)


def load_gray_photographs() -> dict[str, Tensor]:
    """Return each photograph (1, 1, 213, 320) by name, gray in [0, 1]; each pixel is the mean of four."""
    gray = {name: decode(image, 1, name=name)[..., 0] for name, image in sklearn_datasets.load_photographs().items()}
    return {
        name: F.avg_pool2d(torch.from_numpy(pixels.astype(np.float32) / 255)[None, None], 2)
        for name, pixels in gray.items()
    }


@torch.no_grad()
def filter_image(model: OrientationCells, pixels: Tensor) -> FilteredImage:
    """Return the cells' responses to an image (1, 1, H, W)."""
    edge, channels = model.simple.filters.shape[-1] // 2, model.simple.filters.shape[1]
    simple = model.simple(pixels.expand(-1, channels, -1, -1))
    cropped = pixels[0, :, edge : pixels.shape[2] - edge, edge : pixels.shape[3] - edge]
    return FilteredImage(cropped, simple[0, : simple.shape[1] // 4], model.complex(simple)[0])


def _format_text(target: Target, data: Json) -> str:
    """Return the share of energy by orientation and photograph."""
    names = [p["name"] for p in data["photographs"]]
    rows = []
    for k, angle in enumerate(data["orientations"]):
        rows.append([f"{angle:g}°", *(f"{photograph['share'][k]:.1%}" for photograph in data["photographs"])])
    return "\n".join(
        [
            target.translate(
                "orientation-cells: orientations in the photographs",
                "orientation-cells：照片中各方向所占的份额",
            ),
            "",
            format_table(
                [target.translate("orientation", "方向"), *names], rows, right=frozenset(range(1 + len(names)))
            ),
            "",
            target.translate(
                "share of the complex cells' energy. 0° is horizontal, 90° vertical, 45° rises to the right.",
                "复杂细胞能量的份额。0° 为水平，90° 为竖直，45° 向右上升。",
            ),
        ]
    )


def draw_figure(target: Target, name: str, filtered: FilteredImage, angles: tuple[float, ...]) -> str:
    """Draw the photograph, its orientations in color, and the responses of simple and complex cells of up to four
    orientations."""
    translate = target.translate
    step = max(1, len(angles) // COLUMNS)
    indices = list(range(0, len(angles), step))[:COLUMNS]
    height, width = filtered.image.shape[1:]
    rows = [
        [np.asarray(filtered.image), color_orientations(filtered.complex, angles)],
        [_scale_brightness(filtered.simple, k, indices) for k in indices],
        [_scale_brightness(filtered.complex.sqrt(), k, indices) for k in indices],
    ]
    angle_captions = [f"{angles[k]:g}°" for k in indices]
    key = translate("red 0°, green 45°,\ncyan 90°, violet 135°", "红 0°，绿 45°，\n青 90°，紫 135°")
    captions = [[name, key], angle_captions, angle_captions]
    labels = [
        translate("photograph, and the strongest orientation at each pixel", "照片，以及各处最强的方向"),
        translate(
            "simple cells (phase 0°): respond to bright stripes, not to dark ones",
            "简单细胞（相位 0°）：只对亮条纹响应，暗条纹不响应",
        ),
        translate("complex cells: every edge and stripe of the orientation", "复杂细胞：该方向的一切边缘与条纹"),
    ]
    return draw_image_sheet(rows, captions=captions, labels=labels, photos=(WIDTH, WIDTH * height / width))


def _scale_brightness(cells: Tensor, k: int, indices: list[int]) -> Floats:
    """Return the responses (1, H, W) of orientation ``k`` in [0, 1], with one scale for all ``indices``."""
    top = float(np.quantile(cells[indices].numpy(), BRIGHTEST))
    return np.asarray((cells[k : k + 1] / max(top, 1e-12)).clamp(0, 1))


def color_orientations(energy: Tensor, angles: tuple[float, ...]) -> Floats:
    """Return an RGB image (3, H, W): the hue is the orientation of the strongest cell, the brightness its response.

    Red is horizontal.
    """
    strongest, index = energy.max(0)
    value = strongest.sqrt().numpy()
    colors = np.array([colorsys.hsv_to_rgb(angle / 180, 0.85, 1.0) for angle in angles])  # (K, 3)
    value = (value / max(float(np.quantile(value, BRIGHTEST)), 1e-12)).clip(0, 1)
    return np.asarray(colors[index.numpy()].transpose(2, 0, 1) * value)

"""The view ``filtered``: two photographs as orientation-selective cells see them (S03).

``K`` orientations, ``H W`` pixels. The photographs come with scikit-learn; they are taken as gray and at half their
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
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.views.tuning import cells_of
from layerwise.models.orientation import OrientationCells, orientations_of
from layerwise.plotting.images import Floats, sheet

COLUMNS = 4
WIDTH = 200.0  # of a photograph in the sheet
BRIGHTEST = 0.995  # the share of cells below the one that is drawn white


@dataclass(frozen=True)
class Seen:
    """A photograph where whole fields fit, (1, H, W) in [0, 1], and the answers: ``simple`` of phase 0, ``complex``,
    (K, H, W)."""

    image: Tensor
    simple: Tensor
    complex: Tensor


def view(target: Target, *, out: Path | None) -> View:
    """Return how the photographs' energy is spread over orientations. Writes ``filtered-NAME.svg`` for each of them.

    Raises `UsageError` for another network.
    """
    model, arguments = cells_of(target, "filtered")
    angles = orientations_of(arguments["orientations"])
    photographs, figures = [], []
    for name, pixels in gray_photographs().items():
        seen = filtered(model, pixels)
        mean = seen.complex.mean((1, 2))
        share = (mean / mean.sum()).tolist()
        photographs.append({"name": name, "size": list(seen.image.shape[1:]), "energy": mean.tolist(), "share": share})
        figures += save(out, f"filtered-{Path(name).stem}.svg", figure(target, name, seen, angles))
    data = {"arguments": arguments, "orientations": list(angles), "photographs": photographs}
    return View("filtered", data, _written(target, data), figures)


def gray_photographs() -> dict[str, Tensor]:
    """Return each photograph (1, 1, 213, 320) in [0, 1]: gray, every pixel the mean of four."""
    gray = {name: decode(image, 1, name=name)[..., 0] for name, image in sklearn_datasets.photographs().items()}
    return {
        name: F.avg_pool2d(torch.from_numpy(pixels.astype(np.float32) / 255)[None, None], 2)
        for name, pixels in gray.items()
    }


@torch.no_grad()
def filtered(model: OrientationCells, pixels: Tensor) -> Seen:
    """Return what cells answer to an image (1, 1, H, W)."""
    edge, channels = model.simple.filters.shape[-1] // 2, model.simple.filters.shape[1]
    simple = model.simple(pixels.expand(-1, channels, -1, -1))
    whole = pixels[0, :, edge : pixels.shape[2] - edge, edge : pixels.shape[3] - edge]
    return Seen(whole, simple[0, : simple.shape[1] // 4], model.complex(simple)[0])


def _written(target: Target, data: Json) -> str:
    """Return the share of energy by orientation and photograph."""
    names = [p["name"] for p in data["photographs"]]
    rows = [
        [f"{angle:g}°", *(f"{p['share'][k]:.1%}" for p in data["photographs"])]
        for k, angle in enumerate(data["orientations"])
    ]
    return "\n".join(
        [
            target.say(
                "orientation-cells: which orientations the photographs hold",
                "orientation-cells：照片中各方向所占的份额",
            ),
            "",
            table([target.say("orientation", "方向"), *names], rows, right=frozenset(range(1 + len(names)))),
            "",
            target.say(
                "share of the complex cells' energy. 0° is horizontal, 90° vertical, 45° rises to the right.",
                "复杂细胞能量的份额。0° 为水平，90° 为竖直，45° 向右上升。",
            ),
        ]
    )


def figure(target: Target, name: str, seen: Seen, angles: tuple[float, ...]) -> str:
    """Draw the photograph, its orientations in color, and what simple and complex cells of up to four orientations
    answer."""
    say = target.say
    step = max(1, len(angles) // COLUMNS)
    shown = list(range(0, len(angles), step))[:COLUMNS]
    height, width = seen.image.shape[1:]
    rows = [
        [np.asarray(seen.image), colored(seen.complex, angles)],
        [_bright(seen.simple, k, shown) for k in shown],
        [_bright(seen.complex.sqrt(), k, shown) for k in shown],
    ]
    stripes = [f"{angles[k]:g}°" for k in shown]
    key = say("red 0°, green 45°,\ncyan 90°, violet 135°", "红 0°，绿 45°，\n青 90°，紫 135°")
    captions = [[name, key], stripes, stripes]
    labels = [
        say("photograph, and the strongest orientation at each place", "照片，以及各处最强的方向"),
        say(
            "simple cells (phase 0°): bright stripes light up, dark ones do not",
            "简单细胞（相位 0°）：只对亮条纹响应，暗条纹不响应",
        ),
        say("complex cells: every edge and stripe of the orientation", "复杂细胞：该方向的一切边缘与条纹"),
    ]
    return sheet(rows, captions=captions, labels=labels, photos=(WIDTH, WIDTH * height / width))


def _bright(cells: Tensor, k: int, shown: list[int]) -> Floats:
    """Return one orientation's answers (1, H, W) in [0, 1], on the scale of all that are shown."""
    top = float(np.quantile(cells[shown].numpy(), BRIGHTEST))
    return np.asarray((cells[k : k + 1] / max(top, 1e-12)).clamp(0, 1))


def colored(energy: Tensor, angles: tuple[float, ...]) -> Floats:
    """Return (3, H, W): the hue is the orientation of the strongest cell, red for horizontal, the brightness its
    answer."""
    strongest, index = energy.max(0)
    value = strongest.sqrt().numpy()
    hues = np.array([colorsys.hsv_to_rgb(angle / 180, 0.85, 1.0) for angle in angles])  # (K, 3)
    value = (value / max(float(np.quantile(value, BRIGHTEST)), 1e-12)).clip(0, 1)
    return np.asarray(hues[index.numpy()].transpose(2, 0, 1) * value)

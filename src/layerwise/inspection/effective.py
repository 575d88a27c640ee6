"""Receptive fields on a real image: what one unit of each layer can depend on, and what it does depend on in this
network.

The effective field of a unit is how much each pixel counts: (∂ unit / ∂ pixel)², the mean over images, summed over
the unit's maps by drawn sums (W. Luo, Y. Li, R. Urtasun, R. Zemel, NeurIPS 2016). Its side √(1 + 12·variance) is that
of an even square that spreads as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.inference.predict import evaluating
from layerwise.inspection.base import Json, Target
from layerwise.inspection.fields import effective, squared
from layerwise.inspection.image_selection import Shown, evenly
from layerwise.inspection.maps import calls, kept, named
from layerwise.plotting.charts import composed
from layerwise.plotting.images import Floats, heated
from layerwise.plotting.svg import INK, SERIES
from layerwise.runtime import rng

PROBES, MEASURED, PANELS, DRAWN = (
    4,
    8,
    3,
    8,
)  # drawn sums; layers measured; of them in the figure; frames on the image


@dataclass(frozen=True)
class Effective:
    """How much each pixel (H, W) counts for the middle unit of a layer, in shares of the whole; all 0 where nothing
    passes."""

    layer: str
    shares: Tensor

    @property
    def side(self) -> float | None:
        """The effective side in pixels, None where no gradient passes."""
        return effective(self.shares) if float(self.shares.sum()) else None


def spaced(listed: list[Any], count: int) -> list[Any]:
    """Return up to ``count`` evenly spaced items of a list, the first and the last among them."""
    return [listed[i] for i in evenly(len(listed), count)]


def measured(model: nn.Module, inputs: Tensor, layers: list[str]) -> list[Effective]:
    """Return the effective field of each layer's middle unit over images (N, C, H, W), of up to eight layers, evenly
    spaced."""
    chosen, found = spaced(layers, MEASURED), list[Effective]()
    with evaluating(model, inputs.device), torch.inference_mode(False), torch.enable_grad():
        listed = calls(model, inputs[:1])
        wanted = [named(listed, name) for name in chosen]
        x = inputs.clone().requires_grad_()
        with kept(model, wanted) as outputs:
            model(x)
        for maps in wanted:
            _, height, width = maps.shape
            unit = outputs[maps.name][:, :, height // 2, width // 2, None, None]
            generator = torch.Generator().manual_seed(rng.key("receptive-field", maps.name))
            total = squared(unit, x, generator, probes=PROBES).mean((0, 1)).double().cpu()
            found.append(Effective(maps.name, total / total.sum().clamp_min(1e-300)))
    return found


def figure(target: Target, data: Json, shown: Shown, fields: list[Effective]) -> str:
    """Draw the image with every layer's field as a frame; beside it how much each pixel counts, for up to three
    layers."""
    layers = {la["name"]: la for la in data["layers"] if la["jump"] != [0, 0]}
    image = shown.images[0]
    panels = spaced([field for field in fields if field.side is not None], PANELS)
    say = target.say

    def draw(fig: Any) -> None:
        grid = fig.subplots(1, 1 + len(panels), squeeze=False)[0]
        _image(grid[0], image)
        for number, la in enumerate(spaced(list(layers.values()), DRAWN)):
            color = SERIES[number % len(SERIES)]
            _frame(grid[0], la, color, "-" if number < len(SERIES) else "--")
            style = "-" if number < len(SERIES) else "--"
            grid[0].plot(
                [], [], style, color=color, linewidth=2.4, label=f"{la['name']}  {la['field'][0]}×{la['field'][1]}"
            )
        grid[0].set_title(say("one unit can see", "单个单元可见的范围"), loc="left", fontsize=13)
        fig.legend(loc="outside lower center", ncols=4, handlelength=1.4, columnspacing=1.2)
        for axes, field in zip(grid[1:], panels, strict=True):
            heat = np.asarray(field.shares / field.shares.max()) ** 0.5
            _image(axes, heated(image, heat))
            _frame(axes, layers[field.layer], "#ffffff", "--")
            axes.set_title(field.layer, loc="left", fontsize=13, color=INK, parse_math=False)
            axes.set_xlabel(say(f"effective {field.side:.1f} px", f"有效 {field.side:.1f} 像素"))

    return composed(draw, size=(2.9 * (1 + len(panels)), 4.1 + 0.25 * (min(len(layers), DRAWN) > 4)))


def _image(axes: Any, image: Floats) -> None:
    """Draw an image (C, H, W) without axes."""
    values = np.asarray(image, dtype=np.float64).clip(0, 1)
    axes.imshow(
        values.transpose(1, 2, 0) if len(values) == 3 else values[0],
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _frame(axes: Any, la: Json, color: str, style: str) -> None:
    """Draw the field of a layer's middle unit: the pixel i covers [i − ½, i + ½]."""
    from matplotlib.patches import Rectangle

    (top, bottom), (left, right) = la["middle"]
    axes.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left + 1,
            bottom - top + 1,
            fill=False,
            edgecolor=color,
            linewidth=2,
            linestyle=style,
        )
    )

"""Effective receptive fields on real images, beside the theoretical ones.

The effective field of a unit is the weight of each pixel: (∂ unit / ∂ pixel)², averaged over images and summed over the
unit's maps with random projections (W. Luo, Y. Li, R. Urtasun, R. Zemel, NeurIPS 2016). Its side √(1 + 12·variance) is
that of a uniform square of the same variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.inference.predict import inference_context
from layerwise.inspection.base import Json, Target
from layerwise.inspection.feature_maps import capture_maps, find_feature_layers, find_layer
from layerwise.inspection.image_selection import SelectedImages, pick_indices_evenly
from layerwise.plotting.charts import render_figure
from layerwise.plotting.images import Floats, overlay_heatmap
from layerwise.plotting.svg import INK, SERIES
from layerwise.runtime import rng

PROBES = 4  # random projections of a unit's maps
MEASURED_LAYERS = 8
PANELS = 3  # measured layers in the figure
FRAMES = 8  # theoretical fields in the figure


@dataclass(frozen=True)
class EffectiveField:
    """The weight of each pixel (H, W) for a layer's middle unit; the sum is 1, or 0 without a gradient."""

    layer: str
    shares: Tensor

    @property
    def side(self) -> float | None:
        """The effective side in pixels, or None without a gradient."""
        return compute_effective_side(self.shares) if float(self.shares.sum()) else None


def pick_evenly(items: list[Any], count: int) -> list[Any]:
    """Return up to ``count`` evenly spaced items of a list, with the first and the last."""
    return [items[i] for i in pick_indices_evenly(len(items), count)]


def measure_effective_fields(model: nn.Module, inputs: Tensor, layers: list[str]) -> list[EffectiveField]:
    """Return the effective field of the middle unit over images (N, C, H, W), for up to eight evenly spaced layers."""
    fields = list[EffectiveField]()
    with inference_context(model, inputs.device), torch.inference_mode(False), torch.enable_grad():
        calls = find_feature_layers(model, inputs[:1])
        chosen = [find_layer(calls, name) for name in pick_evenly(layers, MEASURED_LAYERS)]
        x = inputs.clone().requires_grad_()
        with capture_maps(model, chosen) as outputs:
            model(x)
        for layer in chosen:
            _, height, width = layer.shape
            unit = outputs[layer.name][:, :, height // 2, width // 2, None, None]
            generator = torch.Generator().manual_seed(rng.derive_seed("receptive-field", layer.name))
            total = estimate_squared_gradient(unit, x, generator, probes=PROBES).mean((0, 1)).double().cpu()
            fields.append(EffectiveField(layer.name, total / total.sum().clamp_min(1e-300)))
    return fields


def estimate_squared_gradient(output: Tensor, image: Tensor, generator: torch.Generator, *, probes: int) -> Tensor:
    """Return (∂ unit / ∂ pixel)², summed over random projections of the unit's maps, in the shape of ``image``.

    The projections have standard normal weights, so the expected square is the sum of the maps' squares.

    Args:
        output: (N, C, 1, 1), one unit of each image.
        image: (N, C, H, W), the network's input.
        generator: draws the projections, on the CPU.
        probes: the number of projections.
    """
    total = torch.zeros_like(image)
    for _ in range(probes):
        weights = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
        (gradient,) = torch.autograd.grad(output, image, weights, retain_graph=True)
        total += gradient.square()
    return total.detach()


def compute_effective_side(gradient: Tensor) -> float:
    """Return √(1 + 12·variance) of a map (H, W) of weights ≥ 0: k for a uniform k×k square.

    The variance is the mean of both axes.
    """
    variances = []
    for axis in (0, 1):
        share = gradient.sum(axis) / gradient.sum()
        position = torch.arange(len(share), dtype=share.dtype)
        variances.append(float((share * position.square()).sum() - (share * position).sum() ** 2))
    return math.sqrt(1 + 12 * sum(variances) / 2)


def draw_figure(target: Target, data: Json, selected: SelectedImages, fields: list[EffectiveField]) -> str:
    """Draw the image with each layer's theoretical field as a frame, and the effective fields of up to three layers."""
    layers = {la["name"]: la for la in data["layers"] if la["jump"] != [0, 0]}
    image = selected.images[0]
    panels = pick_evenly([field for field in fields if field.side is not None], PANELS)
    translate = target.translate

    def draw(fig: Any) -> None:
        grid = fig.subplots(1, 1 + len(panels), squeeze=False)[0]
        _draw_image(grid[0], image)
        for number, la in enumerate(pick_evenly(list(layers.values()), FRAMES)):
            color = SERIES[number % len(SERIES)]
            _draw_frame(grid[0], la, color, "-" if number < len(SERIES) else "--")
            style = "-" if number < len(SERIES) else "--"
            grid[0].plot(
                [], [], style, color=color, linewidth=2.4, label=f"{la['name']}  {la['field'][0]}×{la['field'][1]}"
            )
        grid[0].set_title(translate("one unit can see", "单个单元可见的范围"), loc="left", fontsize=13)
        fig.legend(loc="outside lower center", ncols=4, handlelength=1.4, columnspacing=1.2)
        for axes, field in zip(grid[1:], panels, strict=True):
            heat = np.asarray(field.shares / field.shares.max()) ** 0.5
            _draw_image(axes, overlay_heatmap(image, heat))
            _draw_frame(axes, layers[field.layer], "#ffffff", "--")
            axes.set_title(field.layer, loc="left", fontsize=13, color=INK, parse_math=False)
            axes.set_xlabel(translate(f"effective {field.side:.1f} px", f"有效 {field.side:.1f} 像素"))

    return render_figure(draw, size=(2.9 * (1 + len(panels)), 4.1 + 0.25 * (min(len(layers), FRAMES) > 4)))


def _draw_image(axes: Any, image: Floats) -> None:
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


def _draw_frame(axes: Any, la: Json, color: str, style: str) -> None:
    """Draw the theoretical field of a layer's middle unit as a frame; the pixel i covers [i − ½, i + ½]."""
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

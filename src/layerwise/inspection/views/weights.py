"""The view ``weights``: statistics and histograms of every layer's weights, and the first layer's weights as images.

A model without a run shows its initialization.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layerwise import registry
from layerwise.inspection.base import Json, Target, View, format_table, get_model_arguments, save
from layerwise.models.boltzmann import list_rbms
from layerwise.plotting.charts import draw_histogram, render_figure
from layerwise.plotting.images import Floats, draw_image_sheet, split_into_rows
from layerwise.plotting.svg import INK, SERIES
from layerwise.runtime import rng
from layerwise.tasks.inputs import ImageInputs

NEAR_ZERO = 1e-3  # of the tensor's largest magnitude
BINS, COLUMNS, MAX_FILTERS, MAX_PANELS = 41, 10, 60, 12


def view(target: Target, *, out: Path | None) -> View:
    """Return statistics of every parameter, and histograms of those with two axes or more.

    Writes ``weights.svg``, and ``filters.svg`` if the first layer's inputs are images.
    """
    model = target.model if target.model is not None else build_untrained_model(target)
    parameters = [(name, p.detach().to("cpu", torch.float64)) for name, p in model.named_parameters()]
    layers = [{"name": name, **describe_weight(p)} for name, p in parameters]
    images, total = get_first_layer_images(target, model)
    data = {"model": target.spec.name, "trained": target.run is not None, "layers": layers, "filters": total}
    figures = save(out, "weights.svg", draw_figure(target, data)) if any(layer["histogram"] for layer in layers) else []
    if images:
        figures += save(out, "filters.svg", draw_image_sheet(split_into_rows(images, COLUMNS)))
    return View("weights", data, format_text(target, data, drawn=len(images)), figures)


def build_untrained_model(target: Target) -> nn.Module:
    """Build a model of the registry with its initial weights, drawn from seed 0 as in training."""
    with rng.use_seed(rng.derive_seed(0, "weights")):
        model: nn.Module = registry.get_builder(target.spec)(**get_model_arguments(target))
    return model


def describe_weight(weight: Tensor) -> Json:
    """Return a tensor's shape, mean, deviation, norm, largest magnitude, shares of zeros and near zeros, and histogram.

    ``near_zeros`` counts magnitudes up to a thousandth of the largest, with exact zeros. The histogram (None for
    vectors) has 0 in its middle bin.
    """
    magnitude = weight.abs()
    largest = float(magnitude.max()) if weight.numel() else 0.0
    histogram = None
    if weight.ndim > 1 and largest:
        edges = np.linspace(-largest, largest, BINS + 1)
        counts, _ = np.histogram(weight.numpy(), edges)
        histogram = {"edges": edges.tolist(), "counts": counts.tolist()}
    return {
        "shape": list(weight.shape),
        "mean": float(weight.mean()),
        "deviation": float(weight.std(correction=0)),
        "norm": float(weight.norm()),
        "largest": largest,
        "zeros": float((weight == 0).double().mean()),
        "near_zeros": float((magnitude <= NEAR_ZERO * largest).double().mean()),
        "histogram": histogram,
    }


def get_first_layer_images(target: Target, model: nn.Module) -> tuple[list[Floats], int]:
    """Return up to 60 of the first layer's weights as images, in order of decreasing norm, and the number of units.

    Each image has its own scale in [0, 1], with 0 at mid-gray. Returns ([], 0) if the inputs are not images.
    """
    first_layer = get_first_layer_weights(target, model)
    if first_layer is None:
        return [], 0
    rows = first_layer.weights
    chosen = rows[sort_by_norm(rows)[:MAX_FILTERS]]
    images = 0.5 + 0.5 * chosen / chosen.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return list(images.numpy()), len(rows)


class FirstLayer(NamedTuple):
    """A first layer's weights (units, C, H, W), its name, and whether it is a convolution."""

    weights: Tensor
    name: str
    convolution: bool


def get_first_layer_weights(target: Target, model: nn.Module) -> FirstLayer | None:
    """Return the first layer's weights if its inputs are images of 1 or 3 channels, else None.

    These are the kernels of a convolution, or the rows of a linear layer or Boltzmann machine over images.
    """
    inputs = target.task.inputs if target.task is not None else None
    layers: list[tuple[str, nn.Module]] = [
        (n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    if list_rbms(model):
        layers = [("", list_rbms(model)[0])]
    if not layers:
        return None
    name, first = layers[0]
    weight = first.weight
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach().to("cpu", torch.float64)
    if weight.ndim == 4 and weight.shape[1] in (1, 3):
        return FirstLayer(weight, name, True)
    if isinstance(inputs, ImageInputs) and weight.ndim == 2 and weight.shape[1] == inputs.model_args()["features"]:
        return FirstLayer(weight.view(-1, inputs.channels, *inputs.size), name, False)
    return None


def sort_by_norm(rows: Tensor) -> Tensor:
    """Return the indices of units (units, C, H, W) in order of decreasing norm."""
    norms: Tensor = rows.flatten(1).norm(dim=1)
    return norms.argsort(descending=True, stable=True)


def draw_figure(target: Target, data: Json) -> str:
    """Draw the histograms of up to twelve weight tensors, with the bin around 0 in another color."""
    matrices = [layer for layer in data["layers"] if layer["histogram"]]
    count = min(MAX_PANELS, len(matrices))
    indices = sorted({round(i * (len(matrices) - 1) / max(1, count - 1)) for i in range(count)})
    columns = 2 if len(indices) > 1 else 1
    rows = -(-len(indices) // columns)
    colors = [SERIES[1] if i == BINS // 2 else SERIES[0] for i in range(BINS)]

    def draw(fig: Any) -> None:
        grid = fig.subplots(rows, columns, squeeze=False).flatten()
        for axes, index in zip(grid, indices, strict=False):
            layer = matrices[index]
            draw_histogram(axes, layer["histogram"]["edges"], layer["histogram"]["counts"], colors=colors)
            shape = "×".join(map(str, layer["shape"]))
            axes.set_title(f"{layer['name']} · {shape}", loc="left", fontsize=13, color=INK, parse_math=False)
        for axes in grid[len(indices) :]:
            axes.axis("off")
        fig.supxlabel(target.translate("weight (orange: around 0)", "权重（橙色：0 附近）"), fontsize=13, color=INK)

    return render_figure(draw, size=(3.9 * columns + 0.4, 0.8 + 1.5 * rows))


def format_text(target: Target, data: Json, *, drawn: int) -> str:
    """Return the table as text."""
    translate = target.translate
    head = [
        translate("weights", "权重"),
        translate("shape", "形状"),
        translate("mean", "均值"),
        translate("deviation", "标准差"),
        translate("norm", "范数"),
        translate("largest", "最大"),
        translate("zeros", "零值"),
        translate("near 0", "近零"),
    ]
    rows = [
        [
            layer["name"],
            "×".join(map(str, layer["shape"])) or "1",
            f"{layer['mean']:.2g}",
            f"{layer['deviation']:.3g}",
            f"{layer['norm']:.4g}",
            f"{layer['largest']:.3g}",
            f"{layer['zeros']:.1%}",
            f"{layer['near_zeros']:.1%}",
        ]
        for layer in data["layers"]
    ]
    state = "" if data["trained"] else translate(", untrained", "（未训练）")
    lines = [f"{data['model']}{state}", "", format_table(head, rows, right=frozenset(range(2, 8))), ""]
    lines.append(
        translate(
            "largest: in magnitude. near 0: at most a thousandth of the largest, exact zeros included.",
            "最大：按绝对值。近零：绝对值不超过最大值的千分之一，含恰为零者。",
        )
    )
    if drawn:
        lines.append(
            translate(
                f"filters.svg: the weights of {drawn} of the first layer's {data['filters']} units, strongest "
                "first; gray is 0, white positive",
                f"filters.svg：首层 {data['filters']} 个单元中的 {drawn} 个的权重，按范数从大到小排列；"
                "灰色为 0，白色为正",
            )
        )
    return "\n".join(lines)

"""The view ``weights``: every layer's weights in numbers and histograms, and what the first layer looks for in
images.

A bare model is built as training would begin with it, so that its weights are those of the initialization.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layerwise import registry
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.models.boltzmann import stack_of
from layerwise.plotting.charts import bars, composed
from layerwise.plotting.images import Floats, in_rows, sheet
from layerwise.plotting.svg import INK, SERIES
from layerwise.runtime import rng
from layerwise.tasks.inputs import ImageInputs

NEAR = 1e-3  # of a tensor's largest weight: what is nearly zero
BINS, COLUMNS, MOST, PANELS = 41, 10, 60, 12


def view(target: Target, *, out: Path | None) -> View:
    """Return each weight tensor's statistics. Writes ``weights.svg``, and ``filters.svg`` where the first layer sees
    images.

    Biases and normalizations' vectors are listed too; histograms are drawn of tensors with two axes or more.
    """
    model = target.model if target.model is not None else untrained(target)
    named = [(name, p.detach().to("cpu", torch.float64)) for name, p in model.named_parameters()]
    layers = [{"name": name, **described(p)} for name, p in named]
    images, total = first_images(target, model)
    data = {"model": target.spec.name, "trained": target.run is not None, "layers": layers, "filters": total}
    figures = save(out, "weights.svg", figure(target, data)) if any(la["histogram"] for la in layers) else []
    if images:
        figures += save(out, "filters.svg", sheet(in_rows(images, COLUMNS)))
    return View("weights", data, written(target, data, shown=len(images)), figures)


def untrained(target: Target) -> nn.Module:
    """Build a bare model's network of full size, with weights drawn from seed 0 as for a run."""
    with rng.seeded(rng.key(0, "weights")):
        model: nn.Module = registry.builder(target.spec)(**(target.arguments or target.spec.size))
    return model


def described(weight: Tensor) -> Json:
    """Return a tensor's shape, mean, deviation, norm, largest magnitude, shares of exact and near zeros, and its
    histogram.

    ``near_zeros``: magnitudes up to a thousandth of the largest, exact zeros included. The histogram (None for vectors)
    has 0 in its middle bin.
    """
    size = weight.abs()
    largest = float(size.max()) if weight.numel() else 0.0
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
        "near_zeros": float((size <= NEAR * largest).double().mean()),
        "histogram": histogram,
    }


def first_images(target: Target, model: nn.Module) -> tuple[list[Floats], int]:
    """Return what the first layer looks for as images, those of largest norm first, at most 60; and how many units
    there are.

    Each is brought to [0, 1] by its own largest magnitude, 0 at mid-gray. None where the inputs are no images.
    """
    found = first_weights(target, model)
    if found is None:
        return [], 0
    rows = found.weights
    chosen = rows[strongest(rows)[:MOST]]
    shown = 0.5 + 0.5 * chosen / chosen.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    return list(shown.numpy()), len(rows)


class First(NamedTuple):
    """A first layer's weights (units, C, H, W), its name, and whether it is a convolution."""

    weights: Tensor
    name: str
    convolution: bool


def first_weights(target: Target, model: nn.Module) -> First | None:
    """Return what the first layer's units look for in images of 1 or 3 channels; None where its inputs are no such
    images.

    Kernels of a first convolution, or the rows of a first linear layer (or Boltzmann machine) over images.
    """
    inputs = target.task.inputs if target.task is not None else None
    named: list[tuple[str, nn.Module]] = [
        (n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    if stack_of(model):
        named = [("", stack_of(model)[0])]
    if not named:
        return None
    name, first = named[0]
    weight = first.weight
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach().to("cpu", torch.float64)
    if weight.ndim == 4 and weight.shape[1] in (1, 3):
        return First(weight, name, True)
    if isinstance(inputs, ImageInputs) and weight.ndim == 2 and weight.shape[1] == inputs.model_args()["features"]:
        return First(weight.view(-1, inputs.channels, *inputs.size), name, False)
    return None


def strongest(rows: Tensor) -> Tensor:
    """Return the numbers of units (units, C, H, W), that of the largest norm first."""
    norms: Tensor = rows.flatten(1).norm(dim=1)
    return norms.argsort(descending=True, stable=True)


def figure(target: Target, data: Json) -> str:
    """Draw the histograms of up to twelve weight tensors, the bin around 0 in another color."""
    listed = [la for la in data["layers"] if la["histogram"]]
    picks = sorted(
        {round(i * (len(listed) - 1) / max(1, min(PANELS, len(listed)) - 1)) for i in range(min(PANELS, len(listed)))}
    )
    columns = 2 if len(picks) > 1 else 1
    rows = -(-len(picks) // columns)
    colors = [SERIES[1] if i == BINS // 2 else SERIES[0] for i in range(BINS)]

    def draw(fig: Any) -> None:
        grid = fig.subplots(rows, columns, squeeze=False).flatten()
        for axes, at in zip(grid, picks, strict=False):
            la = listed[at]
            bars(axes, la["histogram"]["edges"], la["histogram"]["counts"], colors=colors)
            shape = "×".join(map(str, la["shape"]))
            axes.set_title(f"{la['name']} · {shape}", loc="left", fontsize=13, color=INK, parse_math=False)
        for axes in grid[len(picks) :]:
            axes.axis("off")
        fig.supxlabel(target.say("weight (orange: around 0)", "权重（橙色：0 附近）"), fontsize=13, color=INK)

    return composed(draw, size=(3.9 * columns + 0.4, 0.8 + 1.5 * rows))


def written(target: Target, data: Json, *, shown: int) -> str:
    """Return the table for people."""
    say = target.say
    head = [
        say("weights", "权重"),
        say("shape", "形状"),
        say("mean", "均值"),
        say("deviation", "标准差"),
        say("norm", "范数"),
        say("largest", "最大"),
        say("zeros", "零值"),
        say("near 0", "近零"),
    ]
    rows = [
        [
            la["name"],
            "×".join(map(str, la["shape"])) or "1",
            f"{la['mean']:.2g}",
            f"{la['deviation']:.3g}",
            f"{la['norm']:.4g}",
            f"{la['largest']:.3g}",
            f"{la['zeros']:.1%}",
            f"{la['near_zeros']:.1%}",
        ]
        for la in data["layers"]
    ]
    state = "" if data["trained"] else say(", untrained", "（未训练）")
    lines = [f"{data['model']}{state}", "", table(head, rows, right=frozenset(range(2, 8))), ""]
    lines.append(
        say(
            "largest: in magnitude. near 0: at most a thousandth of the largest, exact zeros included.",
            "最大：按绝对值。近零：绝对值不超过最大值的千分之一，含恰为零者。",
        )
    )
    if shown:
        lines.append(
            say(
                f"filters.svg: what {shown} of the first layer's {data['filters']} units look for, strongest "
                "first; gray is 0, white positive",
                f"filters.svg：首层 {data['filters']} 个单元中的 {shown} 个所寻找的图样，范数大者在前；"
                "灰色为 0，白色为正",
            )
        )
    return "\n".join(lines)

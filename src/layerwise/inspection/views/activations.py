"""The view ``activations``: inputs and outputs of every activation over a part of the data; saturated and dead units.

A value is saturated where |f′(z)| is below a tenth of its maximum. A unit is dead if it is saturated on every example,
and a map if it is so at every position; a dead ReLU is never active. For a model without data the view shows the
activation functions (`view_activation_functions`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.source import SPLITS, Array, Source, fetch
from layerwise.data.values import call
from layerwise.errors import DataError, make_unknown_name_error
from layerwise.inference.predict import inference_context
from layerwise.inspection.activation_functions import view_activation_functions
from layerwise.inspection.activation_tracing import (
    ActivationCall,
    Derivative,
    find_saturated,
    flatten_by_unit,
    trace_activations,
)
from layerwise.inspection.base import Json, Target, View, format_table, require_data, save
from layerwise.inspection.predictions import get_device_and_dtype
from layerwise.plotting.charts import draw_histogram, render_figure
from layerwise.plotting.svg import INK, SERIES
from layerwise.tasks.base import Task

EXAMPLES, BATCH = 1000, 64
BINS, REACH = 40, 4.0  # of a histogram, and its half-width in standard deviations at most
PANELS = 8  # layers in the figure
OUTPUTS = "(outputs)"


@dataclass
class RunningStatistics:
    """Statistics of values in batches: count, mean, deviation, extremes, exact zeros; in a second pass, a histogram."""

    count: int = 0
    total: float = 0.0
    sum_of_squares: float = 0.0
    zeros: int = 0
    least: float = math.inf
    largest: float = -math.inf
    bins: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Add a batch of values to the statistics."""
        wide = values.double()
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.sum_of_squares += float(wide.square().sum())
        self.zeros += int((values == 0).sum())
        self.least, self.largest = min(self.least, float(wide.min())), max(self.largest, float(wide.max()))

    @property
    def mean(self) -> float:
        """The mean."""
        return self.total / max(1, self.count)

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(max(0.0, self.sum_of_squares / max(1, self.count) - self.mean**2))

    @property
    def histogram_range(self) -> tuple[float, float]:
        """The ends of the histogram; its outer bins count the values beyond."""
        low, high = (self.mean + side * REACH * self.deviation for side in (-1, 1))
        low, high = max(low, self.least), min(high, self.largest)
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def add_to_histogram(self, values: Tensor) -> None:
        """Add a batch of values to the histogram; if many are exactly 0, without those, which would hide the rest."""
        low, high = self.histogram_range
        counted = values[values != 0] if self.has_many_zeros else values
        self.bins += torch.histc(counted.double().clamp(low, high).cpu(), BINS, low, high)

    @property
    def has_many_zeros(self) -> bool:
        """Whether more than one value in twenty is exactly zero."""
        return self.zeros > self.count / 20

    def to_json(self) -> Json:
        """Return the statistics as plain numbers."""
        low, high = self.histogram_range
        edges = [low + (high - low) * i / BINS for i in range(BINS + 1)]
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "least": self.least,
            "largest": self.largest,
            "zeros": self.zeros / max(1, self.count),
            "histogram": {"edges": edges, "counts": [int(c) for c in self.bins], "without_zeros": self.has_many_zeros},
        }


@dataclass
class ActivationStatistics:
    """Statistics of one activation over all examples: z and a, the number of saturated values, and a mask of the units
    that are not dead."""

    key: tuple[str, str, int]
    type: str
    slope: Derivative | None
    learned_slopes: Tensor | None = None
    z: RunningStatistics = field(default_factory=RunningStatistics)
    a: RunningStatistics = field(default_factory=RunningStatistics)
    saturated: int = 0
    alive: Tensor | None = None
    units: int = 0

    def add(self, call: ActivationCall) -> None:
        """Add a batch to the statistics."""
        self.z.add(call.z)
        self.a.add(call.a)
        self.units = flatten_by_unit(call.z).shape[1]
        if self.slope is not None:
            is_saturated = flatten_by_unit(find_saturated(call.z, self.slope, call.key[1]))
            self.saturated += int(is_saturated.sum())
            is_alive = (~is_saturated).any(0).cpu()
            self.alive = is_alive if self.alive is None else self.alive | is_alive

    def to_json(self, *, with_index: bool) -> Json:
        """Return the statistics as JSON; ``saturated`` and ``dead`` are None if the activation is not elementwise."""
        name, function, index = self.key
        dead = None if self.alive is None else int((~self.alive).sum())
        out: Json = {
            "name": f"{name}·{index + 1}" if with_index else name,
            "type": self.type,
            "function": function,
            "units": self.units,
            "saturated": None if self.alive is None else self.saturated / max(1, self.z.count),
            "dead": dead,
            "z": self.z.to_json(),
            "a": self.a.to_json(),
        }
        return out if self.learned_slopes is None else {**out, "slopes": self.learned_slopes.flatten().tolist()}


def view(target: Target, *, out: Path | None) -> View:
    """Return each activation's statistics over evenly spaced examples of the validation part.

    The network is in evaluation mode. For a model without data, returns the functions by name. Writes
    ``activations.svg``.
    """
    if target.model is None:
        return view_activation_functions(target, out=out)
    model, task, splits = require_data(target, "activations")
    split = target.split or "val"
    if split not in SPLITS:
        raise make_unknown_name_error("split", split, SPLITS)
    source = task.convert_source(splits.part(split))
    if not len(source):
        raise DataError(f"the {split} part has no examples", expected="at least one")
    count = min(len(source), target.examples or EXAMPLES)
    statistics = measure_activations(model, task, source, np.linspace(0, len(source) - 1, count).astype(np.int64))
    uses = Counter(layer.key[:2] for layer in statistics)
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "split": split,
        "examples": count,
        "layers": [layer.to_json(with_index=uses[layer.key[:2]] > 1) for layer in statistics],
    }
    figures = save(out, "activations.svg", draw_figure(target, data, statistics))
    return View("activations", data, format_text(target, data), figures)


def measure_activations(model: nn.Module, task: Task, source: Source, indices: Array) -> list[ActivationStatistics]:
    """Run the model twice over the examples with these indices (N,), and return the statistics in order of calls.

    The first pass computes the sums, the second the histograms.
    """
    layers: dict[tuple[str, str, int], ActivationStatistics] = {}
    device, dtype = get_device_and_dtype(model)

    def add_sums(call: ActivationCall) -> None:
        new = ActivationStatistics(call.key, call.module_type, call.slope, call.learned_slopes)
        layers.setdefault(call.key, new).add(call)

    def add_histograms(call: ActivationCall) -> None:
        layers[call.key].z.add_to_histogram(call.z)
        layers[call.key].a.add_to_histogram(call.a)

    # in inference mode torch does not dispatch the activations inside composite operations
    with inference_context(model, device), torch.inference_mode(False), torch.no_grad():
        for report in (add_sums, add_histograms):
            for start in range(0, len(indices), BATCH):
                batch = task.collate(fetch(source, indices[start : start + BATCH])).to(device, dtype)
                with trace_activations(model, report):
                    outputs = call(model, batch.inputs)
                key = (OUTPUTS, "linear", 0)
                report(ActivationCall(key, type(model).__name__, outputs, outputs, torch.ones_like, None))
    return [*(layer for key, layer in layers.items() if key[0] != OUTPUTS), layers[OUTPUTS, "linear", 0]]


def draw_figure(target: Target, data: Json, statistics: Sequence[ActivationStatistics]) -> str:
    """Draw the histograms of z and a of up to eight layers, with saturated values in another color."""
    count, last = min(PANELS, len(statistics)), len(statistics) - 1
    indices = sorted({round(i * last / max(1, count - 1)) for i in range(count)})

    def draw(fig: Any) -> None:
        grid = fig.subplots(len(indices), 2, squeeze=False)
        for (left, right), index in zip(grid, indices, strict=True):
            row, layer = data["layers"][index], statistics[index]
            edges = row["z"]["histogram"]["edges"]
            middles = torch.tensor([(a + b) / 2 for a, b in pairwise(edges)], dtype=torch.float64)
            is_saturated = (
                [False] * BINS
                if layer.slope is None or layer.learned_slopes is not None
                else find_saturated(middles, layer.slope, layer.key[1]).tolist()
            )
            colors = [SERIES[1] if saturated else SERIES[0] for saturated in is_saturated]
            draw_histogram(left, edges, row["z"]["histogram"]["counts"], colors=colors)
            histogram = row["a"]["histogram"]
            draw_histogram(right, histogram["edges"], histogram["counts"], colors=[SERIES[2]] * BINS)
            left.set_title(f"{row['name']} · {row['function']}", loc="left", fontsize=13, color=INK, parse_math=False)
            right.set_title(format_remark(target, row), loc="left", fontsize=13, color=INK)
        grid[-1][0].set_xlabel(target.translate("pre-activation z", "预激活 z"))
        has_many_zeros = any(data["layers"][index]["a"]["histogram"]["without_zeros"] for index in indices)
        left_out = target.translate(", zeros left out", "（略去零值）") if has_many_zeros else ""
        grid[-1][1].set_xlabel(target.translate("activation a = f(z)", "激活 a = f(z)") + left_out)

    return render_figure(draw, size=(7.2, 0.7 + 1.35 * len(indices)))


def format_remark(target: Target, layer: Json) -> str:
    """Return the shares of saturated values and dead units, as text for the figure."""
    parts = []
    if layer["saturated"]:
        parts.append(target.translate(f"{layer['saturated']:.0%} saturated", f"饱和 {layer['saturated']:.0%}"))
    if layer["dead"]:
        parts.append(
            target.translate(
                f"{layer['dead']} of {layer['units']} dead", f"{layer['units']} 个中 {layer['dead']} 个死亡"
            )
        )
    return target.translate(", ", "，").join(parts)


def format_text(target: Target, data: Json) -> str:
    """Return the table as text."""
    translate = target.translate
    head = [
        translate("layer", "层"),
        "f",
        translate("units", "单元"),
        translate("mean z", "z 均值"),
        translate("dev. z", "z 标准差"),
        translate("mean a", "a 均值"),
        translate("dev. a", "a 标准差"),
        translate("saturated", "饱和"),
        translate("dead", "死亡"),
    ]
    rows = []
    for layer in data["layers"]:
        moments = (f"{layer[q][key]:.3g}" for q in ("z", "a") for key in ("mean", "deviation"))
        saturated = "–" if layer["saturated"] is None else f"{layer['saturated']:.1%}"
        dead = "–" if layer["dead"] is None else str(layer["dead"])
        rows.append([layer["name"], format_function(layer), str(layer["units"]), *moments, saturated, dead])
    state = "" if data["trained"] else translate(", untrained", "（未训练）")
    return "\n".join(
        [
            translate(
                f"{data['model']}{state}: {data['examples']} examples of the {data['split']} part",
                f"{data['model']}{state}：{data['split']} 部分的 {data['examples']} 个样本",
            ),
            "",
            format_table(head, rows, right=frozenset(range(2, 9))),
            "",
            translate(
                "saturated: values where |f′(z)| is below a tenth of its largest value (for relu: off).\n"
                "dead: units that are so on every example; of a convolution, maps that are so everywhere.",
                "饱和：|f′(z)| 小于其最大值十分之一的值（对 relu 即未激活）。\n"
                "死亡：在每个样本上都如此的单元；对卷积层，指处处如此的特征图。",
            ),
        ]
    )


def format_function(layer: Json) -> str:
    """Return an activation's name, with its learned slopes if it has any."""
    if "slopes" not in layer:
        return str(layer["function"])
    low, high = min(layer["slopes"]), max(layer["slopes"])
    return f"{layer['function']} {low:.3g}" if low == high else f"{layer['function']} {low:.3g}…{high:.3g}"

"""The view ``activations``: what goes into and comes out of every layer's units over a part of the data; saturation and
dead units (S08).

A value is saturated where |f′(z)| is below a tenth of its largest value; a unit is dead that is so on every example
(and, a map, at every place). For ReLU that is a unit that is never active. A bare model shows the functions themselves
(`inspect.functions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.source import SPLITS, Array, Source, fetch
from layerwise.errors import DataError, unknown
from layerwise.inference.predict import evaluating
from layerwise.inspection.activation_functions import functions
from layerwise.inspection.base import Json, Target, View, save, table, trained
from layerwise.inspection.predictions import place_of
from layerwise.inspection.tracing import Call, Slope, by_unit, flat, watched
from layerwise.plotting.charts import bars, composed
from layerwise.plotting.svg import INK, SERIES
from layerwise.tasks.base import Task

EXAMPLES, BATCH = 1000, 64
BINS, REACH = 40, 4.0  # of a histogram, and how many deviations it reaches at most
PANELS = 8  # layers in the figure
OUTPUTS = "(outputs)"


@dataclass
class Values:
    """Sums over values as they pass: count, mean, deviation, extremes, exact zeros; then, knowing these, a
    histogram."""

    count: int = 0
    total: float = 0.0
    square: float = 0.0
    zeros: int = 0
    least: float = math.inf
    largest: float = -math.inf
    bins: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Take values in."""
        wide = values.double()
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.square += float(wide.square().sum())
        self.zeros += int((values == 0).sum())
        self.least, self.largest = min(self.least, float(wide.min())), max(self.largest, float(wide.max()))

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / max(1, self.count)

    @property
    def deviation(self) -> float:
        """Their standard deviation."""
        return math.sqrt(max(0.0, self.square / max(1, self.count) - self.mean**2))

    @property
    def ends(self) -> tuple[float, float]:
        """Where the histogram begins and ends; values beyond are counted in its last bins."""
        low, high = (self.mean + side * REACH * self.deviation for side in (-1, 1))
        low, high = max(low, self.least), min(high, self.largest)
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def sort_in(self, values: Tensor) -> None:
        """Count values by bin; exact zeros are left out if they are many, for they would hide the rest."""
        low, high = self.ends
        shown = values[values != 0] if self.spiked else values
        self.bins += torch.histc(shown.double().clamp(low, high).cpu(), BINS, low, high)

    @property
    def spiked(self) -> bool:
        """Whether more than one value in twenty is exactly zero."""
        return self.zeros > self.count / 20

    def to_json(self) -> Json:
        """Return everything as plain numbers."""
        low, high = self.ends
        edges = [low + (high - low) * i / BINS for i in range(BINS + 1)]
        return {
            "mean": self.mean,
            "deviation": self.deviation,
            "least": self.least,
            "largest": self.largest,
            "zeros": self.zeros / max(1, self.count),
            "histogram": {"edges": edges, "counts": [int(c) for c in self.bins], "without_zeros": self.spiked},
        }


@dataclass
class Layer:
    """One use of an activation, over all examples: z and a, the values that are saturated, and the units that once were
    not."""

    key: tuple[str, str, int]
    type: str
    slope: Slope | None
    learned: Tensor | None = None
    z: Values = field(default_factory=Values)
    a: Values = field(default_factory=Values)
    saturated: int = 0
    alive: Tensor | None = None
    units: int = 0

    def add(self, call: Call) -> None:
        """Take a batch in."""
        self.z.add(call.z)
        self.a.add(call.a)
        self.units = by_unit(call.z).shape[1]
        if self.slope is not None:
            off = by_unit(flat(call.z, self.slope, call.key[1]))
            self.saturated += int(off.sum())
            awake = (~off).any(0).cpu()
            self.alive = awake if self.alive is None else self.alive | awake

    def to_json(self, *, numbered: bool) -> Json:
        """Return the layer; ``saturated`` and ``dead`` are None where the function is not elementwise."""
        name, function, number = self.key
        dead = None if self.alive is None else int((~self.alive).sum())
        out: Json = {
            "name": f"{name}·{number + 1}" if numbered else name,
            "type": self.type,
            "function": function,
            "units": self.units,
            "saturated": None if self.alive is None else self.saturated / max(1, self.z.count),
            "dead": dead,
            "z": self.z.to_json(),
            "a": self.a.to_json(),
        }
        return out if self.learned is None else {**out, "slopes": self.learned.flatten().tolist()}


def view(target: Target, *, out: Path | None) -> View:
    """Return each activation's statistics over evenly spaced examples of the validation part. Writes
    ``activations.svg``.

    Dropout is off and batch norm uses its running statistics. A bare model gets the functions by name instead.
    """
    if target.model is None:
        return functions(target, out=out)
    model, task, splits = trained(target, "activations")
    split = target.split or "val"
    if split not in SPLITS:
        raise unknown("part of the data", split, SPLITS)
    source = task.adopt(splits.part(split))
    if not len(source):
        raise DataError(f"the {split} part has no examples", expected="at least one")
    count = min(len(source), target.examples or EXAMPLES)
    found = measured(model, task, source, np.linspace(0, len(source) - 1, count).astype(np.int64))
    twice = {key for key in (la.key[:2] for la in found) if sum(la.key[:2] == key for la in found) > 1}
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "split": split,
        "examples": count,
        "layers": [la.to_json(numbered=la.key[:2] in twice) for la in found],
    }
    figures = save(out, "activations.svg", figure(target, data, found))
    return View("activations", data, written(target, data), figures)


def measured(model: nn.Module, task: Task, source: Source, at: Array) -> list[Layer]:
    """Run the model twice over examples of these numbers (N,), for the sums and for the histograms, and return its
    layers in order."""
    layers: dict[tuple[str, str, int], Layer] = {}
    device, dtype = place_of(model)

    def first(call: Call) -> None:
        layers.setdefault(call.key, Layer(call.key, call.kind, call.slope, call.learned)).add(call)

    def second(call: Call) -> None:
        layers[call.key].z.sort_in(call.z)
        layers[call.key].a.sort_in(call.a)

    # inference mode hands composite operations over whole, with the activations inside them unseen
    with evaluating(model, device), torch.inference_mode(False), torch.no_grad():
        for report in (first, second):
            for start in range(0, len(at), BATCH):
                batch = task.collate(fetch(source, at[start : start + BATCH])).to(device, dtype)
                with watched(model, report):
                    outputs = model(batch.inputs)
                report(Call((OUTPUTS, "linear", 0), type(model).__name__, outputs, outputs, torch.ones_like, None))
    return [*(la for key, la in layers.items() if key[0] != OUTPUTS), layers[OUTPUTS, "linear", 0]]


def figure(target: Target, data: Json, found: Sequence[Layer]) -> str:
    """Draw the histograms of z and a of up to eight layers, in order, saturated values in another color."""
    last = len(found) - 1
    shown = sorted({round(i * last / max(1, min(PANELS, len(found)) - 1)) for i in range(min(PANELS, len(found)))})

    def draw(fig: Any) -> None:
        grid = fig.subplots(len(shown), 2, squeeze=False)
        for (left, right), at in zip(grid, shown, strict=True):
            la, layer = data["layers"][at], found[at]
            edges = la["z"]["histogram"]["edges"]
            middles = torch.tensor([(a + b) / 2 for a, b in pairwise(edges)], dtype=torch.float64)
            off = (
                [False] * BINS
                if layer.slope is None or layer.learned is not None
                else flat(middles, layer.slope, layer.key[1]).tolist()
            )
            bars(left, edges, la["z"]["histogram"]["counts"], colors=[SERIES[1] if o else SERIES[0] for o in off])
            bars(right, la["a"]["histogram"]["edges"], la["a"]["histogram"]["counts"], colors=[SERIES[2]] * BINS)
            left.set_title(f"{la['name']} · {la['function']}", loc="left", fontsize=13, color=INK, parse_math=False)
            right.set_title(remark(target, la), loc="left", fontsize=13, color=INK)
        grid[-1][0].set_xlabel(target.say("pre-activation z", "预激活 z"))
        spiked = any(data["layers"][at]["a"]["histogram"]["without_zeros"] for at in shown)
        left_out = target.say(", zeros left out", "（略去零值）") if spiked else ""
        grid[-1][1].set_xlabel(target.say("activation a = f(z)", "激活 a = f(z)") + left_out)

    return composed(draw, size=(7.2, 0.7 + 1.35 * len(shown)))


def remark(target: Target, la: Json) -> str:
    """Return what the figure says of a layer."""
    parts = []
    if la["saturated"]:
        parts.append(target.say(f"{la['saturated']:.0%} saturated", f"饱和 {la['saturated']:.0%}"))
    if la["dead"]:
        parts.append(target.say(f"{la['dead']} of {la['units']} dead", f"{la['units']} 个中 {la['dead']} 个死亡"))
    return target.say(", ", "，").join(parts)


def written(target: Target, data: Json) -> str:
    """Return the table for people."""
    say = target.say
    head = [
        say("layer", "层"),
        "f",
        say("units", "单元"),
        say("mean z", "z 均值"),
        say("dev. z", "z 标准差"),
        say("mean a", "a 均值"),
        say("dev. a", "a 标准差"),
        say("saturated", "饱和"),
        say("dead", "死亡"),
    ]
    rows = [
        [
            la["name"],
            function(la),
            str(la["units"]),
            *(f"{la[q][key]:.3g}" for q in ("z", "a") for key in ("mean", "deviation")),
            "–" if la["saturated"] is None else f"{la['saturated']:.1%}",
            "–" if la["dead"] is None else str(la["dead"]),
        ]
        for la in data["layers"]
    ]
    state = "" if data["trained"] else say(", untrained", "（未训练）")
    return "\n".join(
        [
            say(
                f"{data['model']}{state}: {data['examples']} examples of the {data['split']} part",
                f"{data['model']}{state}：{data['split']} 部分的 {data['examples']} 个样本",
            ),
            "",
            table(head, rows, right=frozenset(range(2, 9))),
            "",
            say(
                "saturated: values where |f′(z)| is below a tenth of its largest value (for relu: off).\n"
                "dead: units that are so on every example; of a convolution, maps that are so everywhere.",
                "饱和：|f′(z)| 小于其最大值十分之一的值（对 relu 即未激活）。\n"
                "死亡：在每个样本上都如此的单元；对卷积层，指处处如此的特征图。",
            ),
        ]
    )


def function(la: Json) -> str:
    """Return an activation's name, with the slopes it learned."""
    if "slopes" not in la:
        return str(la["function"])
    low, high = min(la["slopes"]), max(la["slopes"])
    return f"{la['function']} {low:.3g}" if low == high else f"{la['function']} {low:.3g}…{high:.3g}"

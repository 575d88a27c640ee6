"""Every activation function by name: f and f′ as numbers and curves (E04, E05); the view ``activations`` of a model
without data.

Softmax is a function of all K units. The view shows the first of three units with the other two at 0,
y₁ = e^z / (e^z + 2); its slope is ∂y₁/∂z₁ = y₁(1 − y₁), the diagonal of the Jacobian.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerwise import registry
from layerwise.functional.activations import activation, derivative
from layerwise.inspection.activation_tracing import FLAT
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.nn.layers import ACTIVATIONS
from layerwise.plotting.charts import render_figure
from layerwise.plotting.svg import INK, MUTED, SERIES

FORMULAS = {
    "sigmoid": "1 / (1 + e⁻ᶻ)",
    "relu": "max(0, z)",
    "tanh": "(eᶻ − e⁻ᶻ) / (eᶻ + e⁻ᶻ)",
    "softmax": "eᶻ / Σⱼ e^zⱼ",
    "linear": "z",
    "leaky-relu": "z > 0: z, else 0.01 z",
    "prelu": "z > 0: z, else a z",
    "elu": "z > 0: z, else eᶻ − 1",
    "gelu": "z Φ(z)",
    "silu": "z / (1 + e⁻ᶻ)",
    "softplus": "ln(1 + eᶻ)",
}
OTHER_LOGITS = 2  # of softmax, at 0
RANGE, POINTS = 5.0, 401
COLUMNS = 4


def evaluate_activation(name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(z) and f′(z), each (P,), of an activation by name; for softmax, y₁ and ∂y₁/∂z₁."""
    if name != "softmax":
        plain = name.replace("-", "_")
        return activation(plain)(z), derivative(plain, z)
    rows = torch.cat([z[:, None], z.new_zeros(len(z), OTHER_LOGITS)], 1)  # (P, 3)
    first = activation("softmax")(rows)[:, 0]
    return first, first * (1 - first)


def view_activation_functions(target: Target, *, out: Path | None) -> View:
    """Return each activation's formula, largest slope and flat intervals. Writes ``activations.svg``."""
    z = torch.linspace(-RANGE, RANGE, POINTS, dtype=torch.float64)
    functions = [_describe_activation(name, z) for name in ACTIVATIONS]
    own = inspect.signature(registry.get_builder(target.spec)).parameters.get("activation")
    data = {"model": target.spec.name, "own": None if own is None else own.default, "functions": functions}
    return View("activations", data, _format_text(target, data), save(out, "activations.svg", draw_figure(z)))


def _describe_activation(name: str, z: Tensor) -> Json:
    """Return an activation's formula, its values at integers, the largest |f′| on [−5, 5], and the intervals where
    |f′| is below a tenth of that."""
    _, slope = evaluate_activation(name, z)
    low = slope.abs() < FLAT * float(slope.abs().max())
    integers = torch.linspace(-RANGE, RANGE, int(2 * RANGE) + 1, dtype=torch.float64)
    points, slopes = evaluate_activation(name, integers)
    return {
        "name": name,
        "formula": FORMULAS[name],
        "z": integers.tolist(),
        "f": points.tolist(),
        "slope": slopes.tolist(),
        "largest_slope": float(slope.abs().max()),
        "flat": find_intervals(z, low),
    }


def find_intervals(z: Tensor, mask: Tensor) -> list[list[float]]:
    """Return the intervals of z (P,) on which ``mask`` (P,) is True, as [low, high]."""
    intervals: list[list[float]] = []
    previous = False
    for value, current in zip(z.tolist(), mask.tolist(), strict=True):
        if current and not previous:
            intervals.append([value, value])
        elif current:
            intervals[-1][1] = value
        previous = current
    return intervals


def draw_figure(z: Tensor) -> str:
    """Draw f and f′ of every activation."""

    def draw(fig: Any) -> None:
        rows = -(-len(ACTIVATIONS) // COLUMNS)
        grid = fig.subplots(rows, COLUMNS, sharex=True).flatten()
        for axes, name in zip(grid, ACTIVATIONS, strict=False):
            value, slope = evaluate_activation(name, z)
            axes.plot(z, value, color=SERIES[0], label="f(z)")
            axes.plot(z, slope, "--", color=SERIES[1], label="f′(z)")
            axes.set_title(name, loc="left", fontsize=13, color=INK)
            axes.set(xlim=(-RANGE, RANGE), ylim=(-1.35, 2.2), xticks=(-4, 0, 4), yticks=(-1, 0, 1, 2))
            axes.axhline(0, color=MUTED, linewidth=0.8)
        for axes in grid[len(ACTIVATIONS) :]:
            axes.axis("off")
        fig.supxlabel("z", fontsize=13, color=MUTED)
        handles, names = grid[0].get_legend_handles_labels()
        grid[-1].legend(handles, names, loc="center", fontsize=14)

    return render_figure(draw, size=(8.6, 6.4))


def _format_text(target: Target, data: Json) -> str:
    """Return the table as text."""
    translate = target.translate
    head = [
        translate("name", "名称"),
        "f(z)",
        *(f"f({v})" for v in (-2, 0, 2)),
        translate("largest f′", "f′ 最大值"),
        translate("flat for z in", "平坦区间 z"),
    ]
    rows = []
    for f in data["functions"]:
        values = {int(z): v for z, v in zip(f["z"], f["f"], strict=True)}
        flat = "  ".join(_format_interval(*ends) for ends in f["flat"]) or "–"
        rows.append(
            [f["name"], f["formula"], *(f"{values[v]:.4g}" for v in (-2, 0, 2)), f"{f['largest_slope']:.4g}", flat]
        )
    own = (
        ""
        if data["own"] is None
        else translate(f"; {data['model']} uses {data['own']} by default", f"；{data['model']} 默认用 {data['own']}")
    )
    return "\n".join(
        [
            translate(
                f"the activations by name (model.activation){own}", f"可按名称选用的激活函数（model.activation）{own}"
            ),
            "",
            format_table(head, rows, right=frozenset({2, 3, 4, 5})),
            "",
            translate(
                "flat: |f′| is under a tenth of its largest value on [−5, 5]; there a unit learns very slowly.\n"
                "softmax: the first of three units, the other two at z = 0. prelu: a is learned, 0.25 at first.\n"
                "Φ: the normal distribution.",
                "平坦：|f′| 小于其在 [−5, 5] 上最大值的十分之一，梯度在此几乎为零。\n"
                "softmax：三个单元中的第一个，另两个的 z 取 0。prelu：a 由学习得到，初值 0.25。\nΦ：正态分布函数。",
            ),
            "",
            translate(
                f"with a run, or with --data SOURCE, this view shows the activations of {data['model']} on data",
                f"若给出运行目录或 --data SOURCE，本视图显示 {data['model']} 各单元在数据上的表现",
            ),
        ]
    )


def _format_interval(low: float, high: float) -> str:
    """Return an interval as text; the ends of the plotted range stand for infinity."""
    left = "−∞" if low <= -RANGE else f"{low:.1f}"
    right = "∞" if high >= RANGE else f"{high:.1f}"
    return f"({left}, {right})".replace("-0.0", "0.0")

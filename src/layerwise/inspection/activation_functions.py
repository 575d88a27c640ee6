"""What the view ``activations`` shows of a bare model: every activation by name, f and f′, in numbers and drawn (S08,
E04, E05).

Softmax gives each of K units a share of 1, so it is no function of one number: it is shown as the first of three units
against the other two at 0, y₁ = e^z / (e^z + 2), whose slope is ∂y₁/∂z₁ = y₁(1 − y₁), the diagonal of its Jacobian.
"""

from __future__ import annotations

import inspect as signatures
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerwise import registry
from layerwise.functional.activations import activation, derivative
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.tracing import FLAT
from layerwise.nn.activations import ACTIVATIONS
from layerwise.plotting.charts import composed
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
OTHERS = 2  # coordinates at 0 beside softmax's own
SPAN, POINTS = 5.0, 401
COLUMNS = 4


def curve(name: str, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(z) and f′(z), each (P,), of an activation by its name; softmax as the module says."""
    if name != "softmax":
        plain = name.replace("-", "_")
        return activation(plain)(z), derivative(plain, z)
    rows = torch.cat([z[:, None], z.new_zeros(len(z), OTHERS)], 1)  # (P, 3)
    first = activation("softmax")(rows)[:, 0]
    return first, first * (1 - first)


def functions(target: Target, *, out: Path | None) -> View:
    """Return every activation's formula, its largest slope and where it is flat. Writes ``activations.svg``."""
    z = torch.linspace(-SPAN, SPAN, POINTS, dtype=torch.float64)
    listed = [_described(name, z) for name in ACTIVATIONS]
    own = signatures.signature(registry.builder(target.spec)).parameters.get("activation")
    data = {"model": target.spec.name, "own": None if own is None else own.default, "functions": listed}
    return View("activations", data, _written(target, data), save(out, "activations.svg", figure(target, z)))


def _described(name: str, z: Tensor) -> Json:
    """Return an activation's formula, values at whole numbers, largest |f′| in [−5, 5], and where |f′| is under a tenth
    of that."""
    _, slope = curve(name, z)
    low = slope.abs() < FLAT * float(slope.abs().max())
    whole = torch.linspace(-SPAN, SPAN, int(2 * SPAN) + 1, dtype=torch.float64)
    points, slopes = curve(name, whole)
    return {
        "name": name,
        "formula": FORMULAS[name],
        "z": whole.tolist(),
        "f": points.tolist(),
        "slope": slopes.tolist(),
        "largest_slope": float(slope.abs().max()),
        "flat": intervals(z, low),
    }


def intervals(z: Tensor, where: Tensor) -> list[list[float]]:
    """Return the stretches of z (P,) on which ``where`` (P,) holds, as pairs of ends."""
    out: list[list[float]] = []
    before = False
    for at, now in zip(z.tolist(), where.tolist(), strict=True):
        if now and not before:
            out.append([at, at])
        elif now:
            out[-1][1] = at
        before = now
    return out


def figure(target: Target, z: Tensor) -> str:
    """Draw f and f′ of every activation."""

    def draw(fig: Any) -> None:
        rows = -(-len(ACTIVATIONS) // COLUMNS)
        grid = fig.subplots(rows, COLUMNS, sharex=True).flatten()
        for axes, name in zip(grid, ACTIVATIONS, strict=False):
            value, slope = curve(name, z)
            axes.plot(z, value, color=SERIES[0], label="f(z)")
            axes.plot(z, slope, "--", color=SERIES[1], label="f′(z)")
            axes.set_title(name, loc="left", fontsize=13, color=INK)
            axes.set(xlim=(-SPAN, SPAN), ylim=(-1.35, 2.2), xticks=(-4, 0, 4), yticks=(-1, 0, 1, 2))
            axes.axhline(0, color=MUTED, linewidth=0.8)
        for axes in grid[len(ACTIVATIONS) :]:
            axes.axis("off")
        fig.supxlabel("z", fontsize=13, color=MUTED)
        handles, names = grid[0].get_legend_handles_labels()
        grid[-1].legend(handles, names, loc="center", fontsize=14)

    del target  # symbols need no translation
    return composed(draw, size=(8.6, 6.4))


def _written(target: Target, data: Json) -> str:
    """Return the table for people."""
    say = target.say
    head = [
        say("name", "名称"),
        "f(z)",
        *(f"f({v})" for v in (-2, 0, 2)),
        say("largest f′", "f′ 最大值"),
        say("flat for z in", "平坦区间 z"),
    ]
    rows = []
    for f in data["functions"]:
        at = {int(z): v for z, v in zip(f["z"], f["f"], strict=True)}
        flat = "  ".join(_interval(*ends) for ends in f["flat"]) or "–"
        rows.append([f["name"], f["formula"], *(f"{at[v]:.4g}" for v in (-2, 0, 2)), f"{f['largest_slope']:.4g}", flat])
    own = (
        ""
        if data["own"] is None
        else say(f"; {data['model']} uses {data['own']} unless told", f"；{data['model']} 默认用 {data['own']}")
    )
    return "\n".join(
        [
            say(f"the activations by name (model.activation){own}", f"可按名称选用的激活函数（model.activation）{own}"),
            "",
            table(head, rows, right=frozenset({2, 3, 4, 5})),
            "",
            say(
                "flat: |f′| is under a tenth of its largest value on [−5, 5]; there a unit hardly learns.\n"
                "softmax: the first of three units, the other two at z = 0. prelu: a is learned, 0.25 at first.\n"
                "Φ: the normal distribution.",
                "平坦：|f′| 小于其在 [−5, 5] 上最大值的十分之一，单元在此几乎学不动。\n"
                "softmax：三个单元中的第一个，另两个的 z 取 0。prelu：a 由学习得到，初值 0.25。\nΦ：正态分布函数。",
            ),
            "",
            say(
                f"with a run, or with --data SOURCE, this view looks at what {data['model']}'s units do on data",
                f"若给出运行目录或 --data SOURCE，本视图显示 {data['model']} 各单元在数据上的表现",
            ),
        ]
    )


def _interval(low: float, high: float) -> str:
    """Return a stretch as people write it; the ends of the drawing stand for infinity."""
    left = "−∞" if low <= -SPAN else f"{low:.1f}"
    right = "∞" if high >= SPAN else f"{high:.1f}"
    return f"({left}, {right})".replace("-0.0", "0.0")

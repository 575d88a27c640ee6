"""Gradient descent on a loss surface: along a narrow valley momentum needs far fewer steps.

``B`` valleys, each L(θ) = ½ (θ − θ*)ᵀ Q diag(1, 1/κ) Qᵀ (θ − θ*) in the plane, Q a rotation. B. T. Polyak, Some methods
of speeding up the convergence of iteration methods (1964); I. Sutskever, J. Martens, G. Dahl, G. Hinton (2013). The one
idea: plain descent must step as the steep side allows, so the flat side takes κ steps; what steps have in common adds
up in momentum, what they do not cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from layerwise.labs.base import (
    Cell,
    Check,
    Column,
    Findings,
    Lab,
    Lang,
    Mode,
    Table,
    Text,
    compute_interval,
    format_signed,
    use_one_thread,
)
from layerwise.labs.figures import SIZE, add_headline, add_label
from layerwise.labs.valleys import (
    DECAY,
    KAPPAS,
    MOMENTUM,
    STAY,
    TARGET,
    Valleys,
    build_figure_valley,
    compute_deviation,
    count_closed_form_steps,
    count_steps_to_target,
    draw_valleys,
    trace_path,
)
from layerwise.plotting.svg import GRID, INK
from layerwise.rules.optimizers import Method

NEAR_BOUND = (1.8, 1.9, 1.98)  # rates for plain descent, which diverges from 2 on: its best lies a little below
TWICE = 1.0  # log₂: momentum must need less than half the steps
EXACT = 1e-6
ALONG, OBLIQUE = "along the axes", "oblique"
METHODS: dict[str, Method] = {
    "SGD": "sgd",
    "momentum": "momentum",
    "Nesterov": "nesterov",
    "AdaGrad": "adagrad",
    "RMSprop": "rmsprop",
    "Adam": "adam",
    "AdamW": "adamw",
}
COLORS = {
    "SGD": "#1d2430",
    "momentum": "#D55E00",
    "Nesterov": "#b1568a",
    "AdaGrad": "#9a6b00",
    "RMSprop": "#009E73",
    "Adam": "#0072B2",
    "AdamW": "#56B4E9",
}


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, valleys for each, the learning rates η that every method tries, the most steps."""

    seeds: int
    valleys: int
    rates: tuple[float, ...]
    steps: int


def _make_rates(first: int, last: int, each: int) -> tuple[float, ...]:
    """Return rates 2^first … 2^last, ``each`` to the octave, and those near plain descent's bound."""
    return tuple(sorted([*(math.pow(2, k / each) for k in range(first * each, last * each + 1)), *NEAR_BOUND]))


PLANS: dict[Mode, Plan] = {
    "quick": Plan(3, 10, _make_rates(-2, 2, 1), 700),
    "normal": Plan(10, 20, _make_rates(-4, 3, 2), 800),
    "full": Plan(30, 50, _make_rates(-9, 3, 6), 2000),
}


Steps = dict[tuple[str, str], dict[float, Tensor]]  # by method and orientation: for each rate, (seeds, B)


def measure(
    mode: Mode,
    *,
    methods: Mapping[str, Method] = METHODS,
    kappas: tuple[float, float] = KAPPAS,
    plan: Plan | None = None,
) -> Findings:
    """Run every method with every rate in valleys along the axes and in oblique ones, seed by seed.

    Args:
        mode: how many seeds, valleys and rates.
        methods: the method of each role; an exchanged one is a counter-experiment.
        kappas: the range of condition numbers; (1, 1) makes valleys bowls, a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    steps: Steps = {}
    with use_one_thread():
        batches = [
            draw_valleys(plan.valleys, seed, oblique=oblique, kappas=kappas)
            for oblique in (False, True)
            for seed in range(plan.seeds)
        ]
        all_valleys = Valleys(*(torch.cat([getattr(v, f.name) for v in batches]) for f in fields(Valleys)))
        for name, method in methods.items():
            by_rate = {rate: count_steps_to_target(method, rate, all_valleys, plan.steps) for rate in plan.rates}
            for index, orientation in enumerate((ALONG, OBLIQUE)):
                steps[name, orientation] = {
                    rate: counts.reshape(2, plan.seeds, plan.valleys)[index] for rate, counts in by_rate.items()
                }
        deviations = {name: compute_deviation(method) for name, method in methods.items()}
    best = {key: min(by_rate, key=partial(_compute_mean_log, by_rate)) for key, by_rate in steps.items()}
    margins = tuple(compute_lead(steps, best, "momentum", OBLIQUE).tolist())
    exact = torch.stack([count_closed_form_steps(v, best["SGD", OBLIQUE], plan.steps) for v in batches[plan.seeds :]])
    checks = _build_checks(steps, best, deviations, exact)
    return Findings(margins, TWICE, checks, _build_table(steps, best, deviations), partial(_draw, methods, best))


def _compute_mean_log(by_rate: Mapping[float, Tensor], rate: float) -> float:
    """Return the mean over valleys of the steps' log₂ with a rate."""
    return float(by_rate[rate].log2().mean())


def compute_lead(steps: Steps, best: Mapping[tuple[str, str], float], name: str, orientation: str) -> Tensor:
    """Return for each seed the mean log₂ of plain descent's steps over a method's, (seeds,), each at its best rate."""
    plain, other = (steps[key][best[key]] for key in (("SGD", orientation), (name, orientation)))
    return (plain.log2() - other.log2()).mean(1)


def _build_checks(
    steps: Steps, best: Mapping[tuple[str, str], float], deviations: Mapping[str, float], exact: Tensor
) -> tuple[Check, ...]:
    """Return the checks: paths as torch's; plain descent as in theory; the effect of rotating the
    valley."""
    plain = steps["SGD", OBLIQUE][best["SGD", OBLIQUE]]
    agreed, total = int(((plain - exact).abs() <= 1).sum()), plain.numel()
    turned = {
        name: compute_interval(
            (_compute_seed_logs(steps, best, name, OBLIQUE) - _compute_seed_logs(steps, best, name, ALONG)).tolist()
        )
        for name in ("SGD", "AdaGrad")
    }
    return (
        Check(
            Text(
                f"each of {len(deviations)} paths is torch.optim's, in a valley and in Rosenbrock's: "
                f"{max(deviations.values()):.0e} apart at most",
                f"{len(deviations)} 种方法的路径都与 torch.optim 一致（山谷与 Rosenbrock 函数）：最多相差 "
                f"{max(deviations.values()):.0e}",
            ),
            max(deviations.values()) <= EXACT,
        ),
        Check(
            Text(
                f"plain descent's steps are those of its closed form, give or take one, in {agreed} of {total} valleys",
                f"普通梯度下降的步数与其闭式解相差不超过一步：{total} 个山谷中有 {agreed} 个",
            ),
            agreed == total,
        ),
        Check(
            Text(
                "turning the valley costs AdaGrad, which scales each axis by itself, "
                f"{format_signed(2 ** turned['AdaGrad'].mean, '.1f')} times "
                f"the steps; plain descent {format_signed(2 ** turned['SGD'].mean, '.2f')} times",
                f"山谷斜置后，按坐标轴各自缩放的 AdaGrad 步数变为 "
                f"{format_signed(2 ** turned['AdaGrad'].mean, '.1f')} 倍；"
                f"普通梯度下降为 {format_signed(2 ** turned['SGD'].mean, '.2f')} 倍",
            ),
            turned["AdaGrad"].low > 0.5 and abs(turned["SGD"].mean) < 0.1,
        ),
    )


def _compute_seed_logs(steps: Steps, best: Mapping[tuple[str, str], float], name: str, orientation: str) -> Tensor:
    """Return for each seed the mean log₂ of a method's steps, (seeds,)."""
    return steps[name, orientation][best[name, orientation]].log2().mean(1)


def _build_table(steps: Steps, best: Mapping[tuple[str, str], float], deviations: Mapping[str, float]) -> Table:
    """Return one row for each method: best rate and steps, along the axes and oblique, and the distance from torch's
    path."""
    columns = (
        Column(Text("method", "方法")),
        Column(Text("best η", "最佳 η"), ".3g"),
        Column(Text("along axes", "沿坐标轴"), ",.0f"),
        Column(Text("best η", "最佳 η"), ".3g"),
        Column(Text("oblique", "斜置"), ",.0f"),
        Column(Text("±", "±"), ",.0f"),
        Column(Text("× faster", "快几倍"), ".1f"),
        Column(Text("off torch", "与 torch 之差"), ".0e"),
    )
    rows = []
    for name in deviations:
        along, oblique = (steps[name, orientation][best[name, orientation]] for orientation in (ALONG, OBLIQUE))
        span = compute_interval(oblique.mean(1).tolist())
        row: tuple[Cell, ...] = (
            name,
            best[name, ALONG],
            float(along.mean()),
            best[name, OBLIQUE],
            span.mean,
            span.high - span.mean,
            2 ** float(compute_lead(steps, best, name, OBLIQUE).mean()),
            deviations[name],
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(methods: Mapping[str, Method], best: Mapping[tuple[str, str], float], lang: Lang) -> Figure:
    """Draw the paths of all methods in one oblique valley, each at its best rate, in two panels, and the loss by
    step."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("Seven ways down the same narrow valley", "下同一条狭谷的七种走法"),
        Text(
            "200 times steeper across than along; each method at its best learning rate, 40 steps.",
            "横向比纵向陡 200 倍；每种方法都用其最佳学习率，画出 40 步。",
        ),
        lang=lang,
    )
    surface = build_figure_valley()
    paths = {
        name: trace_path(method, best[name, OBLIQUE], surface.compute_gradient, surface.starts, 200)[:, 0]
        for name, method in methods.items()
    }
    names = list(methods)
    for panel, group in enumerate((names[:3], names[3:])):
        axes = figure.add_axes((0.025 + 0.325 * panel, 0.06, 0.30, 0.68))
        _draw_valley(axes, surface)
        for row, name in enumerate(group):
            line = paths[name][:41].numpy()
            axes.plot(line[:, 0], line[:, 1], "-o", color=COLORS[name], linewidth=1.4, markersize=2.6)
            add_label(axes, (-5.0, 3.8 - 0.75 * row), name, color=COLORS[name])
        axes.plot(*surface.minima[0].tolist(), "+", color=INK, markersize=13, markeredgewidth=2)
        title = (Text("gradient and momentum", "梯度与动量"), Text("each axis scaled by itself", "逐坐标轴缩放"))[panel]
        axes.set_title(title.of(lang), loc="left", fontsize=14)
    axes = figure.add_axes((0.735, 0.145, 0.245, 0.595))
    first = float(surface.compute_loss(surface.starts)[0])
    for name in names:
        losses = [float(surface.compute_loss(theta[None])[0]) / first for theta in paths[name][::2]]
        axes.plot(np.arange(0, 201, 2), np.maximum(losses, 1e-7), color=COLORS[name], linewidth=1.8)
    axes.axhline(TARGET, color=INK, linewidth=1, linestyle=(0, (2, 3)))
    axes.set(yscale="log", ylim=(2e-7, 1.5), xlim=(0, 200), yticks=[1, 1e-2, 1e-4, 1e-6], xticks=[0, 100, 200])
    axes.minorticks_off()
    axes.set_title(Text("loss by step", "损失（按步）").of(lang), loc="left")
    return figure


def _draw_valley(axes: Axes, surface: Valleys) -> None:
    """Draw lines of equal loss, ellipses about the minimum, in the axes that the valley needs."""
    from matplotlib.patches import Ellipse

    values, vectors = torch.linalg.eigh(surface.curvature[0])
    angle = math.degrees(math.atan2(float(vectors[1, 0]), float(vectors[0, 0])))
    middle = (float(surface.minima[0, 0]), float(surface.minima[0, 1]))
    for level in (0.005, 0.03, 0.12, 0.4, 1.0, 2.0, 3.5, 5.5):
        along, across = (2 * math.sqrt(2 * level / float(v)) for v in values)
        axes.add_patch(Ellipse(middle, along, across, angle=angle, fill=False, edgecolor=GRID, linewidth=1.2))
    axes.set(xlim=(-5.3, 2.7), ylim=(-5.0, 4.3), xticks=[], yticks=[], aspect="equal")
    axes.grid(False)


LAB = Lab(
    name="trajectories",
    claim_id="–",
    title=Text(
        "along a narrow valley momentum needs far fewer steps than gradient descent",
        "在狭谷中，动量法所需步数远少于梯度下降",
    ),
    claim=Text(
        "On a loss surface that is much steeper one way than the other, plain gradient descent swings across "
        "the valley and creeps along "
        "it; with momentum it needs less than half the steps, though both have the learning rate that suits them best.",
        "在一个方向远比另一方向陡的损失曲面上，普通梯度下降横向来回摆动、纵向缓慢爬行；加上动量，"
        "步数不到一半，即使两者都用各自最佳的学习率。",
    ),
    formula=Text(
        "SGD θ ← θ − η∇L      momentum v ← μv + ∇L, θ ← θ − ηv\n"
        "best factor a step: (κ − 1)/(κ + 1)      with the best μ: (√κ − 1)/(√κ + 1)",
        "SGD θ ← θ − η∇L      动量 v ← μv + ∇L，θ ← θ − ηv\n"
        "每步最佳因子：(κ − 1)/(κ + 1)      用最佳 μ：(√κ − 1)/(√κ + 1)",
    ),
    method=Text(
        f"Quadratic valleys in the plane, κ = {KAPPAS[0]:g} to {KAPPAS[1]:g} times steeper across than "
        "along, from drawn starts, once "
        "along the axes and once turned by a drawn angle. The project's own optimizers go down with exact "
        "gradients, in float64. "
        "All seven try "
        "the same series of learning rates and each keeps its best, in the mean logarithm of the steps; μ = "
        f"{MOMENTUM:g} and all else is "
        f"as usual, not tuned (AdamW: weight decay {DECAY:g}). Counted are the steps until the loss is below "
        f"{TARGET:g} of the first and "
        f"stays there for {STAY} more. With κ = 50 to 200 and all these rates momentum needed 1.7 times "
        "fewer steps, not twice: how much "
        "is gained depends on κ. "
        "Off torch: how far a path lies from torch.optim's at most, over 100 steps.",
        f"平面上的二次型山谷，横向比纵向陡 κ = {KAPPAS[0]:g} 至 {KAPPAS[1]:g} 倍，起点随机，一组沿坐标轴，"
        "一组转过随机角度。"
        f"用本项目自己的优化器、精确梯度、float64。七种方法尝试同一组学习率，各取步数对数平均最小者；μ = {MOMENTUM:g}，"
        f"其余常数取惯用值，不调（AdamW 的权重衰减为 {DECAY:g}）。计数到损失低于初始值的 {TARGET:g} 并在其后 "
        f"{STAY} 步内保持为止。"
        "κ 取 50 至 200 时，用同样多的学习率，动量法的步数只少到 1/1.7，而非一半：收益取决于 κ。"
        "“与 torch 之差”为 100 步内路径与 torch.optim 的最大距离。",
    ),
    margin=Text(
        "log₂ of plain descent's steps over momentum's in oblique valleys, each with its best rate; 1 means "
        "half the steps",
        "斜置山谷中，普通梯度下降与动量法步数之比的 log₂，各用最佳学习率；1 表示步数减半",
    ),
    held=Text(
        "Momentum adds up what its steps have in common, the way along the valley, and cancels what they do "
        "not. It does so however the "
        "valley lies. AdaGrad and its kin scale each axis by itself: along the axes that levels the valley, "
        "in an oblique one it helps "
        "less. In two dimensions with exact gradients, that is; noise and a million dimensions are another matter.",
        "动量把各步的共同部分（沿谷方向）累积起来，把不同部分抵消，而且与山谷的朝向无关。AdaGrad 一类按坐标轴各自缩放："
        "山谷沿坐标轴时能把它拉平，斜置时帮助较小。以上是二维、精确梯度的情形；有噪声的百万维另当别论。",
    ),
    refuted=Text(
        "Momentum did not halve the steps here, or a check failed; see which.",
        "此处动量没有使步数减半，或某项检查未通过；请看是哪一项。",
    ),
    experiment=measure,
)

"""S11: gradient descent on a loss surface, drawn: along a narrow valley momentum needs far fewer steps.

``B`` valleys, each L(θ) = ½ (θ − θ*)ᵀ Q diag(1, 1/κ) Qᵀ (θ − θ*) in the plane, Q a rotation. B. T. Polyak, Some methods
of speeding up the convergence of iteration methods (1964); I. Sutskever, J. Martens, G. Dahl, G. Hinton (2013). The one
idea: plain descent must step as the steep side allows, so the flat side takes κ steps; what steps have in common adds
up in momentum, what they do not cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

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
    mean_interval,
    one_thread,
    signed,
)
from layerwise.labs.figures import SIZE, headline, label
from layerwise.plotting.svg import GRID, INK
from layerwise.rules.optimizers import Method, Optimizer
from layerwise.runtime import rng

KAPPAS = (150.0, 300.0)  # condition numbers κ: how many times steeper valleys are across than along
NEAR_BOUND = (1.8, 1.9, 1.98)  # rates for plain descent, which diverges from 2 on: its best lies a little below
MOMENTUM, BETAS, ALPHA, EPS, DECAY = 0.9, (0.9, 0.999), 0.99, 1e-8, 0.01  # torch's own defaults, and the usual momentum
TARGET, STAY = 1e-4, 60  # part of the first loss that is to be reached, and for how many steps it must stay below
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


def _series(first: int, last: int, each: int) -> tuple[float, ...]:
    """Return rates 2^first … 2^last, ``each`` to the octave, and those near plain descent's bound."""
    return tuple(sorted([*(math.pow(2, k / each) for k in range(first * each, last * each + 1)), *NEAR_BOUND]))


PLANS: dict[Mode, Plan] = {
    "quick": Plan(3, 10, _series(-2, 2, 1), 700),
    "normal": Plan(10, 20, _series(-4, 3, 2), 800),
    "full": Plan(30, 50, _series(-9, 3, 6), 2000),
}


@dataclass(frozen=True)
class Valleys:
    """B valleys: minima θ* (B, 2), curvature matrices (B, 2, 2), starts (B, 2); κ (B,)."""

    minima: Tensor
    curvature: Tensor
    starts: Tensor
    kappas: Tensor

    def gradient(self, theta: Tensor) -> Tensor:
        """Return ∇L (B, 2)."""
        return (self.curvature * (theta - self.minima)[:, None]).sum(2)

    def loss(self, theta: Tensor) -> Tensor:
        """Return L (B,)."""
        return 0.5 * ((theta - self.minima) * self.gradient(theta)).sum(1)


def valleys(count: int, seed: int, *, oblique: bool, kappas: tuple[float, float] = KAPPAS) -> Valleys:
    """Draw valleys: turned by a drawn angle if ``oblique``, else along the axes, κ evenly in its logarithm, minima 1 to
    3 from the origin.

    A start lies 3 to 6 off along the valley, and as far across it, or down to half of that: both sides have work to do.
    """
    generator = rng.numpy_generator("trajectories", seed)
    angle, place = generator.uniform(15, 75, count) * oblique, generator.uniform(0, 2 * math.pi, count)
    far, slant = generator.uniform(3, 6, count), generator.uniform(0.5, 1.0, count)
    signs = generator.choice([-1.0, 1.0], (count, 2))
    kappa = torch.from_numpy(np.exp(generator.uniform(math.log(kappas[0]), math.log(kappas[1]), count)))
    turn = torch.from_numpy(np.deg2rad(angle))
    rotation = torch.stack(
        [torch.stack([turn.cos(), -turn.sin()], 1), torch.stack([turn.sin(), turn.cos()], 1)], 1
    )  # (B, 2, 2)
    steep = torch.diag_embed(torch.stack([1 / kappa, torch.ones_like(kappa)], 1))
    minima = torch.from_numpy(np.stack([np.cos(place), np.sin(place)], 1) * generator.uniform(1, 3, (count, 1)))
    off = torch.from_numpy(np.stack([far, far * slant], 1) * signs)  # along and across
    return Valleys(minima, rotation @ steep @ rotation.mT, minima + torch.einsum("bij,bj->bi", rotation, off), kappa)


def optimizer(method: Method, theta: Tensor, rate: float) -> Optimizer:
    """Return the project's optimizer over one tensor, with the usual constants."""
    return Optimizer(
        [theta],
        method=method,
        lr=rate,
        momentum=MOMENTUM,
        betas=BETAS,
        alpha=ALPHA,
        eps=EPS,
        weight_decay=DECAY if method == "adamw" else 0.0,
    )


def path(method: Method, rate: float, gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return the places (steps + 1, …) that a method goes through from a start, by its gradients."""
    theta = start.clone()
    rule, seen = optimizer(method, theta, rate), [start.clone()]
    for _ in range(steps):
        theta.grad = gradient(theta)
        rule.step()
        seen.append(theta.clone())
    return torch.stack(seen)


def steps_to_target(method: Method, rate: float, surface: Valleys, most: int) -> Tensor:
    """Return after how many steps each valley's loss is at the target and stays there for `STAY` further ones, (B,);
    else ``most``.

    A swing through the minimum is no arrival.
    """
    theta, goal = surface.starts.clone(), TARGET * surface.loss(surface.starts)
    rule, above = optimizer(method, theta, rate), torch.zeros(len(theta))
    for step in range(most):
        gradient = surface.gradient(theta)
        loss = 0.5 * ((theta - surface.minima) * gradient).sum(1)
        late = ~(loss <= goal)
        above[late] = step + 1
        if not float(loss.max()) < 1e6:
            return torch.full((len(theta),), float(most))
        if step >= float(above.max()) + STAY:
            break
        theta.grad = gradient
        rule.step()
    return above.clamp_max(most)


def torchs(method: Method, rate: float, gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return the same places as `path`, by torch.optim's own class."""
    theta = start.clone().requires_grad_()
    classes: dict[Method, Callable[[list[Tensor]], Any]] = {
        "sgd": partial(torch.optim.SGD, lr=rate),
        "momentum": partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM),
        "nesterov": partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM, nesterov=True),
        "adagrad": partial(torch.optim.Adagrad, lr=rate, eps=EPS),
        "rmsprop": partial(torch.optim.RMSprop, lr=rate, alpha=ALPHA, eps=EPS),
        "adam": partial(torch.optim.Adam, lr=rate, betas=BETAS, eps=EPS),
        "adamw": partial(torch.optim.AdamW, lr=rate, betas=BETAS, eps=EPS, weight_decay=DECAY),
    }
    rule, seen = classes[method]([theta]), [start.clone()]
    for _ in range(steps):
        theta.grad = gradient(theta.detach())
        rule.step()
        seen.append(theta.detach().clone())
    return torch.stack(seen)


def rosenbrock(theta: Tensor) -> Tensor:
    """Return ∇[(1 − x)² + 100 (y − x²)²], (…, 2): a valley that bends (Rosenbrock 1960)."""
    x, y = theta.unbind(-1)
    return torch.stack([2 * (x - 1) - 400 * x * (y - x.square()), 200 * (y - x.square())], -1)


Steps = dict[tuple[str, str], dict[float, Tensor]]  # by method and lie: for each rate, (seeds, B)


def measure(
    mode: Mode,
    *,
    methods: Mapping[str, Method] = METHODS,
    kappas: tuple[float, float] = KAPPAS,
    plan: Plan | None = None,
) -> Findings:
    """Let every method try every rate in valleys along the axes and in oblique ones, seed by seed.

    Args:
        mode: how many seeds, valleys and rates.
        methods: which method plays which part; another one in a part is a counter-experiment.
        kappas: the range of condition numbers; (1, 1) makes valleys bowls, a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    steps: Steps = {}
    with one_thread():
        each = [
            valleys(plan.valleys, seed, oblique=turned, kappas=kappas)
            for turned in (False, True)
            for seed in range(plan.seeds)
        ]
        whole = Valleys(*(torch.cat([getattr(v, f.name) for v in each]) for f in fields(Valleys)))
        for name, method in methods.items():
            found = {rate: steps_to_target(method, rate, whole, plan.steps) for rate in plan.rates}
            for place, lie in enumerate((ALONG, OBLIQUE)):
                steps[name, lie] = {
                    rate: taken.reshape(2, plan.seeds, plan.valleys)[place] for rate, taken in found.items()
                }
        apart = {name: deviation(method) for name, method in methods.items()}
    best = {key: min(by_rate, key=partial(_mean_log, by_rate)) for key, by_rate in steps.items()}
    margins = tuple(ahead(steps, best, "momentum", OBLIQUE).tolist())
    exact = torch.stack([closed_form(v, best["SGD", OBLIQUE], plan.steps) for v in each[plan.seeds :]])
    checks = _checks(steps, best, apart, exact)
    return Findings(margins, TWICE, checks, _table(steps, best, apart), partial(_draw, methods, best))


def _mean_log(by_rate: Mapping[float, Tensor], rate: float) -> float:
    """Return the mean over valleys of the steps' log₂ with a rate."""
    return float(by_rate[rate].log2().mean())


def ahead(steps: Steps, best: Mapping[tuple[str, str], float], name: str, lie: str) -> Tensor:
    """Return for each seed the mean log₂ of plain descent's steps over a method's, (seeds,), each at its best rate."""
    plain, other = (steps[key][best[key]] for key in (("SGD", lie), (name, lie)))
    return (plain.log2() - other.log2()).mean(1)


def deviation(method: Method) -> float:
    """Return the largest distance between our path and torch.optim's, in a valley and in Rosenbrock's, 100 steps
    each."""
    surface = valleys(4, 0, oblique=True)
    cases = ((surface.gradient, surface.starts), (rosenbrock, torch.tensor([[-1.2, 1.0]], dtype=torch.float64)))
    return max(
        float((path(method, 1e-3, g, at, 100) - torchs(method, 1e-3, g, at, 100)).abs().max()) for g, at in cases
    )


def closed_form(surface: Valleys, rate: float, most: int) -> Tensor:
    """Return plain descent's steps to the target (B,) by its closed form: offsets along and across shrink by 1 − η/κ
    and 1 − η a step.

    ``rate`` is below 2, so that both do, and the loss falls all the way.
    """
    values, vectors = torch.linalg.eigh(surface.curvature)
    offsets = torch.einsum("bji,bj->bi", vectors, surface.starts - surface.minima)
    at = torch.arange(most, dtype=torch.float64)
    losses = (
        0.5 * (values * offsets.square())[:, None] * (1 - rate * values)[:, None].abs() ** (2 * at[:, None])
    )  # (B, most, 2)
    above: Tensor = losses.sum(2) > TARGET * losses.sum(2)[:, :1]
    return above.sum(1)


def _checks(
    steps: Steps, best: Mapping[tuple[str, str], float], apart: Mapping[str, float], exact: Tensor
) -> tuple[Check, ...]:
    """Return what must be so beside the margin: paths as torch's; plain descent at its theory; what turning the valley
    does."""
    plain = steps["SGD", OBLIQUE][best["SGD", OBLIQUE]]
    agreed, total = int(((plain - exact).abs() <= 1).sum()), plain.numel()
    turned = {
        name: mean_interval((_seed_logs(steps, best, name, OBLIQUE) - _seed_logs(steps, best, name, ALONG)).tolist())
        for name in ("SGD", "AdaGrad")
    }
    return (
        Check(
            Text(
                f"each of {len(apart)} paths is torch.optim's, in a valley and in Rosenbrock's: "
                f"{max(apart.values()):.0e} apart at most",
                f"{len(apart)} 种方法的路径都与 torch.optim 一致（山谷与 Rosenbrock 函数）：最多相差 "
                f"{max(apart.values()):.0e}",
            ),
            max(apart.values()) <= EXACT,
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
                f"{signed(2 ** turned['AdaGrad'].mean, '.1f')} times "
                f"the steps; plain descent {signed(2 ** turned['SGD'].mean, '.2f')} times",
                f"山谷斜置后，按坐标轴各自缩放的 AdaGrad 步数变为 {signed(2 ** turned['AdaGrad'].mean, '.1f')} 倍；"
                f"普通梯度下降为 {signed(2 ** turned['SGD'].mean, '.2f')} 倍",
            ),
            turned["AdaGrad"].low > 0.5 and abs(turned["SGD"].mean) < 0.1,
        ),
    )


def _seed_logs(steps: Steps, best: Mapping[tuple[str, str], float], name: str, lie: str) -> Tensor:
    """Return for each seed the mean log₂ of a method's steps, (seeds,)."""
    return steps[name, lie][best[name, lie]].log2().mean(1)


def _table(steps: Steps, best: Mapping[tuple[str, str], float], apart: Mapping[str, float]) -> Table:
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
    for name in apart:
        along, oblique = (steps[name, lie][best[name, lie]] for lie in (ALONG, OBLIQUE))
        span = mean_interval(oblique.mean(1).tolist())
        row: tuple[Cell, ...] = (
            name,
            best[name, ALONG],
            float(along.mean()),
            best[name, OBLIQUE],
            span.mean,
            span.high - span.mean,
            2 ** float(ahead(steps, best, name, OBLIQUE).mean()),
            apart[name],
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(methods: Mapping[str, Method], best: Mapping[tuple[str, str], float], lang: Lang) -> Figure:
    """Draw the paths of all methods in one oblique valley, each at its best rate, in two panels, and the loss by
    step."""
    figure = Figure(figsize=SIZE)
    headline(
        figure,
        Text("Seven ways down the same narrow valley", "下同一条狭谷的七种走法"),
        Text(
            "200 times steeper across than along; each method at its best learning rate, 40 steps.",
            "横向比纵向陡 200 倍；每种方法都用其最佳学习率，画出 40 步。",
        ),
        lang=lang,
    )
    surface = drawn_valley()
    paths = {
        name: path(method, best[name, OBLIQUE], surface.gradient, surface.starts, 200)[:, 0]
        for name, method in methods.items()
    }
    names = list(methods)
    for place, group in enumerate((names[:3], names[3:])):
        axes = figure.add_axes((0.025 + 0.325 * place, 0.06, 0.30, 0.68))
        _valley(axes, surface)
        for number, name in enumerate(group):
            line = paths[name][:41].numpy()
            axes.plot(line[:, 0], line[:, 1], "-o", color=COLORS[name], linewidth=1.4, markersize=2.6)
            label(axes, (-5.0, 3.8 - 0.75 * number), name, color=COLORS[name])
        axes.plot(*surface.minima[0].tolist(), "+", color=INK, markersize=13, markeredgewidth=2)
        title = (Text("gradient and momentum", "梯度与动量"), Text("each axis scaled by itself", "逐坐标轴缩放"))[place]
        axes.set_title(title.of(lang), loc="left", fontsize=14)
    axes = figure.add_axes((0.735, 0.145, 0.245, 0.595))
    first = float(surface.loss(surface.starts)[0])
    for name in names:
        losses = [float(surface.loss(at[None])[0]) / first for at in paths[name][::2]]
        axes.plot(np.arange(0, 201, 2), np.maximum(losses, 1e-7), color=COLORS[name], linewidth=1.8)
    axes.axhline(TARGET, color=INK, linewidth=1, linestyle=(0, (2, 3)))
    axes.set(yscale="log", ylim=(2e-7, 1.5), xlim=(0, 200), yticks=[1, 1e-2, 1e-4, 1e-6], xticks=[0, 100, 200])
    axes.minorticks_off()
    axes.set_title(Text("loss by step", "损失（按步）").of(lang), loc="left")
    return figure


def drawn_valley() -> Valleys:
    """Return the one valley of the figure: κ = 200, turned by 30°, its minimum at (1, 0.5)."""
    turn = math.radians(30)
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    curvature = rotation @ torch.diag(torch.tensor([0.005, 1.0], dtype=torch.float64)) @ rotation.T
    minimum = torch.tensor([1.0, 0.5], dtype=torch.float64)
    start = minimum + rotation @ torch.tensor([-5.0, 2.5], dtype=torch.float64)
    return Valleys(minimum[None], curvature[None], start[None], torch.tensor([200.0]))


def _valley(axes: Axes, surface: Valleys) -> None:
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
    claim_id="S11",
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

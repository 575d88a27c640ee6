"""C14: the receptive field grows with depth.

``L`` layers, ``k`` a kernel's side, ``C`` maps, ``H W`` pixels. A. Araujo, W. Norris, J. Sim, Computing receptive
fields of convolutional neural networks, Distill (2019); W. Luo, Y. Li, R. Urtasun, R. Zemel, Understanding the
effective receptive field in deep convolutional neural networks, NeurIPS (2016). The one idea: a unit *can* see r = 1 +
L(k − 1) pixels in a row, but the paths to its middle are many and those to its edge few, so what it sees *much* of
grows as √L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from layerwise.inspection.fields import effective, follow, squared, support
from layerwise.inspection.views.filtered import gray_photographs
from layerwise.labs.base import Cell, Check, Column, Findings, Lab, Lang, Mode, Table, Text, mean_interval, one_thread
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, headline, label
from layerwise.plotting.svg import INK
from layerwise.runtime import rng

MAPS, KERNEL = 16, 3
PROBES, PATCHES = 4, 2  # drawn sums of maps, and patches, for each network
CLOSE = 0.15  # how far the mean measured side may lie from the predicted one
KINDS = ("plain", "dilated", "pooled")
NAMES = {
    "plain": Text("3×3", "3×3"),
    "dilated": Text("3×3, dilated 1, 2, 4 …", "3×3，膨胀 1、2、4……"),
    "pooled": Text("3×3, then pooled 2×2", "3×3，再 2×2 池化"),
}
COLORS = {"plain": VERMILION, "dilated": BLUE, "pooled": GREEN}


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, drawn networks and patches for each, depths of plain stacks, and of those whose field
    doubles."""

    seeds: int
    networks: int
    plain: tuple[int, ...]
    doubling: tuple[int, ...]

    def depths(self, kind: str) -> tuple[int, ...]:
        """Return the depths at which a kind of stack is measured."""
        return self.plain if kind == "plain" else self.doubling


PLANS: dict[Mode, Plan] = {
    "quick": Plan(3, 4, (1, 2, 4, 8, 16), (1, 2, 3, 4)),
    "normal": Plan(10, 3, (1, 2, 4, 8, 16, 32), (1, 2, 3, 4, 5)),
    "full": Plan(20, 30, (1, 2, 4, 8, 16, 32), (1, 2, 3, 4, 5)),
}


class Sides(NamedTuple):
    """Sides of a middle unit's field: by the formula (E16), of the gradient's support, and the effective one, in
    pixels."""

    formula: int
    support: int
    effective: float


def stack(kind: str, depth: int, *, kernel: int, seed: tuple[int, ...]) -> nn.Sequential:
    """Return L convolutions of 16 maps with ReLU, without border, weights drawn from He's normal distribution, in
    float64.

    Args:
        kind: ``plain``; ``dilated`` by 1, 2, 4, …; ``pooled``, each followed by a mean over 2×2.
        depth: L.
        kernel: k; 1 is the counter-experiment.
        seed: of the weights.
    """
    layers: list[nn.Module] = []
    for number in range(depth):
        apart = 2**number if kind == "dilated" else 1
        layers += [nn.Conv2d(MAPS if number else 1, MAPS, kernel, dilation=apart, bias=False), nn.ReLU()]
        if kind == "pooled":
            layers.append(nn.AvgPool2d(2))
    net = nn.Sequential(*layers).double()
    with rng.seeded(rng.key("receptive-field", *seed)):
        for module in net:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net


def formula(net: nn.Module) -> int:
    """Return the side r of a unit's field by E16, followed through the network's operations."""
    return follow(net, (1, 512, 512))[-1].fields[0].size


def predicted(kind: str, depth: int, kernel: int = KERNEL) -> float:
    """Return the effective side that random weights must give: √(1 + 12·variance), the side of the even square that
    spreads as much.

    Gradients of independent weights of mean 0 add up in their squares, so the expected square of the gradient is the
    distribution of a walk with an even step over each layer's window. Windows of k places j pixels apart add j²(k² −
    1)/12 to its variance: with stride 1, √(1 + L(k² − 1)) in all.
    """
    spread, jump = 0.0, 1
    for number in range(depth):
        apart = jump * (2**number if kind == "dilated" else 1)
        spread += apart**2 * (kernel**2 - 1)
        if kind == "pooled":
            spread += jump**2 * (2**2 - 1)
            jump *= 2
    return math.sqrt(1 + spread)


def squared_gradient(net: nn.Sequential, patches: Tensor, seed: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the mean of (∂ unit / ∂ pixel)² over patches (H, W), for sums of the unit's maps with drawn weights, and
    the support's sides.

    The weights are standard normal, so the expected square is the sum over maps of each one's square. ``patches`` (N,
    1, H, W) are as large as one unit's field, so that there is one unit.
    """
    x = patches.clone().requires_grad_()
    out = net(x)  # (N, C, 1, 1)
    generator = torch.Generator().manual_seed(rng.key("receptive-field", "maps", seed))
    total = squared(out, x, generator, probes=PROBES)
    (top, bottom), (left, right) = support(out[:1], x, (0, 0))
    return total.mean((0, 1)), (bottom - top + 1, right - left + 1)


def patches_of(images: list[Tensor], side: int, seed: tuple[int, ...]) -> Tensor:
    """Return patches of images (H, W), (N, 1, side, side) float64, standardized, drawn by the seed."""
    generator, found = rng.numpy_generator("receptive-field", "patches", side, *seed), []
    for number in range(PATCHES):
        gray = images[number % len(images)]
        top, left = (int(generator.integers(0, n - side + 1)) for n in gray.shape)
        found.append(gray[top : top + side, left : left + side])
    patches = torch.stack(found)[:, None]
    return (patches - patches.mean()) / patches.std().clamp_min(1e-6)


def look(nets: list[nn.Sequential], side: int, images: list[Tensor], seed: int) -> tuple[Sides, Tensor]:
    """Measure stacks of one kind and depth: the sides, and the mean squared gradient over them, (r, r), with the
    largest value 1.

    ``side`` is what E16 gives.
    """
    maps, sides = [], set()
    for number, net in enumerate(nets):
        gradient, seen = squared_gradient(net, patches_of(images, side, (seed, number)), seed)
        maps.append(gradient / gradient.sum())
        sides |= set(seen)
    mean = torch.stack(maps).mean(0)
    return Sides(side, min(sides), effective(mean)), mean / mean.max()


Found = dict[tuple[str, int], list[Sides]]


def measure(mode: Mode, *, kernel: int = KERNEL, plan: Plan | None = None) -> Findings:
    """Measure fields of three kinds of stacks over depth, seed by seed.

    Args:
        mode: how many seeds, networks and depths.
        kernel: the convolutions' side; with 1 no unit sees further than the one before it, the counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    found: Found = {(kind, depth): [] for kind in KINDS for depth in plan.depths(kind)}
    maps: dict[int, Tensor] = {}
    images = [image[0, 0].double() for image in gray_photographs().values()]
    with one_thread():
        for kind, depth in found:
            side = formula(stack(kind, depth, kernel=kernel, seed=(0,)))
            for seed in range(plan.seeds):
                nets = [
                    stack(kind, depth, kernel=kernel, seed=(depth, seed, number)) for number in range(plan.networks)
                ]
                sides, mean = look(nets, side, images, seed)
                found[kind, depth].append(sides)
                if kind == "plain":
                    maps[depth] = mean
    margins = tuple(min(growth(found, plan, seed)) for seed in range(plan.seeds))
    return Findings(
        margins, 0.0, _checks(found, plan, kernel), _table(found, plan, kernel), partial(_draw, found, maps, plan)
    )


def growth(found: Found, plan: Plan, seed: int) -> list[float]:
    """Return log₂ of how the plain stack's effective side grows with each doubling of its depth."""
    sides = [found["plain", depth][seed].effective for depth in plan.plain]
    return [math.log2(b / a) for a, b in pairwise(sides)]


def _mean(found: Found, kind: str, depth: int) -> float:
    """Return a stack's effective side, the mean over seeds."""
    return float(np.mean([s.effective for s in found[kind, depth]]))


def _checks(found: Found, plan: Plan, kernel: int) -> tuple[Check, ...]:
    """Return what must be so beside the margin: E16 exactly; the effective side as predicted, ever less of the whole;
    faster ways."""
    exact = sum(s.formula == s.support for sides in found.values() for s in sides)
    total = sum(len(sides) for sides in found.values())
    worst = max(abs(_mean(found, *key) / predicted(*key, kernel) - 1) for key in found)
    shares = [_mean(found, "plain", depth) / found["plain", depth][0].formula for depth in plan.plain]
    last = plan.doubling[-1]
    ways = {kind: _mean(found, kind, last) / _mean(found, kind, plan.doubling[-2]) for kind in ("dilated", "pooled")}
    return (
        Check(
            Text(
                f"where the gradient is not zero is what E16 says, to the pixel: {exact} of {total}",
                f"梯度不为零的范围与 E16 逐像素一致：{total} 次中 {exact} 次",
            ),
            exact == total,
        ),
        Check(
            Text(
                "the effective side is √(1 + 12·variance) of a random walk through the windows, within "
                f"{worst:.0%}; {CLOSE:.0%} allowed",
                f"有效边长等于穿过各窗口的随机游走的 √(1 + 12·方差)，误差 {worst:.0%} 以内；允许 {CLOSE:.0%}",
            ),
            worst <= CLOSE,
        ),
        Check(
            Text(
                f"in a plain stack it is ever less of the whole field: {shares[0]:.0%} of the side at depth "
                f"{plan.plain[0]}, "
                f"{shares[-1]:.0%} at depth {plan.plain[-1]}",
                f"普通堆叠中它占整个感受野的比例越来越小：深度 {plan.plain[0]} 时为边长的 {shares[0]:.0%}，"
                f"深度 {plan.plain[-1]} 时为 {shares[-1]:.0%}",
            ),
            all(b < a for a, b in pairwise(shares)),
        ),
        Check(
            Text(
                f"dilation and pooling multiply it instead: ×{ways['dilated']:.2f} and ×{ways['pooled']:.2f} "
                f"with layer {last} alone",
                f"膨胀与池化则使它成倍增长：仅第 {last} 层就分别 ×{ways['dilated']:.2f} 与 ×{ways['pooled']:.2f}",
            ),
            min(ways.values()) > 1.5,
        ),
    )


def _table(found: Found, plan: Plan, kernel: int) -> Table:
    """Return one row for each kind and depth."""
    columns = (
        Column(Text("layers", "层")),
        Column(Text("depth", "深度"), "d"),
        Column(Text("by E16", "按 E16"), "d"),
        Column(Text("support", "梯度支撑"), "d"),
        Column(Text("effective", "有效"), ".1f"),
        Column(Text("±", "±"), ".1f"),
        Column(Text("predicted", "预测"), ".1f"),
        Column(Text("share", "占比"), ".0%"),
    )
    rows = []
    for (kind, depth), sides in found.items():
        span = mean_interval([s.effective for s in sides])
        first = NAMES[kind] if depth == plan.depths(kind)[0] else ""
        row: tuple[Cell, ...] = (
            first,
            depth,
            sides[0].formula,
            min(s.support for s in sides),
            span.mean,
            span.high - span.mean,
            predicted(kind, depth, kernel),
            span.mean / sides[0].formula,
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(found: Found, maps: dict[int, Tensor], plan: Plan, lang: Lang) -> Figure:
    """Draw the squared gradient of one seed's plain stacks in their whole fields, and the sides over depth."""
    figure = Figure(figsize=SIZE)
    headline(
        figure,
        Text("A unit can see far, but it looks at the middle", "单元看得到很远，但主要看中间"),
        Text(
            "Left: how much the middle unit depends on each pixel (amplitude), in the field that E16 allows.",
            "左：中间单元对每个像素的依赖程度（幅度），方框为 E16 所允许的感受野。",
        ),
        lang=lang,
    )
    shown = [depth for depth in plan.plain if depth > 1][-4:]
    largest = found["plain", shown[-1]][0].formula
    for place, depth in enumerate(shown):
        corner = (0.03 + 0.225 * (place % 2), 0.435 - 0.365 * (place // 2), 0.2, 0.2 * SIZE[0] / SIZE[1])
        _map(figure.add_axes((corner[0], corner[1], 0.17, 0.17 * SIZE[0] / SIZE[1])), maps[depth], largest, depth, lang)
    axes = figure.add_axes((0.565, 0.145, 0.41, 0.60))
    _sides(axes, found, plan, lang)
    return figure


def _map(axes: Axes, gradient: Tensor, largest: int, depth: int, lang: Lang) -> None:
    """Draw one map of amplitudes in a frame as large as the deepest stack's field, with its own field framed."""
    side = len(gradient)
    half = side / 2
    axes.imshow(
        gradient.sqrt().numpy(),
        cmap="Blues",
        extent=(-half, half, -half, half),
        interpolation="nearest",
        vmin=0,
        vmax=1,
    )
    axes.plot([-half, half, half, -half, -half], [-half, -half, half, half, -half], color=INK, linewidth=1.2)
    frame = (-largest / 2 - 0.5, largest / 2 + 0.5)
    axes.set(xlim=frame, ylim=frame, xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(False)
    name = Text(f"{depth} layers: {side}×{side}", f"{depth} 层：{side}×{side}").of(lang)
    axes.set_title(name, fontsize=13, loc="center", pad=3)


def _sides(axes: Axes, found: Found, plan: Plan, lang: Lang) -> None:
    """Draw sides over depth: what E16 allows dashed, the effective side with every seed's value, and the prediction as
    a thin line."""
    for kind in KINDS:
        depths = plan.depths(kind)
        axes.plot(depths, [found[kind, d][0].formula for d in depths], "--", color=COLORS[kind], linewidth=1.4)
        axes.plot(depths, [_mean(found, kind, d) for d in depths], "o-", color=COLORS[kind], markersize=6)
    deepest = plan.plain[-1]
    top = max(found[kind, plan.depths(kind)[-1]][0].formula for kind in KINDS)
    axes.set(xscale="log", yscale="log", xlim=(0.93, deepest * 1.15), ylim=(2, top * 1.6))
    axes.set(xticks=plan.plain, xticklabels=[str(d) for d in plan.plain])
    ticks = [t for t in (2, 5, 10, 20, 50, 100) if t <= top * 1.6]
    axes.set(yticks=ticks, yticklabels=[str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_title(Text("side in pixels; dashed: E16", "边长（像素）；虚线为 E16").of(lang), loc="left")
    axes.set_xlabel(Text("layers", "层数").of(lang))
    names = {
        "plain": "3×3  ∝ √L",
        "dilated": Text("dilated", "膨胀").of(lang),
        "pooled": Text("pooled", "池化").of(lang),
    }
    for kind, text in names.items():
        depth = plan.depths(kind)[-1]
        low = {"plain": 0.5, "dilated": 0.70, "pooled": 1.0}[kind]
        align = "right" if kind == "plain" else "left"
        label(
            axes,
            (depth * (1.06 if kind == "plain" else 1.09), _mean(found, kind, depth) * low),
            text,
            color=COLORS[kind],
            align=align,
        )


LAB = Lab(
    name="receptive-field",
    claim_id="C14",
    title=Text("the receptive field grows with depth", "感受野随深度增长"),
    claim=Text(
        "A unit of a convolutional network depends on a small square of pixels; the deeper the layer, the "
        "larger the square.",
        "卷积网络的一个单元只依赖一小块方形像素；层越深，这块方形越大。",
    ),
    formula=Text(
        "r = 1 + Σₗ (kₗ − 1)·dₗ·Πᵢ<ₗ sᵢ (E16)      effective side = √(1 + 12·variance of (∂a/∂x)²)\n"
        "L layers of k×k, stride 1:  r = 1 + L(k − 1)      effective √(1 + L(k² − 1))",
        "r = 1 + Σₗ (kₗ − 1)·dₗ·Πᵢ<ₗ sᵢ（E16）      有效边长 = √(1 + 12·(∂a/∂x)² 的方差)\n"
        "L 层 k×k、步幅 1：r = 1 + L(k − 1)      有效 √(1 + L(k² − 1))",
    ),
    method=Text(
        f"Stacks of 3×3 convolutions ({MAPS} maps, ReLU, He's random weights, untrained) look at patches of "
        "two real photographs. For the "
        "middle unit the gradient by every pixel is taken. Its support, where it is not zero, is held "
        "against E16. Its square, "
        "summed over maps, patches and drawn networks, tells how much of the field counts: the effective "
        "side is that of an even square of "
        "the same spread, so that one convolution of k×k has k. Random weights predict it in closed form. "
        "Three ways to go deeper are "
        "compared: plain, dilated by 1, 2, 4 …, and pooled 2×2 after each convolution.",
        f"3×3 卷积的堆叠（{MAPS} 个图，ReLU，He 随机权重，未经训练），输入为两张真实照片的局部。"
        "对中间单元求其对每个像素的梯度。"
        "梯度的支撑（不为零之处）与 E16 对照；梯度的平方对图、局部与随机网络求和，反映感受野中真正起作用的部分："
        "有效边长取离散程度相同的均匀方形的边长，因此一层 k×k 卷积恰为 k。随机权重下它有闭式预测。"
        "比较三种加深方式：普通、膨胀 1、2、4……，以及每层卷积后 2×2 池化。",
    ),
    margin=Text(
        "log₂ of the growth of the plain stack's effective side with a doubling of its depth, of all "
        "doublings the least; 1 means twice "
        "as large",
        "普通堆叠深度每加倍，有效边长增长倍数的 log₂，取各次加倍中的最小值；1 表示两倍",
    ),
    held=Text(
        "The field grows with every layer, and E16 gives its side to the pixel. But what a unit can see and "
        "what it looks at are two "
        "things: in a plain stack the first grows as L, the second only as √L. Dilation and pooling make "
        "both grow in leaps. These are "
        "networks before training; Luo et al. saw the effective field widen as they learn.",
        "感受野逐层增长，E16 给出的边长逐像素准确。但“看得到”与“真正在看”是两回事：普通堆叠中前者按 L 增长，"
        "后者只按 √L 增长；"
        "膨胀与池化使两者成倍增长。这里是训练前的网络；Luo 等人观察到有效感受野会在学习中变宽。",
    ),
    refuted=Text(
        "The field did not grow as claimed; see which check failed.",
        "感受野没有如论断那样增长；请看哪一项检查未通过。",
    ),
    experiment=measure,
)

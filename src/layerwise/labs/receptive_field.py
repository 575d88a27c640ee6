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

from layerwise.inspection.effective_receptive_field import compute_effective_side, estimate_squared_gradient
from layerwise.inspection.theoretical_receptive_field import compute_theoretical_fields, find_gradient_support
from layerwise.inspection.views.filtered import load_gray_photographs
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
    use_one_thread,
)
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, add_headline, add_label
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
    """How much to do: seeds, drawn networks and patches for each, depths of plain stacks, and of dilated and pooled
    ones."""

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


def build_stack(kind: str, depth: int, *, kernel: int, seed: tuple[int, ...]) -> nn.Sequential:
    """Return L convolutions of 16 maps with ReLU, without padding, weights drawn from He's normal distribution, in
    float64.

    Args:
        kind: ``plain``; ``dilated`` by 1, 2, 4, …; ``pooled``, each followed by a mean over 2×2.
        depth: L.
        kernel: k; 1 is the counter-experiment.
        seed: of the weights.
    """
    layers: list[nn.Module] = []
    for index in range(depth):
        dilation = 2**index if kind == "dilated" else 1
        layers += [nn.Conv2d(MAPS if index else 1, MAPS, kernel, dilation=dilation, bias=False), nn.ReLU()]
        if kind == "pooled":
            layers.append(nn.AvgPool2d(2))
    net = nn.Sequential(*layers).double()
    with rng.use_seed(rng.derive_seed("receptive-field", *seed)):
        for module in net:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net


def compute_formula_side(net: nn.Module) -> int:
    """Return the side r of a unit's field by E16, followed through the network's operations."""
    return compute_theoretical_fields(net, (1, 512, 512))[-1].fields[0].size


def predict_side(kind: str, depth: int, kernel: int = KERNEL) -> float:
    """Return the effective side expected of random weights: √(1 + 12·variance), the side of a uniform square of that
    variance.

    Gradients of independent weights of mean 0 add up in their squares, so the expected square of the gradient is the
    distribution of a walk with an even step over each layer's window. Windows of k places j pixels apart add j²(k² −
    1)/12 to its variance: with stride 1, √(1 + L(k² − 1)) in all.
    """
    spread, jump = 0.0, 1
    for index in range(depth):
        distance = jump * (2**index if kind == "dilated" else 1)
        spread += distance**2 * (kernel**2 - 1)
        if kind == "pooled":
            spread += jump**2 * (2**2 - 1)
            jump *= 2
    return math.sqrt(1 + spread)


def compute_squared_gradient(net: nn.Sequential, patches: Tensor, seed: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the mean of (∂ unit / ∂ pixel)² over patches (H, W), for sums of the unit's maps with drawn weights, and
    the support's sides.

    The weights are standard normal, so the expected square is the sum over maps of each one's square. ``patches`` (N,
    1, H, W) are as large as one unit's field, so that there is one unit.
    """
    x = patches.clone().requires_grad_()
    out = net(x)  # (N, C, 1, 1)
    generator = torch.Generator().manual_seed(rng.derive_seed("receptive-field", "maps", seed))
    total = estimate_squared_gradient(out, x, generator, probes=PROBES)
    (top, bottom), (left, right) = find_gradient_support(out[:1], x, (0, 0))
    return total.mean((0, 1)), (bottom - top + 1, right - left + 1)


def sample_patches(images: list[Tensor], side: int, seed: tuple[int, ...]) -> Tensor:
    """Return patches of images (H, W), (N, 1, side, side) float64, standardized, drawn by the seed."""
    generator, crops = rng.make_numpy_generator("receptive-field", "patches", side, *seed), []
    for index in range(PATCHES):
        gray = images[index % len(images)]
        top, left = (int(generator.integers(0, n - side + 1)) for n in gray.shape)
        crops.append(gray[top : top + side, left : left + side])
    patches = torch.stack(crops)[:, None]
    return (patches - patches.mean()) / patches.std().clamp_min(1e-6)


def measure_stacks(nets: list[nn.Sequential], side: int, images: list[Tensor], seed: int) -> tuple[Sides, Tensor]:
    """Measure stacks of one kind and depth: the sides, and the mean squared gradient over them, (r, r), with the
    largest value 1.

    ``side`` is what E16 gives.
    """
    maps, sides = [], set()
    for index, net in enumerate(nets):
        gradient, support_sides = compute_squared_gradient(net, sample_patches(images, side, (seed, index)), seed)
        maps.append(gradient / gradient.sum())
        sides |= set(support_sides)
    mean = torch.stack(maps).mean(0)
    return Sides(side, min(sides), compute_effective_side(mean)), mean / mean.max()


SidesByStack = dict[tuple[str, int], list[Sides]]


def measure(mode: Mode, *, kernel: int = KERNEL, plan: Plan | None = None) -> Findings:
    """Measure fields of three kinds of stacks over depth, seed by seed.

    Args:
        mode: how many seeds, networks and depths.
        kernel: the convolutions' side; with 1 no unit sees further than the one before it, the counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    sides: SidesByStack = {(kind, depth): [] for kind in KINDS for depth in plan.depths(kind)}
    maps: dict[int, Tensor] = {}
    images = [image[0, 0].double() for image in load_gray_photographs().values()]
    with use_one_thread():
        for kind, depth in sides:
            side = compute_formula_side(build_stack(kind, depth, kernel=kernel, seed=(0,)))
            for seed in range(plan.seeds):
                nets = [
                    build_stack(kind, depth, kernel=kernel, seed=(depth, seed, number))
                    for number in range(plan.networks)
                ]
                measured, mean = measure_stacks(nets, side, images, seed)
                sides[kind, depth].append(measured)
                if kind == "plain":
                    maps[depth] = mean
    margins = tuple(min(compute_growth(sides, plan, seed)) for seed in range(plan.seeds))
    return Findings(
        margins,
        0.0,
        _build_checks(sides, plan, kernel),
        _build_table(sides, plan, kernel),
        partial(_draw, sides, maps, plan),
    )


def compute_growth(sides: SidesByStack, plan: Plan, seed: int) -> list[float]:
    """Return log₂ of how the plain stack's effective side grows with each doubling of its depth."""
    values = [sides["plain", depth][seed].effective for depth in plan.plain]
    return [math.log2(b / a) for a, b in pairwise(values)]


def _compute_mean_side(sides: SidesByStack, kind: str, depth: int) -> float:
    """Return a stack's effective side, the mean over seeds."""
    return float(np.mean([s.effective for s in sides[kind, depth]]))


def _build_checks(sides: SidesByStack, plan: Plan, kernel: int) -> tuple[Check, ...]:
    """Return the checks: E16 exactly; the effective side as predicted, an ever smaller share;
    faster growth."""
    exact = sum(s.formula == s.support for of_stack in sides.values() for s in of_stack)
    total = sum(len(of_stack) for of_stack in sides.values())
    worst = max(abs(_compute_mean_side(sides, *key) / predict_side(*key, kernel) - 1) for key in sides)
    shares = [_compute_mean_side(sides, "plain", depth) / sides["plain", depth][0].formula for depth in plan.plain]
    last = plan.doubling[-1]
    factors = {
        kind: _compute_mean_side(sides, kind, last) / _compute_mean_side(sides, kind, plan.doubling[-2])
        for kind in ("dilated", "pooled")
    }
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
                f"dilation and pooling multiply it instead: ×{factors['dilated']:.2f} and ×{factors['pooled']:.2f} "
                f"with layer {last} alone",
                f"膨胀与池化则使它成倍增长：仅第 {last} 层就分别 ×{factors['dilated']:.2f} 与 ×{factors['pooled']:.2f}",
            ),
            min(factors.values()) > 1.5,
        ),
    )


def _build_table(sides: SidesByStack, plan: Plan, kernel: int) -> Table:
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
    for (kind, depth), of_stack in sides.items():
        span = compute_interval([s.effective for s in of_stack])
        first = NAMES[kind] if depth == plan.depths(kind)[0] else ""
        row: tuple[Cell, ...] = (
            first,
            depth,
            of_stack[0].formula,
            min(s.support for s in of_stack),
            span.mean,
            span.high - span.mean,
            predict_side(kind, depth, kernel),
            span.mean / of_stack[0].formula,
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(sides: SidesByStack, maps: dict[int, Tensor], plan: Plan, lang: Lang) -> Figure:
    """Draw the squared gradient of one seed's plain stacks in their whole fields, and the sides over depth."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("A unit can see far, but it looks at the middle", "单元看得到很远，但主要看中间"),
        Text(
            "Left: how much the middle unit depends on each pixel (amplitude), in the field that E16 allows.",
            "左：中间单元对每个像素的依赖程度（幅度），方框为 E16 所允许的感受野。",
        ),
        lang=lang,
    )
    depths = [depth for depth in plan.plain if depth > 1][-4:]
    largest = sides["plain", depths[-1]][0].formula
    for panel, depth in enumerate(depths):
        corner = (0.03 + 0.225 * (panel % 2), 0.435 - 0.365 * (panel // 2), 0.2, 0.2 * SIZE[0] / SIZE[1])
        _draw_map(
            figure.add_axes((corner[0], corner[1], 0.17, 0.17 * SIZE[0] / SIZE[1])), maps[depth], largest, depth, lang
        )
    axes = figure.add_axes((0.565, 0.145, 0.41, 0.60))
    _draw_sides(axes, sides, plan, lang)
    return figure


def _draw_map(axes: Axes, gradient: Tensor, largest: int, depth: int, lang: Lang) -> None:
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


def _draw_sides(axes: Axes, sides: SidesByStack, plan: Plan, lang: Lang) -> None:
    """Draw sides over depth: what E16 allows dashed, the effective side with every seed's value, and the prediction as
    a thin line."""
    for kind in KINDS:
        depths = plan.depths(kind)
        axes.plot(depths, [sides[kind, d][0].formula for d in depths], "--", color=COLORS[kind], linewidth=1.4)
        axes.plot(depths, [_compute_mean_side(sides, kind, d) for d in depths], "o-", color=COLORS[kind], markersize=6)
    deepest = plan.plain[-1]
    top = max(sides[kind, plan.depths(kind)[-1]][0].formula for kind in KINDS)
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
        add_label(
            axes,
            (depth * (1.06 if kind == "plain" else 1.09), _compute_mean_side(sides, kind, depth) * low),
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

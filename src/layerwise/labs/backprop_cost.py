"""C05: backpropagation gets the whole gradient for about two further forward passes; finite differences need one per
weight.

``N`` examples, ``D`` and ``K`` a layer's inputs and outputs, ``P`` weights. S. Linnainmaa (1970); D. E. Rumelhart, G.
E. Hinton, R. J. Williams (1986); A. Griewank (1989), the cheap-gradient principle. The one idea: a layer z = aWᵀ costs
one product forward, and backward one for ∂W = δᵀa and one for ∂a = δW, whatever the number of weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerwise.functional.losses import cross_entropy
from layerwise.labs.base import (
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
from layerwise.labs.figures import BLUE, SIZE, VERMILION, add_headline, add_label
from layerwise.models.feedforward import mlp
from layerwise.runtime.rng import derive_seed, make_generator, make_numpy_generator, use_seed

Gradient = Callable[[nn.Module, Tensor, Tensor], list[Tensor]]
Scheme = Literal["forward", "central"]
EXAMPLES, CLASSES = 16, 10
ABOUT_TWO = 2.2  # what "about two" may mean at most
# which argument of a product is its first factor; the second follows
FIRST_FACTOR = {torch.ops.aten.mm: 0, torch.ops.aten.bmm: 0, torch.ops.aten.addmm: 1, torch.ops.aten.baddbmm: 1}
NUDGE = 1e-6  # of finite differences in float64, near the cube root of its precision


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, sizes in weights, the largest network whose finite differences are taken, and the number
    of timed runs."""

    seeds: int
    sizes: tuple[int, ...]
    differences_up_to: int
    repeats: int


PLANS: dict[Mode, Plan] = {
    "quick": Plan(4, (100, 10**3, 10**4, 10**5, 10**6), 100, 3),
    "normal": Plan(10, (100, 10**3, 10**4, 10**5, 10**6), 1_000, 9),
    "full": Plan(20, (100, 10**3, 10**4, 10**5, 10**6, 10**7), 10_000, 15),
}


@dataclass(frozen=True)
class Cost:
    """What one network's gradient costs, in units of one forward pass over the same examples.

    Args:
        weights: P.
        backward: counted multiply-adds of the backward pass alone.
        differences: multiply-adds of forward finite differences: counted where they were taken, else P + 1 forward
            passes.
        counted: whether finite differences were taken.
        seconds: measured time of forward and backward together, over that of a forward pass.
        seconds_differences: measured time of finite differences over that of a forward pass, where they were taken.
        error: largest difference between both gradients over the largest entry, where both were taken.
    """

    weights: int
    backward: float
    differences: float
    counted: bool
    seconds: float
    seconds_differences: float | None
    error: float | None


def build_network(weights: int, seed: int) -> tuple[nn.Module, int]:
    """Return a network of about this many weights, in float64, and how many inputs it takes.

    The seed draws its shape: 2 to 6 hidden layers and the proportions of their widths, scaled to the number of weights.
    """
    rng = make_numpy_generator("backprop-cost", seed)
    shape = rng.uniform(0.5, 1.5, size=1 + int(rng.integers(2, 7)))  # inputs, hidden layers

    def compute_widths(scale: float) -> list[int]:
        return [max(2, round(scale * s)) for s in shape]

    def count_weights(scale: float) -> int:
        w = [*compute_widths(scale), CLASSES]
        return sum((a + 1) * b for a, b in pairwise(w))

    low, high = 1.0, float(weights)
    for _ in range(60):  # by halving: count grows with the scale
        middle = (low + high) / 2
        low, high = (middle, high) if count_weights(middle) < weights else (low, middle)
    features, *hidden = compute_widths(high)
    with use_seed(derive_seed("backprop-cost", weights, seed)):
        net = mlp(features=features, outputs=CLASSES, hidden=tuple(hidden), activation="tanh").double()
    return net, features


def make_examples(features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs (N, D) and labels (N,) drawn by the seed."""
    own = make_generator("backprop-cost", "examples", seed)
    x = torch.randn(EXAMPLES, features, generator=own, dtype=torch.float64)
    return x, torch.randint(CLASSES, (EXAMPLES,), generator=own)


def compute_loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy: one forward pass."""
    return cross_entropy(net(x), y).mean()


def compute_gradient(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the whole gradient by reverse differentiation (E11), one tensor for each parameter."""
    return list(torch.autograd.grad(compute_loss(net, x, y), list(net.parameters())))


@torch.no_grad()
def compute_differences(net: nn.Module, x: Tensor, y: Tensor, scheme: Scheme = "forward") -> list[Tensor]:
    """Return the whole gradient by changing one weight after the other: (L(θ + h) − L(θ)) / h, or central differences.

    Costs P + 1 forward passes, or 2P.
    """
    base = compute_loss(net, x, y) if scheme == "forward" else None
    gradients = []
    for parameter in net.parameters():
        flat, gradient = parameter.view(-1), torch.empty_like(parameter).view(-1)
        for i in range(len(flat)):
            old = flat[i].clone()
            flat[i] = old + NUDGE
            up = compute_loss(net, x, y)
            if base is None:
                flat[i] = old - NUDGE
                gradient[i] = (up - compute_loss(net, x, y)) / (2 * NUDGE)
            else:
                gradient[i] = (up - base) / NUDGE
            flat[i] = old
        gradients.append(gradient.view_as(parameter))
    return gradients


class ProductCounter(TorchDispatchMode):
    """Counts the multiply-adds of every matrix product that reaches torch's kernels, including those of autograd.

    Tests compare it with torch's own `FlopCounterMode`, which takes seconds to load.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing here is compiled, so torch need not load its compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; a product (M, D) × (D, K) counts M·D·K."""
        first = FIRST_FACTOR.get(func.overloadpacket)
        if first is not None:
            self.count += args[first].numel() * args[first + 1].shape[-1]
        return func(*args, **(kwargs or {}))


def count_operations(work: Callable[[], object]) -> int:
    """Return the multiply-adds of all matrix products while ``work`` runs."""
    counter = ProductCounter()
    with counter:
        work()
    return counter.count


def measure_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of some runs, after one that is not timed."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def measure_cost(weights: int, seed: int, *, plan: Plan, gradient: Gradient) -> Cost:
    """Count and time one network's forward pass, its gradient, and finite differences where the plan takes them."""
    net, features = build_network(weights, seed)
    x, y = make_examples(features, seed)
    size = sum(p.numel() for p in net.parameters())
    forward = torch.no_grad()(partial(compute_loss, net, x, y))
    once, both = count_operations(forward), count_operations(partial(gradient, net, x, y))
    unit = measure_seconds(forward, plan.repeats)
    ratio = measure_seconds(partial(gradient, net, x, y), plan.repeats) / unit
    backward = both / once - 1
    if weights > plan.differences_up_to:
        return Cost(size, backward, size + 1.0, False, ratio, None, None)
    nudge_all = partial(compute_differences, net, x, y)
    start = time.perf_counter()
    reference = nudge_all()
    seconds = (time.perf_counter() - start) / unit
    return Cost(
        size,
        backward,
        count_operations(nudge_all) / once,
        True,
        ratio,
        seconds,
        _compute_error(gradient(net, x, y), reference),
    )


def _compute_error(gradient: list[Tensor], reference: list[Tensor]) -> float:
    """Return the largest difference between two gradients over the largest entry."""
    a, b = (torch.cat([g.flatten() for g in tensors]) for tensors in (gradient, reference))
    return float((a - b).abs().max() / b.abs().max())


def fit_growth(costs: list[Cost], get_cost: Callable[[Cost], float]) -> float:
    """Return the exponent of the number of weights with which a cost grows: the slope in log–log, by least squares."""
    return float(np.polyfit(np.log([c.weights for c in costs]), np.log([get_cost(c) for c in costs]), 1)[0])


def measure(mode: Mode, *, gradient: Gradient = compute_gradient, plan: Plan | None = None) -> Findings:
    """Count what the gradient costs for networks of several sizes and of shapes drawn by each seed.

    Args:
        mode: how many seeds, how large.
        gradient: computes the whole gradient.
        plan: other sizes than the mode's.
    """
    plan = plan or PLANS[mode]
    with use_one_thread():
        runs = []
        for seed in range(plan.seeds):
            runs.append([measure_cost(size, seed, plan=plan, gradient=gradient) for size in plan.sizes])
    worst = max(c.backward for run in runs for c in run)
    slopes = [fit_growth(run, lambda c: 1 + c.backward) for run in runs]
    taken = [c for run in runs for c in run if c.counted]
    excess = max(abs(c.differences - (c.weights + 1)) for c in taken)
    error = max(c.error for c in taken if c.error is not None)
    checks = (
        Check(
            Text(
                f"the backward pass never costs more than {ABOUT_TWO} forward passes (worst of all networks: "
                f"{worst:.3f})",
                f"反向传播的代价从不超过 {ABOUT_TWO} 次前向传播（所有网络中最差为 {worst:.3f}）",
            ),
            worst <= ABOUT_TWO,
        ),
        Check(
            Text(
                "in forward passes, backpropagation's cost does not grow with the weights (as P to the "
                f"{format_signed(max(slopes))})",
                f"以前向传播次数计，反向传播的代价不随权重数 P 增长（P 的 {format_signed(max(slopes))} 次方）",
            ),
            max(slopes) < 0.1,
        ),
        Check(
            Text(
                f"finite differences cost one forward pass for each weight and one more (counted: off by {excess:.0f})",
                f"有限差分对每个权重需一次前向传播，另加一次（计数误差 {excess:.0f}）",
            ),
            excess < 0.5,
        ),
        Check(
            Text(
                f"both give the same gradient (largest relative difference {error:.0e})",
                f"两种方法给出相同的梯度（最大相对差 {error:.0e}）",
            ),
            error < 1e-4,
        ),
    )
    margins = tuple(ABOUT_TWO - max(c.backward for c in run) for run in runs)
    return Findings(margins, 0.0, checks, _build_table(plan, runs), partial(_draw, runs))


def _build_table(plan: Plan, runs: list[list[Cost]]) -> Table:
    """Return one row for each size, over all seeds."""
    columns = (
        Column(Text("weights, about", "权重数（约）"), ",d"),
        Column(Text("backward, counted", "反向，计数"), ".3f"),
        Column(Text("worst", "最差"), ".3f"),
        Column(Text("forward + backward, time", "前向+反向，用时"), ".1f"),
        Column(Text("differences, counted", "有限差分，计数"), ">"),
        Column(Text("differences, time", "有限差分，用时"), ",.0f"),
    )
    rows = []
    for size, costs in zip(plan.sizes, zip(*runs, strict=True), strict=True):
        backward = [c.backward for c in costs]
        times = [c.seconds_differences for c in costs if c.seconds_differences is not None]
        each = f"{median(c.differences for c in costs):,.0f}"
        rows.append(
            (
                size,
                compute_interval(backward).mean,
                max(backward),
                median(c.seconds for c in costs),
                each if costs[0].counted else f"({each})",
                median(times) if times else None,
            )
        )
    return Table(columns, tuple(rows))


def _draw(runs: list[list[Cost]], lang: Lang) -> Figure:
    """Draw both costs against the number of weights, log–log."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("The whole gradient costs three passes, not a million", "求全部梯度只需三次传播，而非一百万次"),
        Text(
            "Cost of all weights' gradient, in forward passes. Discs: operations. Rings: time. Medians.",
            "求全部权重的梯度的代价，以前向传播次数计。实心：运算计数。空心：实测用时。均为中位数。",
        ),
        lang=lang,
    )
    axes = figure.add_axes((0.105, 0.145, 0.865, 0.655))
    sizes = [[run[i] for run in runs] for i in range(len(runs[0]))]  # each the same number of weights, about
    weights = [median(c.weights for c in costs) for costs in sizes]
    ends, top = np.array([weights[0] * 0.7, weights[-1] * 1.3]), weights[-1]
    axes.plot(ends, ends + 1, color=VERMILION, linewidth=1.6, linestyle=(0, (5, 3)))
    axes.plot(ends, [3, 3], color=BLUE, linewidth=1.6, linestyle=(0, (5, 3)))
    taken = [costs for costs in sizes if costs[0].counted]
    for counted, timed, color in (
        (
            [median(c.differences for c in costs) for costs in taken],
            [median(c.seconds_differences or math.nan for c in costs) for costs in taken],
            VERMILION,
        ),
        (
            [median(1 + c.backward for c in costs) for costs in sizes],
            [median(c.seconds for c in costs) for costs in sizes],
            BLUE,
        ),
    ):
        axes.plot(
            weights[: len(timed)],
            timed,
            "o",
            markersize=14,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=1.6,
        )
        axes.plot(weights[: len(counted)], counted, "o", markersize=9, color=color)
    axes.set(xscale="log", yscale="log", xlim=(ends[0] * 0.9, top * 1.6), ylim=(0.7, top * 6))
    axes.minorticks_off()
    axes.set_xlabel(Text("number of weights", "权重数").of(lang))
    axes.set_ylabel(Text("cost, in forward passes", "代价（前向传播次数）").of(lang))
    slow = Text("finite differences:\none forward pass for each weight", "有限差分：\n每个权重一次前向传播").of(lang)
    fast = Text(
        "backpropagation: one pass forward, at most two more backward", "反向传播：一次前向，外加至多两次的反向"
    ).of(lang)
    add_label(axes, (top**0.72, top**0.93), slow, color=VERMILION, align="right")
    add_label(axes, (top**0.97, 20), fast, color=BLUE, align="right")
    return figure


LAB = Lab(
    name="backprop-cost",
    claim_id="C05",
    title=Text("the whole gradient for about two further forward passes", "全部梯度只需约两次额外的前向传播"),
    claim=Text(
        "Backpropagation gets the gradient of all weights for the price of about two further forward passes, "
        "whatever the "
        "number of weights. Finite differences need one forward pass for each weight.",
        "反向传播求出全部权重的梯度，代价约为两次额外的前向传播，与权重数无关。有限差分则每个权重都需要一次前向传播。",
    ),
    formula=Text(
        "forward      z⁽ˡ⁾ = a⁽ˡ⁻¹⁾W⁽ˡ⁾ᵀ                        one product a layer\n"
        "backward     ∂W⁽ˡ⁾ = δ⁽ˡ⁾ᵀa⁽ˡ⁻¹⁾,  ∂a⁽ˡ⁻¹⁾ = δ⁽ˡ⁾W⁽ˡ⁾  two products a layer, one in the first\n"
        "differences  ∂L/∂θᵢ ≈ (L(θ + h eᵢ) − L(θ)) / h        P + 1 forward passes; central ones 2P",
        "前向      z⁽ˡ⁾ = a⁽ˡ⁻¹⁾W⁽ˡ⁾ᵀ                        每层一次矩阵乘法\n"
        "反向      ∂W⁽ˡ⁾ = δ⁽ˡ⁾ᵀa⁽ˡ⁻¹⁾,  ∂a⁽ˡ⁻¹⁾ = δ⁽ˡ⁾W⁽ˡ⁾  每层两次，第一层一次\n"
        "有限差分  ∂L/∂θᵢ ≈ (L(θ + h eᵢ) − L(θ)) / h        P + 1 次前向传播；中心差分为 2P 次",
    ),
    method=Text(
        "Multilayer perceptrons of 2 to 6 hidden layers; a seed draws depth and proportions, which are scaled to each "
        "number of weights; 16 examples, float64, one thread. A counter between torch and its kernels adds up the "
        "multiply-adds of all matrix products in a forward pass, in backpropagation and in finite "
        "differences; biases and "
        "activations, of order 1/width beside them, are not counted. Columns are in forward passes. Finite "
        "differences are "
        "really taken on the smaller networks, where their gradient is also the oracle for "
        "backpropagation's; numbers in "
        "brackets are P + 1. Times, the median of several runs, are shown but do not decide.",
        "多层感知机，2 至 6 个隐藏层，深度与宽度比例由种子决定，再缩放到各个权重数；16 个样本，float64，"
        "单线程。在 torch "
        "与其内核之间放置计数器，统计前向传播、反向传播与有限差分中所有矩阵乘法的乘加次数；"
        "偏置与激活相比之下只占 1/宽度 "
        "的量级，不计入。各列均以前向传播次数为单位。较小的网络真正做了有限差分，其梯度也用来检验反向传播；"
        "括号中的数为 P + "
        "1。用时取多次运行的中位数，仅供参考，不参与判定。",
    ),
    margin=Text(
        f"{ABOUT_TWO} forward passes (“about two”) minus the cost of a seed's worst backward pass",
        f"{ABOUT_TWO} 次前向传播（“约两次”）减去该种子最差的反向传播代价",
    ),
    held=Text(
        "The backward pass makes two products where the forward pass makes one, save in the first layer, "
        "whose inputs need "
        "no gradient: so it costs two minus the first layer's share, for a thousand weights as for a "
        "million. By the clock "
        "it is more, for memory traffic and bookkeeping come on top of the products. This is why networks "
        "with millions of "
        "weights can be trained at all.",
        "前向传播每层做一次矩阵乘法，反向传播做两次，只有第一层例外，因为输入不需要梯度：所以代价是 2 "
        "减去第一层所占的份额，"
        "一千个权重如此，一百万个权重也如此。实际用时会更多一些，因为除矩阵乘法外还有内存读写与记录开销。正因如此，"
        "拥有数百万权重的网络才可能训练。",
    ),
    refuted=Text(
        "Here the claim did not hold: this way of finding the gradient costs more than about two further "
        "forward passes, or "
        "gives another gradient. Look at the checks.",
        "此处论断不成立：这种求梯度的方法代价超过约两次前向传播，或给出了不同的梯度。请看各项检查。",
    ),
    experiment=measure,
)

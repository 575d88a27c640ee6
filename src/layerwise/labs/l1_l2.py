"""C10: L1 gives sparse weights, L2 small ones.

A. N. Tikhonov (1963); R. Tibshirani, Regression shrinkage and selection via the lasso (1996). The one idea: L1 pulls at
every weight with the same force λ down to zero, L2 with 2λw, which fades as the weight does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

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
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, add_headline
from layerwise.labs.regularization import HIDDEN, TRAIN, Treatment, Trial, noisy_digits, run_trial
from layerwise.plotting.svg import INK

PLAIN, L2, L1, SLOPE = "none", "L2", "L1", "L1 by its slope"
TREATMENTS: dict[str, Treatment] = {
    PLAIN: Treatment(),
    L2: Treatment(rule={"l2": 3e-3}),
    L1: Treatment(rule={"l1": 1e-3, "l1_proximal": True}),
    SLOPE: Treatment(rule={"l1": 1e-3}),
}
NAMES = {
    PLAIN: Text("no penalty", "无惩罚"),
    L2: Text("L2, λ = 0.003", "L2，λ = 0.003"),
    L1: Text("L1, λ = 0.001, proximal", "L1，λ = 0.001，近端步"),
    SLOPE: Text("L1, λ = 0.001, subgradient", "L1，λ = 0.001，次梯度"),
}
BOUND = 0.25  # a quarter of all weights
TINY = 0.01  # of a network's largest weight: below it a weight is called negligible


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, and epochs."""

    seeds: int
    epochs: int


PLANS: dict[Mode, Plan] = {"quick": Plan(3, 30), "normal": Plan(10, 40), "full": Plan(30, 120)}
Trials = dict[str, list[Trial]]


def flatten_weights(trial: Trial) -> Tensor:
    """Return all weights of a network in a row, (P,), in float64."""
    return torch.cat([w.flatten().double() for w in trial.weights])


def compute_zero_share(trial: Trial) -> float:
    """Return the share of weights that are exactly 0."""
    return float((flatten_weights(trial) == 0).double().mean())


def compute_negligible_share(trial: Trial) -> float:
    """Return the share of weights below a hundredth of the network's largest."""
    size = flatten_weights(trial).abs()
    return float((size < TINY * size.max()).double().mean())


def find_largest(trial: Trial) -> float:
    """Return max |w|."""
    return float(flatten_weights(trial).abs().max())


def compute_rms(trial: Trial) -> float:
    """Return √(mean w²)."""
    return float(flatten_weights(trial).square().mean().sqrt())


def measure(mode: Mode, *, treatments: Mapping[str, Treatment] = TREATMENTS, plan: Plan | None = None) -> Findings:
    """Train the same network under each penalty, seed by seed.

    Args:
        mode: how many seeds and epochs.
        treatments: the penalty of each role; an exchanged one is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    results: Trials = {name: [] for name in treatments}
    with use_one_thread():
        for seed in range(plan.seeds):
            parts = noisy_digits(seed)
            for name, treatment in treatments.items():
                results[name].append(run_trial(parts, seed, treatment, epochs=plan.epochs))
    margins = tuple(
        compute_zero_share(sparse) - compute_negligible_share(small)
        for sparse, small in zip(results[L1], results[L2], strict=True)
    )
    return Findings(margins, BOUND, _build_checks(results), _build_table(results), partial(_draw, results))


def _build_checks(results: Trials) -> tuple[Check, ...]:
    """Return the checks: L2's weights are the smallest, none of them zero; both penalties lower the test
    loss."""
    rms = {name: compute_interval([compute_rms(t) for t in trials]).mean for name, trials in results.items()}
    ratio = [find_largest(small) / find_largest(sparse) for small, sparse in zip(results[L2], results[L1], strict=True)]
    shrink = [compute_rms(small) / compute_rms(plain) for small, plain in zip(results[L2], results[PLAIN], strict=True)]
    lows = []
    for name in (L2, L1):
        gains = [plain.test - trial.test for plain, trial in zip(results[PLAIN], results[name], strict=True)]
        lows.append(compute_interval(gains).low)
    least = min(lows)
    return (
        Check(
            Text(
                f"L2's weights are small: of size {rms[L2]:.3f} where they are {rms[PLAIN]:.3f} without penalty",
                f"L2 的权重小：均方根为 {rms[L2]:.3f}，无惩罚时为 {rms[PLAIN]:.3f}",
            ),
            compute_interval(shrink).high < 1,
        ),
        Check(
            Text(
                f"and even: its largest weight is {compute_interval(ratio).mean:.2f} of L1's, which keeps a few "
                "large ones",
                f"而且均匀：最大权重只有 L1 的 {compute_interval(ratio).mean:.2f} 倍，L1 则保留少数大权重",
            ),
            compute_interval(ratio).high < 1,
        ),
        Check(
            Text("L2 makes no weight exactly zero", "L2 不会让任何权重恰好为零"),
            max(compute_zero_share(t) for t in results[L2]) == 0,
        ),
        Check(
            Text(
                f"both lower the test loss, by {format_signed(least)} nats at the least (lower end of the intervals)",
                f"两者都降低测试损失，至少 {format_signed(least)} 奈特（区间下端）",
            ),
            least > 0,
        ),
    )


def _build_table(results: Trials) -> Table:
    """Return one row for each penalty, means over seeds."""
    columns = (
        Column(Text("penalty", "惩罚")),
        Column(Text("exact zeros", "恰为零"), ".1%"),
        Column(Text("negligible", "可忽略"), ".1%"),
        Column(Text("√(mean w²)", "均方根"), ".3f"),
        Column(Text("largest", "最大"), ".2f"),
        Column(Text("train loss", "训练损失"), ".3f"),
        Column(Text("test loss", "测试损失"), ".3f"),
        Column(Text("gap", "差距"), ".3f"),
    )
    rows = []
    for name, trials in results.items():
        values = [
            (
                compute_zero_share(t),
                compute_negligible_share(t),
                compute_rms(t),
                find_largest(t),
                t.train,
                t.test,
                t.gap,
            )
            for t in trials
        ]
        rows.append((NAMES[name], *np.mean(values, axis=0).tolist()))
    return Table(columns, tuple(rows))


def _draw(results: Trials, lang: Lang) -> Figure:
    """Draw how many weights are how large, under each penalty, and how the two penalties pull."""
    figure = Figure(figsize=SIZE)
    count = len(flatten_weights(results[PLAIN][0]))
    add_headline(
        figure,
        Text("L1 empties the network, L2 shrinks it", "L1 清空权重，L2 缩小权重"),
        Text(f"The {count:,} weights of one network, sorted by size.", f"同一网络的 {count:,} 个权重，按大小排序。"),
        lang=lang,
    )
    axes = figure.add_axes((0.095, 0.145, 0.50, 0.65))
    for name, color in ((PLAIN, VERMILION), (L2, BLUE), (L1, GREEN)):
        size = np.sort(flatten_weights(results[name][0]).abs().numpy())[::-1]
        index = np.unique(np.linspace(0, len(size) - 1, 300).astype(int))  # a curve needs no more points
        axes.plot(100 * index / len(size), size[index], color=color, label=NAMES[name].of(lang))
    axes.set(xlim=(0, 100), ylim=(0, None))
    axes.set_xlabel(Text("weights, largest first (%)", "权重（从大到小，%）").of(lang))
    axes.set_ylabel("|w|")
    axes.legend(loc="upper right")
    start_of_zeros = 100 * (1 - compute_zero_share(results[L1][0]))
    axes.annotate(
        Text(
            f"from here on exactly 0\n({100 - start_of_zeros:.0f} % of them)",
            f"此后恰好为 0\n（占 {100 - start_of_zeros:.0f} %）",
        ).of(lang),
        (start_of_zeros, 0),
        (start_of_zeros + 4, 0.27 * axes.get_ylim()[1]),
        color=GREEN,
        fontsize=13,
        fontweight="bold",
        arrowprops={"arrowstyle": "->", "color": GREEN, "linewidth": 1.8},
    )
    _draw_forces(figure.add_axes((0.70, 0.145, 0.275, 0.56)), lang)
    return figure


def _draw_forces(axes: Axes, lang: Lang) -> None:
    """Draw the slope of either penalty by weight: why one stops short of zero and the other does not."""
    w = np.linspace(-0.5, 0.5, 201)
    axes.plot(w, 2 * 3e-3 * w * 1000, color=BLUE, label="2λw")
    axes.plot([-0.5, 0, 0, 0.5], [-1, -1, 1, 1], color=GREEN, label="λ·sign w")
    axes.set_title(Text("The pull towards zero", "拉向零的力").of(lang), loc="left", color=INK)
    axes.set_xlabel("w")
    axes.set_ylabel("∂/∂w · 10³")
    axes.legend(loc="lower right")


LAB = Lab(
    name="l1-l2",
    claim_id="C10",
    title=Text("L1 gives sparse weights, L2 small ones", "L1 使权重稀疏，L2 使权重变小"),
    claim=Text(
        "A penalty λΣ|w| sets many weights to exactly zero and leaves some large; a penalty λΣw² makes all "
        "of them small and none zero.",
        "惩罚项 λΣ|w| 使许多权重恰好为零，同时保留少数大权重；惩罚项 λΣw² 使所有权重变小，但没有一个为零。",
    ),
    formula=Text(
        "L2  L + λΣw²    slope 2λw: fades with the weight\n"
        "L1  L + λΣ|w|   slope λ·sign w: the same down to zero\n"
        "    proximal step after each update: w ← sign(w)·max(|w| − ηλr, 0)\n"
        "    r: the optimizer's own measure, 1 for SGD, 1/√v̂ for Adam",
        "L2  L + λΣw²    斜率 2λw：随权重减弱\n"
        "L1  L + λΣ|w|   斜率 λ·sign w：直到零都不变\n"
        "    每次更新后的近端步：w ← sign(w)·max(|w| − ηλr, 0)\n"
        "    r：优化器自身的尺度，SGD 为 1，Adam 为 1/√v̂",
    ),
    method=Text(
        f"A network with one hidden layer of {HIDDEN} units learns {TRAIN} of scikit-learn's digits with "
        "Adam; one label in ten is drawn "
        "anew, so that it overfits. The two strengths are chosen so that L1 and L2 reach about the same test "
        "loss. Negligible: below a "
        "hundredth of the network's largest weight. The subgradient row is the same L1 without the proximal "
        "step: its weights hover "
        "about zero. Biases are not penalized. All penalties of a seed share start, order and data.",
        f"单隐藏层（{HIDDEN} 个单元）网络用 Adam 学习 scikit-learn digits 中的 {TRAIN} 个样本；"
        "十分之一的标签重新随机抽取，使其过拟合。"
        "两种惩罚的强度选得使 L1 与 L2 的测试损失大致相同。可忽略：小于网络最大权重的百分之一。"
        "次梯度一行是不用近端步的同一 L1："
        "权重在零附近来回摆动。偏置不受惩罚。同一种子下，各种惩罚的起点、样本顺序与数据完全相同。",
    ),
    margin=Text(
        "the share of weights that L1 sets to exactly zero, minus the share that L2 makes merely negligible",
        "L1 使之恰好为零的权重比例，减去 L2 仅使之可忽略的权重比例",
    ),
    held=Text(
        "At the same test loss and the same overall size of the weights, L1 spends them on few connections "
        "and L2 on all. Exact zeros "
        "need the proximal step: with the subgradient the weights come near zero and never rest there. Both "
        "shrink the gap "
        "between training and test about equally here; sparsity is a choice of form, not of accuracy.",
        "在测试损失与权重总体大小都相近的情况下，L1 把权重集中于少数连接，L2 则分摊到全部连接。"
        "要得到恰好为零的权重，须用近端步："
        "用次梯度时权重靠近零却从不停在零上。这里两者缩小训练与测试差距的程度相近；稀疏是形式上的选择，"
        "而非精度上的选择。",
    ),
    refuted=Text(
        "Here the claim did not hold: L1 did not make the weights sparse, or L2 not small. Look at the checks.",
        "此处论断不成立：L1 没有使权重稀疏，或者 L2 没有使权重变小。请看各项检查。",
    ),
    experiment=measure,
)

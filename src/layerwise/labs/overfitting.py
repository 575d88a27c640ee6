"""C11: dropout, augmentation and early stopping each shrink the train–test gap without raising the test loss.

N. Srivastava et al., Dropout (2014); P. Y. Simard et al. (2003); L. Prechelt, Early stopping, but when? (1998). The one
idea: a network that can learn its examples by heart learns their mislabeled ones too, unless something makes that
costly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.functional.augmentation.transforms import AugmentOptions
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
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, add_headline, add_label
from layerwise.labs.regularization import HIDDEN, TRAIN, VAL, Treatment, Trial, noisy_digits, run_trial
from layerwise.plotting.svg import INK, MUTED

PLAIN = "none"
CLAIMED = ("dropout", "augmentation", "early stopping")
TREATMENTS: dict[str, Treatment] = {
    PLAIN: Treatment(),
    "dropout": Treatment(dropout=0.5),
    "augmentation": Treatment(augment=AugmentOptions(rotate=12, scale=0.1, crop_padding=1)),
    "early stopping": Treatment(patience=5),
    "L2": Treatment(rule={"l2": 3e-3}),
    "L1": Treatment(rule={"l1": 1e-3, "l1_proximal": True}),
    "batch norm": Treatment(batch_norm=True),
}
NAMES = {
    PLAIN: Text("nothing", "无正则化"),
    "dropout": Text("dropout, p = 0.5", "dropout，p = 0.5"),
    "augmentation": Text("augmentation", "数据增强"),
    "early stopping": Text("early stopping", "早停"),
    "L2": Text("L2, λ = 0.003", "L2，λ = 0.003"),
    "L1": Text("L1, λ = 0.001", "L1，λ = 0.001"),
    "batch norm": Text("batch norm", "批归一化"),
}
WATCH = 2  # epochs between two points of the curves


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, epochs of the budget, and whether treatments outside the claim run
    too."""

    seeds: int
    epochs: int
    all_treatments: bool = True


PLANS: dict[Mode, Plan] = {"quick": Plan(3, 30, False), "normal": Plan(10, 40), "full": Plan(30, 80)}
Trials = dict[str, list[Trial]]


def measure(mode: Mode, *, treatments: Mapping[str, Treatment] = TREATMENTS, plan: Plan | None = None) -> Findings:
    """Train the same network under each treatment, seed by seed.

    Args:
        mode: how many seeds, epochs and treatments.
        treatments: what each treatment is; a weaker one under a name is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    names = [name for name in treatments if plan.all_treatments or name in (PLAIN, *CLAIMED)]
    results: Trials = {name: [] for name in names}
    with use_one_thread():
        for seed in range(plan.seeds):
            parts = noisy_digits(seed)
            for name in names:
                results[name].append(
                    run_trial(parts, seed, treatments[name], epochs=plan.epochs, watch=WATCH if seed == 0 else 0)
                )
    margins = tuple(min(compute_shrinkage(results, name, seed) for name in CLAIMED) for seed in range(plan.seeds))
    return Findings(
        margins,
        0.0,
        tuple(_build_check(results, name) for name in CLAIMED),
        _build_table(results),
        partial(_draw, results),
    )


def compute_shrinkage(results: Trials, name: str, seed: int) -> float:
    """Return the relative reduction of a seed's gap by a treatment: 1 closes it."""
    return 1 - results[name][seed].gap / results[PLAIN][seed].gap


def compute_gains(results: Trials, name: str) -> list[float]:
    """Return by how many nats a treatment lowers the test loss, seed by seed."""
    return [plain.test - trial.test for plain, trial in zip(results[PLAIN], results[name], strict=True)]


def _build_check(results: Trials, name: str) -> Check:
    """Check that a treatment does not raise the test loss: the interval of its gains does not reach below 0."""
    mean, low, high = compute_interval(compute_gains(results, name))
    numbers = ", ".join(format_signed(v, ".3f") for v in (low, high))
    return Check(
        Text(
            f"{NAMES[name].en}: the test loss is lower by {format_signed(mean)} nats (interval [{numbers}])",
            f"{NAMES[name].zh}：测试损失降低 {format_signed(mean)} 奈特（区间 [{numbers}]）",
        ),
        low >= 0,
    )


def _build_table(results: Trials) -> Table:
    """Return one row for each treatment, means over seeds."""
    columns = (
        Column(Text("treatment", "方法")),
        Column(Text("train loss", "训练损失"), ".3f"),
        Column(Text("test loss", "测试损失"), ".3f"),
        Column(Text("gap", "差距"), ".3f"),
        Column(Text("gap shrunk by", "差距缩小"), ".0%"),
        Column(Text("±", "±"), ".0%"),
        Column(Text("test accuracy", "测试准确率"), ".3f"),
        Column(Text("epochs", "轮数"), ".0f"),
    )
    rows = []
    for name, trials in results.items():
        share = compute_interval([compute_shrinkage(results, name, seed) for seed in range(len(trials))])
        values = [(t.train, t.test, t.gap, t.accuracy, float(t.epoch)) for t in trials]
        train, test, gap, accuracy, epoch = np.mean(values, axis=0).tolist()
        spread = None if name == PLAIN else share.high - share.mean
        rows.append((NAMES[name], train, test, gap, None if name == PLAIN else share.mean, spread, accuracy, epoch))
    return Table(columns, tuple(rows))


def _draw(results: Trials, lang: Lang) -> Figure:
    """Draw one seed's losses by epoch without treatment, and beside it each treatment's gap."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("Learning by heart, and three ways out", "死记硬背，以及三条出路"),
        Text(
            "300 digits, one label in ten drawn anew. Cross-entropy in nats.",
            "300 个数字，十分之一的标签重新随机抽取。交叉熵，单位奈特。",
        ),
        lang=lang,
    )
    _draw_curves(figure.add_axes((0.085, 0.145, 0.37, 0.62)), results, lang)
    _draw_gaps(figure.add_axes((0.645, 0.145, 0.325, 0.62)), results, lang)
    return figure


def _draw_curves(axes: Axes, results: Trials, lang: Lang) -> None:
    """Draw training and test loss by epoch without treatment, and mark where early stopping stopped."""
    epochs, train, test = zip(*results[PLAIN][0].path, strict=True)
    axes.plot(epochs, test, color=VERMILION)
    axes.plot(epochs, train, color=BLUE)
    stop = results["early stopping"][0]
    axes.axvline(stop.epoch, color=GREEN, linestyle=(0, (3, 3)), linewidth=1.8)
    top = max(*test, *train)
    axes.set(ylim=(0, 1.15 * top), xlim=(0, epochs[-1]))
    axes.set_title(Text("Nothing done", "无正则化").of(lang), loc="left")
    axes.set_xlabel(Text("epoch", "轮").of(lang))
    axes.set_ylabel(Text("loss", "损失").of(lang))
    end = int(0.6 * len(epochs))
    add_label(axes, (epochs[end], test[end] + 0.13 * top), Text("test", "测试").of(lang), color=VERMILION)
    add_label(axes, (epochs[end], train[end] + 0.08 * top), Text("train", "训练").of(lang), color=BLUE)
    add_label(axes, (stop.epoch + 0.02 * epochs[-1], 1.08 * top), Text("early stop", "早停").of(lang), color=GREEN)


def _draw_gaps(axes: Axes, results: Trials, lang: Lang) -> None:
    """Draw for each treatment the mean training loss and test loss, joined by the gap."""
    for row, trials in enumerate(results.values()):
        train, test = (float(np.mean([getattr(t, part) for t in trials])) for part in ("train", "test"))
        axes.plot([train, test], [row, row], color=MUTED, linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot(train, row, "o", color=BLUE, markersize=10)
        axes.plot(test, row, "o", color=VERMILION, markersize=10)
    axes.axvline(
        float(np.mean([t.test for t in results[PLAIN]])),
        ymax=0.85,
        color=VERMILION,
        linewidth=1.2,
        linestyle=(0, (2, 3)),
    )
    axes.set_yticks(range(len(results)), [NAMES[name].of(lang) for name in results], color=INK)
    plain = results[PLAIN]
    first, last = (float(np.mean([getattr(t, part) for t in plain])) for part in ("train", "test"))
    add_label(axes, (first, -0.42), Text("train", "训练").of(lang), color=BLUE)
    add_label(axes, (last, -0.42), Text("test", "测试").of(lang), color=VERMILION, align="right")
    axes.set(ylim=(len(results) - 0.4, -0.75), xlim=(-0.05 * last, 1.06 * last))
    axes.grid(axis="y", visible=False)
    axes.set_title(Text("The gap", "差距").of(lang), loc="left")
    axes.set_xlabel(Text("loss", "损失").of(lang))


LAB = Lab(
    name="overfitting",
    claim_id="C11",
    title=Text(
        "dropout, augmentation and early stopping shrink the train–test gap",
        "dropout、数据增强与早停缩小训练与测试的差距",
    ),
    claim=Text(
        "Dropout, data augmentation and early stopping each shrink the gap between training loss and test "
        "loss, and none of them raises "
        "the test loss.",
        "dropout、数据增强与早停各自都能缩小训练损失与测试损失之间的差距，并且都不会使测试损失升高。",
    ),
    formula=Text(
        "gap = L(test) − L(train)\n"
        "dropout         ã = a ⊙ m / (1 − p),  m ~ Bernoulli(1 − p)   in training only\n"
        "augmentation    x̃ = T(x; θ),  θ drawn from (seed, epoch, example)\n"
        "early stopping  the weights of the epoch with the lowest validation loss",
        "差距 = L(测试) − L(训练)\n"
        "dropout   ã = a ⊙ m / (1 − p)，m ~ Bernoulli(1 − p)   仅在训练时\n"
        "数据增强  x̃ = T(x; θ)，θ 由 (种子, 轮, 样本) 决定\n"
        "早停      取验证损失最低那一轮的权重",
    ),
    method=Text(
        f"A network with one hidden layer of {HIDDEN} units learns {TRAIN} of scikit-learn's digits, with "
        f"Adam at a fixed rate; {VAL} "
        "more are for early stopping to look at (the others leave them alone) and 1197 for the test. In "
        "every part one label in ten is "
        "drawn anew from the ten classes, so that nobody can be sure of a label and learning by heart is "
        "dear. Both losses are "
        "measured at the end, on the images as they are, with nothing dropped. Augmentation turns by up to "
        "12°, scales by up to a tenth "
        "and shifts by up to one of the 8 pixels. All treatments of a seed share start, order and data.",
        f"单隐藏层（{HIDDEN} 个单元）网络学习 scikit-learn digits 中的 {TRAIN} 个样本，Adam，学习率固定；"
        f"另外 {VAL} 个供早停观察"
        "（其他方法不用），1197 个作测试。每一部分都有十分之一的标签从十个类别中重新随机抽取："
        "没有人能完全确信标签，死记硬背因此代价高昂。"
        "两种损失都在训练结束后测量，用未经增强的图像，且不丢弃任何单元。数据增强："
        "旋转至多 12°，缩放至多一成，平移至多 1 个像素（边长 8）。"
        "同一种子下，各方法的起点、样本顺序与数据完全相同。",
    ),
    margin=Text(
        "the part of the gap that goes away: of the three treatments the least",
        "差距缩小的比例：取三种方法中的最小值",
    ),
    held=Text(
        "Left alone, the network drives its training loss to nearly nothing by learning wrong labels, and "
        "pays for it on the "
        "test. Early stopping leaves before that; augmentation never shows the same image twice, so there "
        "is nothing to learn by "
        "heart; dropout makes it harder and leaves most of the gap. A small gap is no aim in itself: "
        "augmentation's and early stopping's "
        "come with a higher training loss. What counts is the test loss.",
        "若不加约束，网络靠记住错误标签把训练损失压到近乎为零，却在测试上付出代价。早停在此之前离开；"
        "数据增强从不重复同一张图像，"
        "也就无从背诵；dropout 使死记变难，但大部分差距仍在。差距小本身不是目的："
        "数据增强与早停的训练损失更高，真正要看的是测试损失。",
    ),
    refuted=Text(
        "Here the claim did not hold: a treatment left the gap as it was, or raised the test loss. Look at the checks.",
        "此处论断不成立：某种方法没有缩小差距，或使测试损失升高了。请看各项检查。",
    ),
    experiment=measure,
)

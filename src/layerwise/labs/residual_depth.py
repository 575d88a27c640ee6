"""C22: plain deep nets get worse with depth; residual ones do not.

K. He, X. Zhang, S. Ren, J. Sun, Deep residual learning for image recognition, CVPR 2016, figures 1 and 6. The one idea:
a deeper net could copy its input through the layers that it does not need, so it should never be worse on the images
it learns from; a plain one does not find that copy, and a sum gives it for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import nn

from layerwise.data.batch import Batch
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
from layerwise.labs.figures import BLUE, SIZE, VERMILION, add_headline, add_label
from layerwise.labs.training import SplitBatches, compute_metrics, load_batches, train_steps
from layerwise.models.resnet_cifar import resnet20
from layerwise.rules.backprop import BackpropOptions
from layerwise.runtime import rng

KINDS = {"plain": False, "residual": True}
NAMES = {"plain": Text("plain", "普通"), "residual": Text("residual", "残差")}
COLORS = {"plain": VERMILION, "residual": BLUE}
ALLOWED = 0.02  # of accuracy: what a residual net may lose with depth
CHUNK = 1000  # examples at a time, in measuring
LR = 0.05


@dataclass(frozen=True)
class Plan:
    """How much to do: data set, training examples (0: all), seeds, epochs, batch, maps of the first stage, the two
    numbers of layers."""

    data: str
    examples: int
    seeds: int
    epochs: int
    batch_size: int
    width: int
    depths: tuple[int, int] = (20, 56)


PLANS: dict[Mode, Plan] = {
    "quick": Plan("digits", 300, 3, 6, 50, 4, (8, 32)),
    "normal": Plan("digits", 600, 3, 12, 50, 8),
    "full": Plan("cifar10", 10_000, 3, 8, 128, 8),
}


@dataclass(frozen=True)
class Score:
    """One trained network: accuracy on the training and on the test part."""

    train: float
    test: float


Scores = dict[tuple[str, int], list[Score]]


def build_network(residual: bool, depth: int, data: SplitBatches, *, width: int, seed: int) -> nn.Module:
    """Return Layerwise's network of 6n + 2 layers, with or without residual connections."""
    channels, height, side = data.train.input_tensor.shape[1:]
    with rng.use_seed(rng.derive_seed("residual-depth", depth, seed)):
        return resnet20(
            outputs=len(data.task.classes),
            channels=channels,
            size=(height, side),
            width=width,
            blocks=(depth - 2) // 6,
            residual=residual,
        )


@torch.no_grad()
def update_batch_norm(net: nn.Module, batch: Batch) -> None:
    """Recompute batch norm's statistics from a batch's images: in short trainings the running ones lag behind the
    weights."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over what follows
    net.train()
    for chunk in batch.input_tensor.split(CHUNK):
        net(chunk)


def compute_accuracy(net: nn.Module, data: SplitBatches, batch: Batch) -> float:
    """Return the accuracy on a batch, computed in chunks."""
    right = 0.0
    for start in range(0, len(batch), CHUNK):
        rows = slice(start, start + CHUNK)
        assert batch.targets is not None
        chunk = Batch(batch.input_tensor[rows], batch.target_tensor[rows], batch.ids[rows])
        right += compute_metrics(net, data.task, chunk)["accuracy"] * len(chunk)
    return right / len(batch)


def train_and_score(residual: bool, depth: int, data: SplitBatches, *, plan: Plan, seed: int) -> Score:
    """Train one network with Nesterov's momentum on one cycle of the rate, as the model's recipe does."""
    net = build_network(residual, depth, data, width=plan.width, seed=seed)
    options = BackpropOptions(optimizer="nesterov", lr=LR, schedule="one-cycle", warmup=0.2, l2=2.5e-4)
    for _ in train_steps(
        net, data.task, data.train, options=options, epochs=plan.epochs, batch_size=plan.batch_size, seed=seed
    ):
        pass
    update_batch_norm(net, data.train)
    return Score(compute_accuracy(net, data, data.train), compute_accuracy(net, data, data.test))


def measure(mode: Mode, *, kinds: Mapping[str, bool] = KINDS, plan: Plan | None = None) -> Findings:
    """Train nets of 20 and 56 layers, plain and residual, seed by seed.

    Args:
        mode: how many seeds, examples and epochs, on which data.
        kinds: whether each role has residual connections; the same for both is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    scores: Scores = {(kind, depth): [] for kind in KINDS for depth in plan.depths}
    with use_one_thread():
        for seed in range(plan.seeds):
            data = load_batches(plan.data, seed=seed, examples=plan.examples)
            for kind, depth in scores:
                scores[kind, depth].append(train_and_score(kinds[kind], depth, data, plan=plan, seed=seed))
    margins = tuple(p - r for p, r in zip(compute_drop(scores, "plain"), compute_drop(scores, "residual"), strict=True))
    return Findings(margins, 0.0, _build_checks(scores), _build_table(scores), partial(_draw, scores, plan))


def get_depths(scores: Scores) -> tuple[int, int]:
    """Return the smaller and the larger number of layers."""
    depths = sorted({depth for _, depth in scores})
    return depths[0], depths[1]


def compute_drop(scores: Scores, kind: str, *, part: str = "train") -> list[float]:
    """Return, for each seed, the accuracy lost from few layers to many."""
    pairs = zip(*(scores[kind, depth] for depth in get_depths(scores)), strict=True)
    return [getattr(shallow, part) - getattr(deep, part) for shallow, deep in pairs]


def _build_checks(scores: Scores) -> tuple[Check, ...]:
    """Return the checks: the plain net loses training accuracy with depth; the residual one does
    not."""
    plain, residual = (
        compute_interval(compute_drop(scores, "plain")),
        compute_interval(compute_drop(scores, "residual")),
    )
    shallow, deep = get_depths(scores)
    p, r = ([f"{100 * v:.1f}".replace("-", "−") for v in span] for span in (plain, residual))
    return (
        Check(
            Text(
                f"with {deep} layers instead of {shallow} the plain net loses {p[0]} points of training "
                f"accuracy [{p[1]}, {p[2]}]",
                f"从 {shallow} 层到 {deep} 层，普通网络的训练准确率损失 {p[0]} 个百分点 [{p[1]}, {p[2]}]",
            ),
            plain.low > 0,
        ),
        Check(
            Text(
                f"the residual net loses {r[0]} [{r[1]}, {r[2]}]; {100 * ALLOWED:.0f} allowed",
                f"残差网络损失 {r[0]} [{r[1]}, {r[2]}]；允许 {100 * ALLOWED:.0f}",
            ),
            residual.mean <= ALLOWED,
        ),
    )


def _build_table(scores: Scores) -> Table:
    """Return one row for each network."""
    columns = (
        Column(Text("network", "网络")),
        Column(Text("layers", "层数"), "d"),
        Column(Text("training accuracy", "训练准确率"), ".1%"),
        Column(Text("±", "±"), ".1%"),
        Column(Text("test accuracy", "测试准确率"), ".1%"),
        Column(Text("±", "±"), ".1%"),
    )
    rows = []
    for (kind, depth), results in scores.items():
        train, test = compute_interval([s.train for s in results]), compute_interval([s.test for s in results])
        row: tuple[Cell, ...] = (
            NAMES[kind],
            depth,
            train.mean,
            train.high - train.mean,
            test.mean,
            test.high - test.mean,
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(scores: Scores, plan: Plan, lang: Lang) -> Figure:
    """Draw the accuracy at both depths, on the training and on the test part."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text(
            "From {} to {} layers, with and without sums".format(*plan.depths),
            "从 {} 层到 {} 层：有无残差相加".format(*plan.depths),
        ),
        Text(
            f"{plan.data}, {plan.epochs} epochs, {plan.seeds} seeds: each a thin line, their mean a thick one.",
            f"{plan.data}，{plan.epochs} 轮，{plan.seeds} 个种子：细线为各种子，粗线为均值。",
        ),
        lang=lang,
    )
    left, right = figure.add_axes((0.105, 0.145, 0.38, 0.60)), figure.add_axes((0.595, 0.145, 0.38, 0.60))
    _draw_lines(left, scores, "train", lang)
    _draw_lines(right, scores, "test", lang)
    left.set_title(Text("training accuracy", "训练准确率").of(lang), loc="left")
    right.set_title(Text("test accuracy", "测试准确率").of(lang), loc="left")
    return figure


def _draw_lines(axes: Axes, scores: Scores, part: str, lang: Lang) -> None:
    """Draw each seed's accuracy at both depths."""
    for kind in KINDS:
        accuracies = np.array(
            [[getattr(s, part) for s in scores[kind, depth]] for depth in get_depths(scores)]
        )  # (2, seeds)
        axes.plot([0, 1], accuracies, color=COLORS[kind], linewidth=1, alpha=0.6)
        axes.plot([0, 1], accuracies.mean(1), "o-", color=COLORS[kind], markersize=8, linewidth=3)
        add_label(axes, (1.06, float(accuracies[1].mean())), NAMES[kind].of(lang), color=COLORS[kind])
    axes.set(
        xlim=(-0.15, 1.5),
        xticks=[0, 1],
        xticklabels=[Text(f"{d} layers", f"{d} 层").of(lang) for d in get_depths(scores)],
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1))


LAB = Lab(
    name="residual-depth",
    claim_id="C22",
    title=Text("plain deep nets get worse with depth; residual ones do not", "普通网络越深越差，残差网络不会"),
    claim=Text(
        "A plain network of 56 layers learns worse than one of 20, even on the images that it learns from. "
        "With residual "
        "connections the deeper one is no worse.",
        "56 层的普通网络比 20 层的学得更差，在训练图像上也是如此。有残差连接时，更深的网络不会更差。",
    ),
    formula=Text(
        "plain y = ReLU(F(x))      residual y = ReLU(x + F(x)) (E32)\n"
        "margin = (plain₂₀ − plain₅₆) − (residual₂₀ − residual₅₆)",
        "普通 y = ReLU(F(x))      残差 y = ReLU(x + F(x))（E32）\n余量 = (普通₂₀ − 普通₅₆) − (残差₂₀ − 残差₅₆)",
    ),
    method=Text(
        "He et al.'s networks for small images of 20 and 56 layers (8 and 32 in the quick form) with batch "
        "norm and at most half as "
        "many maps, and the same without the sums, learn real images (scikit-learn's digits; cifar10 in "
        "the full form) with "
        "Nesterov's momentum on one cycle of the rate, without augmentation. Shortcuts have no parameters, "
        "so both kinds have as many. "
        "Batch norm's statistics are taken of the training part before accuracies are measured. Rate and "
        "bounds were fixed before the "
        "first run; the epochs were doubled after it, for the deep nets were still learning.",
        "He 等人用于小图像的 20 层与 56 层网络（短形式为 8 层与 32 层；含批归一化，特征图数至多为一半），"
        "以及去掉相加的同样网络，"
        "学习真实图像（scikit-learn 的 digits；完整形式用 cifar10），使用 Nesterov 动量与 one-cycle 学习率，"
        "不做增强。捷径不含参数，"
        "两类网络参数量相同。测量准确率之前，在训练部分上重新统计批归一化的均值与方差。"
        "学习率与界限在首次运行前确定；首次"
        "运行后轮数加倍，因为深的网络仍在学习。",
    ),
    margin=Text(
        "how much more training accuracy the plain net loses than the residual one in going from few layers to many",
        "从浅到深，普通网络比残差网络多损失的训练准确率",
    ),
    held=Text(
        "The plain net gets worse with depth, on the very images that it learns from, so it is not "
        "overfitting; the residual one "
        "does not.",
        "普通网络随深度变差，而且是在训练图像上变差，所以不是过拟合；残差网络则不会。",
    ),
    refuted=Text(
        "As it stands the claim did not hold here; the checks say which half of it. A training this short "
        "measures how fast a net "
        "learns rather than how well in the end: He et al. trained for 64,000 steps on CIFAR-10.",
        "论断按原文在此不成立；各项检查说明是哪一半。如此短的训练衡量的是学得多快，而不是最终学得多好："
        "He 等人在 CIFAR-10 上训练了 64,000 步。",
    ),
    experiment=measure,
)

"""C12: batch norm keeps each neuron's pre-activation near zero mean and unit variance, and allows larger steps.

``N`` examples, ``L`` hidden layers of ``D`` units. S. Ioffe, C. Szegedy, Batch normalization (2015); J. Bjorck et al.,
Understanding batch normalization (2018). The one idea: ẑ = (z − μ)/√(σ² + ε) by batch, then γẑ + β; however large the
weights grow, ẑ stays as it is.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from torch import Tensor, nn

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
from layerwise.models.feedforward import mlp
from layerwise.plotting.svg import MUTED
from layerwise.rules.backprop import BackpropOptions
from layerwise.rules.base import NonFiniteLoss
from layerwise.runtime import rng

HIDDEN, BATCH = (64,) * 5, 64
SHIFT, SPREAD = 0.5, 2.0  # near: |mean| < ½ and ½ < deviation < 2
MOST, FARTHER = 0.9, 0.25  # the share of neurons that must be near; decades by which the largest step must grow
USUAL = 0.1  # the step size after which neurons are looked at


@dataclass(frozen=True)
class Plan:
    """How much to do: data set, seeds, step sizes η in rising order, epochs, the training accuracy from which a step
    size counts as usable."""

    data: str
    seeds: int
    rates: tuple[float, ...]
    epochs: int
    min_accuracy: float = 0.9


PLANS: dict[Mode, Plan] = {
    "quick": Plan("digits", 5, (USUAL, 0.3, 1.0, 3.0), 4),
    "normal": Plan("digits", 10, (0.01, 0.03, USUAL, 0.3, 1.0, 3.0, 10.0, 30.0), 10),
    "full": Plan("fashion-mnist", 5, (0.01, 0.03, USUAL, 0.3, 1.0, 3.0, 10.0, 30.0), 3, 0.8),
}


@dataclass(frozen=True)
class TrainedNetwork:
    """One network after training: accuracy on the training part, and each neuron's mean and deviation, (L·D,), on test
    examples."""

    accuracy: float
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]

    @property
    def near(self) -> float:
        """The share of neurons with mean near 0 and deviation near 1."""
        fits = (np.abs(self.means) < SHIFT) & (self.deviations > 1 / SPREAD) & (self.deviations < SPREAD)
        return float(fits.mean())


Networks = dict[tuple[bool, float], list[TrainedNetwork]]


class Unnormalized(nn.BatchNorm1d):
    """Batch norm without its normalization, γz + β: the counter-experiment."""

    def forward(self, input: Tensor) -> Tensor:
        """Scale and shift inputs (N, D)."""
        return input * self.weight + self.bias


def build_network(data: SplitBatches, *, batch_norm: bool, normalize: bool, seed: int) -> nn.Sequential:
    """Return Layerwise's mlp with ReLU, with or without batch norm; both start from the same weights."""
    with rng.use_seed(rng.derive_seed("batch-norm", seed)):
        net = mlp(
            features=data.train.input_tensor[0].numel(),
            outputs=len(data.task.classes),
            hidden=HIDDEN,
            batch_norm=batch_norm,
        )
    assert isinstance(net, nn.Sequential)
    layers = [Unnormalized(m.num_features) if isinstance(m, nn.BatchNorm1d) and not normalize else m for m in net]
    return nn.Sequential(*layers)


@torch.no_grad()
def collect_preactivations(net: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    """Return what each hidden layer's activation receives, L tensors (N, D), in evaluation mode; the network's mode is
    restored."""
    training = net.training
    net.eval()
    preactivations, value = [], inputs
    for module, after in pairwise(net):
        value = module(value)
        if isinstance(after, nn.ReLU):
            preactivations.append(value)
    net.train(training)
    return preactivations


def train(
    data: SplitBatches, *, rate: float, batch_norm: bool, normalize: bool, plan: Plan, seed: int
) -> TrainedNetwork:
    """Train one network by plain gradient descent and measure it. A loss that is not finite ends the training."""
    net = build_network(data, batch_norm=batch_norm, normalize=normalize, seed=seed)
    options = BackpropOptions(optimizer="sgd", lr=rate)
    with suppress(NonFiniteLoss):
        for _ in train_steps(
            net, data.task, data.train, options=options, epochs=plan.epochs, batch_size=BATCH, seed=seed
        ):
            pass
    z = torch.cat(collect_preactivations(net, data.test.input_tensor), 1).double()
    return TrainedNetwork(compute_metrics(net, data.task, data.train)["accuracy"], z.mean(0).numpy(), z.std(0).numpy())


def measure(mode: Mode, *, normalize: bool = True, plan: Plan | None = None) -> Findings:
    """Train with and without batch norm with each step size, seed by seed.

    Args:
        mode: how many seeds, step sizes and epochs, on which data.
        normalize: whether batch norm normalizes, or only scales and shifts, which is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    networks: Networks = {(norm, rate): [] for norm in (False, True) for rate in plan.rates}
    with use_one_thread():
        for seed in range(plan.seeds):
            data = load_batches(plan.data, seed=seed)
            for norm, rate in networks:
                networks[norm, rate].append(
                    train(data, rate=rate, batch_norm=norm, normalize=normalize, plan=plan, seed=seed)
                )
    margins = tuple(
        math.log10(find_largest_rate(networks, plan, True, seed) / find_largest_rate(networks, plan, False, seed))
        for seed in range(plan.seeds)
    )
    return Findings(
        margins, FARTHER, _build_checks(networks, plan), _build_table(networks, plan), partial(_draw, networks, plan)
    )


def find_largest_rate(networks: Networks, plan: Plan, norm: bool, seed: int) -> float:
    """Return the largest step size with which a seed's network learned; the smallest of the plan if there is none."""
    return max(
        (rate for rate in plan.rates if networks[norm, rate][seed].accuracy >= plan.min_accuracy), default=plan.rates[0]
    )


def _build_checks(networks: Networks, plan: Plan) -> tuple[Check, ...]:
    """Return the checks: neurons near (0, 1) with batch norm, fewer without; every network learns with some step
    size."""
    plain, normed = (compute_interval([t.near for t in networks[norm, USUAL]]) for norm in (False, True))
    runs = ((norm, s) for norm in (False, True) for s in range(plan.seeds))
    learned = []
    for norm, s in runs:
        learned.append(any(networks[norm, rate][s].accuracy >= plan.min_accuracy for rate in plan.rates))
    return (
        Check(
            Text(
                f"with batch norm {normed.mean:.0%} of the neurons have |mean| < {SHIFT:g} and a deviation "
                f"between {1 / SPREAD:g} and "
                f"{SPREAD:g} on test examples (η = {USUAL:g}); {MOST:.0%} are asked for",
                f"用批归一化时，{normed.mean:.0%} 的神经元在测试样本上 |均值| < {SHIFT:g} 且标准差在 "
                f"{1 / SPREAD:g} 与 {SPREAD:g} 之间"
                f"（η = {USUAL:g}）；要求 {MOST:.0%}",
            ),
            normed.low >= MOST,
        ),
        Check(
            Text(f"without it they are fewer: {plain.mean:.0%}", f"不用时则较少：{plain.mean:.0%}"),
            plain.high < normed.low,
        ),
        Check(
            Text("every network learns with some step size of the series", "每个网络都能以所列步长之一学会"),
            all(learned),
        ),
    )


def _build_table(networks: Networks, plan: Plan) -> Table:
    """Return one row for each step size: accuracy, and the neurons' statistics, without and with batch norm."""
    heads = (
        (("accuracy, plain", "准确率，普通"), ".1%"),
        (("batch norm", "批归一化"), ".1%"),
        (("neurons near (0, 1), plain", "接近 (0, 1) 的神经元，普通"), ".0%"),
        (("batch norm", "批归一化"), ".0%"),
        (("deviation, plain", "标准差，普通"), ".2f"),
        (("batch norm", "批归一化"), ".2f"),
    )
    columns = (Column(Text("rate", "学习率")), *(Column(Text(*head), spec) for head, spec in heads))
    rows = []
    for rate in plan.rates:
        pair = [networks[norm, rate] for norm in (False, True)]
        accuracies = [float(np.mean([t.accuracy for t in seeds])) for seeds in pair]
        cells: list[Cell] = [*accuracies]
        for statistic in ("near", "deviation"):
            for seeds, accuracy in zip(pair, accuracies, strict=True):
                values = [t.near if statistic == "near" else float(np.median(t.deviations)) for t in seeds]
                cells.append(
                    float(np.mean(values)) if accuracy >= plan.min_accuracy else None
                )  # a network that did not train says nothing
        rows.append((f"η = {rate:g}", *cells))
    return Table(columns, tuple(rows))


def _draw(networks: Networks, plan: Plan, lang: Lang) -> Figure:
    """Draw each neuron by mean and deviation, and the accuracy by step size."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text(
            "Batch norm holds every neuron in place and bears larger steps",
            "批归一化稳住每个神经元，也经得起更大的步长",
        ),
        Text(
            f"{len(HIDDEN)} hidden layers, real images ({plan.data}), {plan.seeds} seeds. Left: one dot a "
            f"neuron, η = {USUAL:g}.",
            f"{len(HIDDEN)} 个隐藏层，真实图像（{plan.data}），{plan.seeds} 个种子。左图：每点一个神经元，η "
            f"= {USUAL:g}。",
        ),
        lang=lang,
    )
    left, right = figure.add_axes((0.09, 0.145, 0.385, 0.60)), figure.add_axes((0.59, 0.145, 0.385, 0.60))
    for norm, color in ((False, VERMILION), (True, BLUE)):
        first = networks[norm, USUAL][0]
        left.plot(first.means, first.deviations, "o", color=color, markersize=4, alpha=0.55, markeredgewidth=0)
    left.plot(0, 1, "+", color="black", markersize=16, markeredgewidth=2)
    left.set_title(Text("what the activation receives", "激活函数收到的输入").of(lang), loc="left")
    left.set_xlabel(Text("mean", "均值").of(lang))
    left.set_ylabel(Text("standard deviation", "标准差").of(lang))
    _draw_by_step(right, networks, plan, lang)
    return figure


def _draw_by_step(axes: Axes, networks: Networks, plan: Plan, lang: Lang) -> None:
    """Draw the training accuracy against the step size, the mean over seeds in the band of all."""
    names, rates = {False: Text("plain", "普通"), True: Text("batch norm", "批归一化")}, plan.rates
    for norm, color in ((False, VERMILION), (True, BLUE)):
        accuracies = np.array([[t.accuracy for t in networks[norm, rate]] for rate in rates])
        axes.fill_between(rates, accuracies.min(1), accuracies.max(1), color=color, alpha=0.2, linewidth=0)
        axes.plot(rates, accuracies.mean(1), "o-", color=color, markersize=7)
        add_label(axes, (rates[0], 0.42 if norm else 0.3), names[norm].of(lang), color=color)
    axes.axhline(plan.min_accuracy, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set(xscale="log", ylim=(0, 1.05), xticks=rates, xticklabels=[f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(Text("training accuracy", "训练准确率").of(lang), loc="left")
    axes.set_xlabel(Text("step size η", "步长 η").of(lang))


LAB = Lab(
    name="batch-norm",
    claim_id="C12",
    title=Text(
        "batch norm keeps neurons near (0, 1) and allows larger steps",
        "批归一化使神经元保持在 (0, 1) 附近，并允许更大的步长",
    ),
    claim=Text(
        "Batch norm keeps each neuron's pre-activation near zero mean and unit variance while the weights "
        "below it change, and it allows "
        "larger steps.",
        "批归一化使每个神经元的激活前输入在下层权重不断变化时仍保持均值近零、方差近一，并允许使用更大的步长。",
    ),
    formula=Text(
        "ẑ = (z − μ_B)/√(σ_B² + ε)    γẑ + β  →  ReLU      γ and β are learned, 1 and 0 at the start",
        "ẑ = (z − μ_B)/√(σ_B² + ε)    γẑ + β  →  ReLU      γ 与 β 由学习得到，起始为 1 与 0",
    ),
    method=Text(
        f"Multilayer perceptrons of {len(HIDDEN)} hidden layers of {HIDDEN[0]} ReLU units learn real "
        "images (scikit-learn's digits; "
        f"fashion-mnist in the full form) by plain gradient descent, batches of {BATCH}, with and without "
        "batch norm from the same weights. "
        "A step size η trains if the training accuracy comes to 90% (80% on fashion-mnist). Neurons are "
        "looked at on test examples, with the running statistics and after γ and β, so "
        f"as the activation receives them; near (0, 1): |mean| < {SHIFT:g}, deviation between "
        f"{1 / SPREAD:g} and {SPREAD:g}. Where a step did not train, the neurons are left out. Bounds were "
        "fixed before the first run, "
        "but for the 80%: three epochs bring no network to 90% there.",
        f"多层感知机，{len(HIDDEN)} 个隐藏层，每层 {HIDDEN[0]} 个 ReLU 单元，学习真实图像（scikit-learn 的 "
        "digits；完整形式用 "
        f"fashion-mnist），普通梯度下降，批量 {BATCH}，从同样的权重出发，用与不用批归一化各一次。训练准确率达到 90%"
        "（fashion-mnist 为 80%）即算该步长 η 可行。在测试样本上考察神经元：用滑动统计量，并经过 γ 与 β，"
        "即激活函数实际收到的输入；"
        f"接近 (0, 1)：|均值| < {SHIFT:g}，标准差在 {1 / SPREAD:g} 与 {SPREAD:g} 之间。步长不可行时不列神经元数据。"
        "界限在首次运行之前确定，唯 80% 除外：三轮训练在 fashion-mnist 上没有网络能达到 90%。",
    ),
    margin=Text(
        "log₁₀ of the largest step size that trains with batch norm over the largest without, half a decade "
        "being one place of the series",
        "用批归一化时可行的最大步长与不用时之比的 log₁₀；步长序列相邻两档约差半个数量级",
    ),
    held=Text(
        "What the activation receives stays near mean 0 and deviation 1, on new examples and after γ and β "
        "too, and steps train that "
        "wreck the plain network. Only near: γ and β are free to move it, and larger steps move it further. "
        "And it is no licence for any step: far enough "
        "along the series batch norm fails as well. Why larger steps are borne is debated; that the output "
        "does not depend on the "
        "weights' scale is part of it.",
        "激活函数收到的输入在新样本上、经过 γ 与 β 之后，仍保持均值近 0、标准差近 1；能毁掉普通网络的步长，"
        "此时仍可训练。"
        "但只是“近”：γ 与 β 可以自由改变它，步长越大变得越多。而且并非任何步长都行：步长再大，批归一化同样失败。"
        "为何能承受更大的步长，学界尚有争论；输出不依赖权重的尺度是原因之一。",
    ),
    refuted=Text(
        "Here the claim did not hold: the neurons left the neighborhood of (0, 1), or no larger step "
        "trained. Look at the checks.",
        "此处论断不成立：神经元离开了 (0, 1) 附近，或者没有更大的步长可行。请看各项检查。",
    ),
    experiment=measure,
)

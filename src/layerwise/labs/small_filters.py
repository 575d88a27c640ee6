"""C23: depth with small filters beats shallow large ones at equal cost.

``N`` examples, ``C`` maps, ``H W`` pixels. K. Simonyan, A. Zisserman, Very deep convolutional networks for large-scale
image recognition (2015), section 2.3; A. Krizhevsky, I. Sutskever, G. E. Hinton (2012) for the large filters. The one
idea: three 3×3 in a row see 7×7 as one 7×7 does, with 27 weights for each pair of maps instead of 49, and two more
ReLUs in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import nn

from layerwise.inspection.theoretical_receptive_field import compute_theoretical_fields
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
from layerwise.nn.convolution import init_he_fan_out_
from layerwise.rules.backprop import BackpropOptions
from layerwise.runtime import rng

KINDS = {"small": 3, "large": 7}  # sides of filters; a stage's stack sees 7×7 pixels of its input either way
NAMES = {"small": Text("three 3×3", "三层 3×3"), "large": Text("one 7×7", "一层 7×7")}
COLORS = {"small": BLUE, "large": VERMILION}
WIDTHS, BATCH = (8, 16), 32  # maps of the small filters' stages
EQUAL = 0.05  # how far the two may differ in multiply-adds
SEEN = 7


@dataclass(frozen=True)
class Plan:
    """How much to do: data set, training examples, seeds, epochs, step sizes of Adam."""

    data: str
    examples: int
    seeds: int
    epochs: int
    rates: tuple[float, ...]


PLANS: dict[Mode, Plan] = {
    "quick": Plan("digits", 400, 3, 3, (0.003,)),
    "normal": Plan("fashion-mnist", 2000, 3, 4, (0.001, 0.003)),
    "full": Plan("fashion-mnist", 20_000, 5, 10, (0.0003, 0.001, 0.003)),
}


@dataclass(frozen=True)
class Score:
    """One trained network: its accuracy on the validation and the test part, and its training loss."""

    val: float
    test: float
    loss: float


Scores = dict[tuple[str, float], list[Score]]


def build_stage(side: int, before: int, after: int) -> list[nn.Module]:
    """Return convolutions of a side, each with a ReLU, as many as see 7×7 pixels together, and 2×2 pooling."""
    layers: list[nn.Module] = []
    for index in range((SEEN - 1) // (side - 1)):
        layers += [nn.Conv2d(after if index else before, after, side, padding=side // 2), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)]


def build_network(side: int, widths: tuple[int, int], *, channels: int, classes: int, seed: int) -> nn.Sequential:
    """Return two stages of filters of a side, global average pooling, and a dense layer: images (N, C, H, W) to logits
    (N, K)."""
    with rng.use_seed(rng.derive_seed("small-filters", seed)):
        layers = [*build_stage(side, channels, widths[0]), *build_stage(side, widths[0], widths[1])]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[1], classes))
        init_he_fan_out_(net)
    return net


def count_multiply_adds(side: int, widths: tuple[int, int], shape: tuple[int, int, int]) -> int:
    """Return the multiply-adds of both stages for one image (C, H, W): k²·C·C′ for each position of each convolution,
    padding included."""
    channels, height, width = shape
    total, before = 0, channels
    for index, after in enumerate(widths):
        positions = (height >> index) * (width >> index)
        depth = (SEEN - 1) // (side - 1)
        total += positions * side**2 * (before * after + (depth - 1) * after * after)
        before = after
    return total


def find_equal_widths(side: int, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the widths (w, v), v near 2w, with which filters of a side come closest to the cost of 3×3 filters of
    `WIDTHS`."""
    target = count_multiply_adds(KINDS["small"], WIDTHS, shape)
    choices = [(w, v) for w in range(2, 40) for v in range(2 * w - 2, 2 * w + 3)]
    return min(
        choices,
        key=lambda widths: (abs(count_multiply_adds(side, widths, shape) - target), abs(widths[1] - 2 * widths[0])),
    )


def train_and_score(
    side: int, widths: tuple[int, int], data: SplitBatches, *, rate: float, plan: Plan, seed: int
) -> Score:
    """Train one network with Adam and a falling step size."""
    net = build_network(
        side, widths, channels=data.train.input_tensor.shape[1], classes=len(data.task.classes), seed=seed
    )
    options = BackpropOptions(optimizer="adam", lr=rate, schedule="cosine")
    for _ in train_steps(net, data.task, data.train, options=options, epochs=plan.epochs, batch_size=BATCH, seed=seed):
        pass
    results = [compute_metrics(net, data.task, part) for part in (data.val, data.test, data.train)]
    return Score(results[0]["accuracy"], results[1]["accuracy"], results[2]["loss"])


def measure(mode: Mode, *, kinds: Mapping[str, int] = KINDS, plan: Plan | None = None) -> Findings:
    """Train both networks with each step size, seed by seed; each counts with the step size that is best on the
    validation part.

    Args:
        mode: how many seeds, examples and epochs, on which data.
        kinds: the filters' side of each role; the same for both is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    scores: Scores = {(kind, rate): [] for kind in KINDS for rate in plan.rates}
    shape, widths = (1, 8, 8), dict[str, tuple[int, int]]()
    with use_one_thread():
        for seed in range(plan.seeds):
            data = load_batches(plan.data, seed=seed, examples=plan.examples)
            channels, height, width = data.train.input_tensor.shape[1:]
            shape = (channels, height, width)
            widths = {kind: find_equal_widths(side, shape) for kind, side in kinds.items()}
            for kind, rate in scores:
                scores[kind, rate].append(
                    train_and_score(kinds[kind], widths[kind], data, rate=rate, plan=plan, seed=seed)
                )
    rates = {}
    for kind in KINDS:
        accuracies = {rate: float(np.mean([s.val for s in scores[kind, rate]])) for rate in plan.rates}
        rates[kind] = max(plan.rates, key=accuracies.__getitem__)
    best = {kind: scores[kind, rates[kind]] for kind in KINDS}
    margins = tuple(a.test - b.test for a, b in zip(best["small"], best["large"], strict=True))
    networks = {
        kind: build_network(side, widths[kind], channels=shape[0], classes=10, seed=0) for kind, side in kinds.items()
    }
    costs = {kind: count_multiply_adds(side, widths[kind], shape) for kind, side in kinds.items()}
    return Findings(
        margins,
        0.0,
        _build_checks(networks, costs, shape),
        _build_table(best, rates, networks, costs),
        partial(_draw, best, networks, costs, plan),
    )


def compute_field_sides(net: nn.Sequential, shape: tuple[int, int, int]) -> list[int]:
    """Return the receptive field of a unit before each pooling, in pixels (E16)."""
    rows = compute_theoretical_fields(net, shape)
    return [rows[index - 1].fields[0].size for index, row in enumerate(rows) if row.type == "MaxPool2d"]


def _build_checks(
    networks: Mapping[str, nn.Sequential], costs: Mapping[str, int], shape: tuple[int, int, int]
) -> tuple[Check, ...]:
    """Return the checks of a fair comparison: equal cost, equal receptive fields."""
    difference = abs(costs["small"] - costs["large"]) / costs["large"]
    sides = {kind: compute_field_sides(net, shape) for kind, net in networks.items()}
    return (
        Check(
            Text(
                f"equal cost: {costs['small']:,d} and {costs['large']:,d} multiply-adds an image, "
                f"{difference:.1%} apart; {EQUAL:.0%} allowed",
                f"计算量相等：每张图 {costs['small']:,d} 与 {costs['large']:,d} 次乘加，相差 {difference:.1%}；"
                f"允许 {EQUAL:.0%}",
            ),
            difference <= EQUAL,
        ),
        Check(
            Text(
                f"equal sight: units of the two stages see {sides['small']} and {sides['large']} pixels",
                f"视野相等：两个阶段的单元分别看到 {sides['small']} 与 {sides['large']} 个像素",
            ),
            sides["small"] == sides["large"],
        ),
    )


def _build_table(
    best: Mapping[str, list[Score]],
    rates: Mapping[str, float],
    networks: Mapping[str, nn.Sequential],
    costs: Mapping[str, int],
) -> Table:
    """Return one row for each network."""
    columns = (
        Column(Text("each stage", "每阶段")),
        Column(Text("maps", "特征图"), ">"),
        Column(Text("weights", "权重数"), ",d"),
        Column(Text("multiply-adds", "乘加"), ",d"),
        Column(Text("step size", "步长"), ".4f"),
        Column(Text("training loss", "训练损失"), ".3f"),
        Column(Text("test accuracy", "测试准确率"), ".1%"),
        Column(Text("±", "±"), ".1%"),
    )
    rows = []
    for kind in KINDS:
        span = compute_interval([s.test for s in best[kind]])
        maps = [m.out_channels for m in networks[kind] if isinstance(m, nn.Conv2d)]
        row: tuple[Cell, ...] = (
            NAMES[kind],
            f"{maps[0]}, {maps[-1]}",
            sum(p.numel() for p in networks[kind].parameters()),
            costs[kind],
            rates[kind],
            float(np.mean([s.loss for s in best[kind]])),
            span.mean,
            span.high - span.mean,
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(
    best: Mapping[str, list[Score]],
    networks: Mapping[str, nn.Sequential],
    costs: Mapping[str, int],
    plan: Plan,
    lang: Lang,
) -> Figure:
    """Draw each network's cost, and each seed's accuracy on the test part."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("Three small filters or one large, at equal cost", "计算量相等：三层小卷积核，还是一层大卷积核"),
        Text(
            f"Two stages that see 7×7 places each; {plan.data}, {plan.examples:,d} images, {plan.seeds} seeds.",
            f"两个阶段，每阶段都看到 7×7 个位置；{plan.data}，{plan.examples:,d} 张图像，{plan.seeds} 个种子。",
        ),
        lang=lang,
    )
    left, right = figure.add_axes((0.155, 0.145, 0.33, 0.60)), figure.add_axes((0.60, 0.145, 0.375, 0.60))
    _draw_costs(left, networks, costs, lang)
    for x, kind in enumerate(KINDS):
        values = [s.test for s in best[kind]]
        right.plot([x] * len(values), values, "o", color=COLORS[kind], markersize=9, alpha=0.6)
        right.plot([x - 0.18, x + 0.18], [float(np.mean(values))] * 2, color=COLORS[kind], linewidth=3)
    for pair in zip(best["small"], best["large"], strict=True):
        right.plot([0, 1], [s.test for s in pair], color="#999999", linewidth=0.9, zorder=0)
    right.set(xlim=(-0.5, 1.5), xticks=[0, 1], xticklabels=[NAMES[kind].of(lang) for kind in KINDS])
    for text, kind in zip(right.get_xticklabels(), KINDS, strict=True):
        text.set(color=COLORS[kind], fontweight="bold")
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.set_title(Text("test accuracy, each seed", "各种子的测试准确率").of(lang), loc="left")
    return figure


def _draw_costs(axes: Axes, networks: Mapping[str, nn.Sequential], costs: Mapping[str, int], lang: Lang) -> None:
    """Draw multiply-adds and weights, each relative to the large filters'."""
    weights = {kind: sum(p.numel() for p in net.parameters()) for kind, net in networks.items()}
    titles = (Text("multiply-adds", "乘加"), Text("weights", "权重数"))
    for group, values in enumerate((costs, weights)):
        for index, kind in enumerate(KINDS):
            y, value = 1.3 * (1 - group) + (0.22 if index == 0 else -0.22), values[kind] / values["large"]
            axes.barh(y, value, height=0.4, color=COLORS[kind])
            add_label(axes, (value + 0.03, y), f"{values[kind]:,d}", color=COLORS[kind])
    axes.set(yticks=[1.3, 0], yticklabels=[t.of(lang) for t in titles], xlim=(0, 1.6))
    axes.grid(visible=False, axis="y")
    axes.set_title(Text("cost, relative to 7×7", "代价，相对于 7×7").of(lang), loc="left")


LAB = Lab(
    name="small-filters",
    claim_id="C23",
    title=Text(
        "depth with small filters beats shallow large ones at equal cost",
        "计算量相等时，小卷积核加深度胜过浅层大卷积核",
    ),
    claim=Text(
        "Three convolutions of 3×3 in a row see as much as one of 7×7. At the same number of multiply-adds a "
        "network of such stacks "
        "classifies better than a network of large filters.",
        "三层 3×3 卷积叠起来，看到的范围与一层 7×7 相同。乘加次数相等时，"
        "由这样的小卷积核堆叠而成的网络比大卷积核的网络分类更准。",
    ),
    formula=Text(
        "three 3×3: 3 · 9 · C²      one 7×7: 49 · C²      weights for C maps; both see r = 1 + 3·(3 − 1) = 7 (E16)",
        "三层 3×3：3 · 9 · C²      一层 7×7：49 · C²      C 个特征图的权重数；两者都看到 r = 1 + 3·(3 − 1) = 7（E16）",
    ),
    method=Text(
        "Two networks of two stages, each stage ending in 2×2 pooling, then the mean over places and a "
        "dense layer, on real images "
        "(scikit-learn's digits of 8×8 in the quick form, fashion-mnist otherwise). A stage is three 3×3 "
        "convolutions with ReLUs "
        f"({WIDTHS[0]} and {WIDTHS[1]} maps), or one 7×7 with a ReLU and as many maps as make the "
        "multiply-adds equal. He's weights, no "
        "batch norm, Adam with a falling step size; of the series each network counts with the step size "
        "that is best on the validation "
        "part. Widths, step sizes and bound were fixed before the first run (the quick form's epochs were "
        "halved after it, for its time).",
        "两个网络各有两个阶段，每阶段以 2×2 池化结束，然后对位置取平均并接全连接层；"
        "数据为真实图像（快速形式用 scikit-learn 的 "
        f"8×8 digits，其余用 fashion-mnist）。一个阶段是三层带 ReLU 的 3×3 卷积（{WIDTHS[0]} 与 {WIDTHS[1]} "
        "个特征图），"
        "或一层带 ReLU 的 7×7 卷积，"
        "其特征图数使乘加次数相等。He 初始化，无批归一化，Adam，步长递减；每个网络用所列步长中验证集上最好的一个。"
        "宽度、步长与界限在首次运行前确定（快速形式的轮数在首次运行后为省时减半）。",
    ),
    margin=Text(
        "by how much the stacks' test accuracy is above the large filters'",
        "小卷积核网络的测试准确率高出大卷积核网络多少",
    ),
    held=Text(
        "At equal cost the stacks of small filters classify better.",
        "计算量相等时，小卷积核的堆叠分类更准。",
    ),
    refuted=Text(
        "Here the claim did not hold: at equal cost, at this small scale and after this short a training, "
        "the stacks were not reliably "
        "better. They have fewer weights and three times the layers to train. VGG's lead over large filters "
        "was measured on ImageNet, "
        "with networks a thousand times as large and long trainings, which this lab does not repeat.",
        "此处论断不成立：在这样小的规模与短的训练下，计算量相等时，小卷积核的堆叠并不稳定地更好。"
        "它们的权重更少，要训练的层数却是三倍。"
        "VGG 对大卷积核的优势是在 ImageNet 上以大上千倍的网络和长时间训练测得的，本实验没有重复。",
    ),
    experiment=measure,
)

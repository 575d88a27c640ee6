"""C13: a convolution needs far fewer weights than a dense layer and is robust to small shifts and changes of scale.

``N`` examples, ``C`` channels, ``H W`` pixels, ``P`` positions of a map. K. Fukushima, Neocognitron (1980); Y. LeCun et
al. (1989, 1998). The
one idea: the same small filter at every position, so a shifted image gives the same map, shifted, and pooling
drops the exact position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor, nn

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
from layerwise.labs.figures import BLUE, ORANGE, SIZE, VERMILION, add_headline
from layerwise.labs.training import SplitBatches, compute_metrics, load_batches, train_steps
from layerwise.models.convolutional import cnn
from layerwise.models.feedforward import mlp
from layerwise.rules.backprop import BackpropOptions
from layerwise.runtime import rng

WIDTHS, BATCH = (8, 16), 32
BORDER = 2  # pixels of background around each image, so that a shift loses nothing
FEWER, AHEAD, ROBUST = (
    100,
    0.05,
    0.1,
)  # weights by this factor; accuracy by this much more; the most that a robust net may lose
ZOOMS = (0.85, 1.15)  # small changes of scale
KINDS = ("convolution", "local", "dense")
NAMES = {
    "convolution": Text("convolution", "卷积"),
    "local": Text("local, unshared", "局部连接，不共享"),
    "dense": Text("dense", "全连接"),
}
COLORS = {"convolution": BLUE, "local": ORANGE, "dense": VERMILION}


@dataclass(frozen=True)
class Plan:
    """How much to do: data set, training examples (0: all), seeds, epochs, and how many pixels a small shift is."""

    data: str
    examples: int
    seeds: int
    epochs: int
    shift: float

    @property
    def shifts(self) -> tuple[float, ...]:
        """The shifts to try, in pixels."""
        return tuple(self.shift * k for k in (0.5, 1, 1.5, 2))

    @property
    def zooms(self) -> tuple[float, ...]:
        """The changes of scale to try."""
        return (0.7, ZOOMS[0], ZOOMS[1], 1.3)


PLANS: dict[Mode, Plan] = {
    "quick": Plan("digits", 500, 3, 5, 1),
    "normal": Plan("digits", 0, 10, 15, 1),
    "full": Plan("fashion-mnist", 10_000, 5, 4, 2),
}


@dataclass(frozen=True)
class Score:
    """One trained network: weights of its first layer, accuracy on test images as they are, shifted (by pixels) and
    zoomed."""

    weights: int
    plain: float
    shifted: dict[float, float]
    zoomed: dict[float, float]

    def compute_drop(self, accuracies: dict[float, float], *, at: Sequence[float]) -> float:
        """Return the mean accuracy lost at some shifts or zooms."""
        return self.plain - float(np.mean([accuracies[a] for a in at]))


class LocalConv2d(nn.Module):
    """A convolution without weight sharing: each position of the map has its own filters."""

    def __init__(self, like: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        self.kernel, self.border, self.size = like.kernel_size[0], like.kernel_size[0] // 2, size
        positions, fan = size[0] * size[1], like.in_channels * self.kernel**2
        self.weight = nn.Parameter(
            torch.empty(positions, like.out_channels, fan).uniform_(-1, 1) / fan**0.5
        )  # as nn.Conv2d starts
        self.bias = nn.Parameter(torch.empty(like.out_channels, positions).uniform_(-1, 1) / fan**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to maps (N, O, H, W)."""
        patches = F.unfold(x, self.kernel, padding=self.border)  # (N, C·k², P)
        z: Tensor = torch.bmm(patches.permute(2, 0, 1), self.weight.mT).permute(1, 2, 0) + self.bias  # (N, O, P)
        return z.reshape(len(x), -1, *self.size)


def build_network(kind: str, inputs: Tensor, outputs: int, seed: int) -> nn.Module:
    """Return Layerwise's cnn, the same without shared weights, or an mlp with as many hidden units as the cnn's first
    map has."""
    channels, *side = inputs.shape[1:]
    size = (side[0], side[1])
    with rng.use_seed(rng.derive_seed("weight-sharing", seed)):
        if kind == "dense":
            return mlp(features=inputs[0].numel(), outputs=outputs, hidden=(WIDTHS[0] * size[0] * size[1],))
        net = cnn(outputs=outputs, channels=channels, size=size, widths=WIDTHS, dense=())
        if kind == "local":
            features, scale = net.features, 1
            assert isinstance(features, nn.Sequential)
            for index, module in enumerate(features):
                if isinstance(module, nn.Conv2d):
                    features[index] = LocalConv2d(module, (size[0] // scale, size[1] // scale))
                    scale *= 2  # a pooling follows
    return net


def count_first_layer_weights(net: nn.Module) -> int:
    """Return how many weights and biases the first layer with any has."""
    layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d | LocalConv2d | nn.Linear))
    return sum(p.numel() for p in layer.parameters())


def add_border(data: SplitBatches) -> SplitBatches:
    """Return the data with a border of background around each image."""
    background = float(data.train.input_tensor.min())

    def pad(batch: Batch) -> Batch:
        return replace(batch, inputs=F.pad(batch.input_tensor, (BORDER,) * 4, value=background))

    return replace(data, train=pad(data.train), val=pad(data.val), test=pad(data.test))


def move_images(batch: Batch, *, zoom: float = 1.0, right: float = 0.0, down: float = 0.0) -> Batch:
    """Return the images zoomed about their middle and shifted by pixels, by bilinear interpolation, filled with
    background."""
    x = batch.input_tensor
    height, width = x.shape[2:]
    background = x.min()
    matrix = torch.tensor(
        [[1 / zoom, 0, -2 * right / width / zoom], [0, 1 / zoom, -2 * down / height / zoom]], dtype=x.dtype
    )
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return replace(batch, inputs=F.grid_sample(x - background, grid, align_corners=False) + background)


def train_and_score(kind: str, data: SplitBatches, *, plan: Plan, seed: int) -> Score:
    """Train one network with Adam, and test it on images as they are, shifted in four directions, and zoomed."""
    net = build_network(kind, data.train.input_tensor, len(data.task.classes), seed)
    options = BackpropOptions(optimizer="adam", lr=0.003, schedule="cosine")
    for _ in train_steps(net, data.task, data.train, options=options, epochs=plan.epochs, batch_size=BATCH, seed=seed):
        pass

    def compute_accuracy(batch: Batch) -> float:
        return compute_metrics(net, data.task, batch)["accuracy"]

    directions = ((1, 0), (-1, 0), (0, 1), (0, -1))
    shifted = {}
    for shift in plan.shifts:
        moved = [move_images(data.test, right=shift * x, down=shift * y) for x, y in directions]
        shifted[shift] = float(np.mean([compute_accuracy(batch) for batch in moved]))
    return Score(
        count_first_layer_weights(net),
        compute_accuracy(data.test),
        shifted,
        {z: compute_accuracy(move_images(data.test, zoom=z)) for z in plan.zooms},
    )


Scores = dict[str, list[Score]]


def measure(mode: Mode, *, shared: str = "convolution", plan: Plan | None = None) -> Findings:
    """Train the three networks on images as they are, seed by seed, and test them on moved ones.

    Args:
        mode: how many seeds and epochs, on which data.
        shared: the network in the convolution's role; ``local`` is the counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    scores: Scores = {kind: [] for kind in KINDS}
    with use_one_thread():
        for seed in range(plan.seeds):
            data = add_border(load_batches(plan.data, seed=seed, examples=plan.examples))
            for kind in KINDS:
                scores[kind].append(
                    train_and_score(shared if kind == "convolution" else kind, data, plan=plan, seed=seed)
                )
    margins = tuple(_compute_gaps(scores, "shifted", [plan.shift]))
    return Findings(
        margins, AHEAD, _build_checks(scores, plan), _build_table(scores, plan), partial(_draw, scores, plan)
    )


def _compute_drop(score: Score, change: str, at: Sequence[float]) -> float:
    """Return the mean accuracy that a network loses when images are ``shifted`` or ``zoomed``."""
    return score.compute_drop(score.shifted if change == "shifted" else score.zoomed, at=at)


def _compute_gaps(scores: Scores, change: str, at: Sequence[float]) -> list[float]:
    """Return, for each seed, how much more accuracy the dense network loses than the convolutional one."""
    return [
        _compute_drop(d, change, at) - _compute_drop(c, change, at)
        for d, c in zip(scores["dense"], scores["convolution"], strict=True)
    ]


def _build_checks(scores: Scores, plan: Plan) -> tuple[Check, ...]:
    """Return the checks: far fewer weights; robust to shifts, and to scale, by itself and beside a dense
    network."""
    conv, dense = scores["convolution"], scores["dense"]
    factor = dense[0].weights / conv[0].weights
    zoom = compute_interval(_compute_gaps(scores, "zoomed", ZOOMS))
    own = {
        "shifted": compute_interval([_compute_drop(score, "shifted", [plan.shift]) for score in conv]),
        "zoomed": compute_interval([_compute_drop(score, "zoomed", ZOOMS) for score in conv]),
    }
    count = f"{conv[0].weights:,d}", f"{dense[0].weights:,d}"
    return (
        Check(
            Text(
                f"from the same image to as many outputs: {count[0]} weights beside {count[1]}, "
                f"{factor:,.0f} times fewer",
                f"输入相同、输出数相同：权重 {count[0]} 个，全连接 {count[1]} 个，相差 {factor:,.0f} 倍",
            ),
            factor >= FEWER,
        ),
        Check(
            Text(
                f"shifted by {plan.shift:g} pixel(s) it loses {own['shifted'].mean:.1%} of accuracy itself, "
                f"at most {ROBUST:.0%} is robust",
                f"平移 {plan.shift:g} 个像素，自身准确率损失 {own['shifted'].mean:.1%}；不超过 {ROBUST:.0%} 算稳健",
            ),
            own["shifted"].mean <= ROBUST,
        ),
        Check(
            Text(
                f"scaled by {ZOOMS[0]:g} and {ZOOMS[1]:g} it loses {own['zoomed'].mean:.1%} itself, at most "
                f"{ROBUST:.0%} is robust",
                f"缩放到 {ZOOMS[0]:g} 与 {ZOOMS[1]:g} 倍，自身损失 {own['zoomed'].mean:.1%}；不超过 "
                f"{ROBUST:.0%} 算稳健",
            ),
            own["zoomed"].mean <= ROBUST,
        ),
        Check(
            Text(
                f"scaled so, the dense network loses {100 * zoom.mean:.1f} points more "
                f"[{100 * zoom.low:.1f}, {100 * zoom.high:.1f}]",
                f"同样缩放时，全连接网络多损失 {100 * zoom.mean:.1f} 个百分点 [{100 * zoom.low:.1f}, "
                f"{100 * zoom.high:.1f}]",
            ),
            zoom.low > 0,
        ),
    )


def _build_table(scores: Scores, plan: Plan) -> Table:
    """Return one row for each network: weights of the first layer, and mean test accuracies."""
    columns = (
        Column(Text("first layer", "第一层")),
        Column(Text("its weights", "权重数"), ",d"),
        Column(Text("as they are", "原样"), ".1%"),
        *(Column(Text(f"{s:g} px", f"{s:g} 像素"), ".1%") for s in plan.shifts),
        *(Column(Text(f"×{z:g}", f"×{z:g}"), ".1%") for z in plan.zooms),
    )
    rows = []
    for kind in KINDS:
        of_kind = scores[kind]
        values = [[s.plain for s in of_kind], *([s.shifted[a] for s in of_kind] for a in plan.shifts)]
        values += [[s.zoomed[z] for s in of_kind] for z in plan.zooms]
        row: tuple[Cell, ...] = (NAMES[kind], of_kind[0].weights, *(float(np.mean(v)) for v in values))
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(scores: Scores, plan: Plan, lang: Lang) -> Figure:
    """Draw the first layers' weights, and the accuracy on shifted and on zoomed images."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("Sharing saves weights by the thousand, but is no shield", "权值共享省下千倍权重，但本身不是护身符"),
        Text(
            f"Trained on images as they are ({plan.data}), tested on moved ones; {plan.seeds} seeds. Bands: all seeds.",
            f"用原样图像训练（{plan.data}），在移动过的图像上测试；{plan.seeds} 个种子。色带：所有种子。",
        ),
        lang=lang,
    )
    bars = figure.add_axes((0.025, 0.145, 0.235, 0.60))
    for y, kind in enumerate(reversed(KINDS)):
        count = scores[kind][0].weights
        bars.barh(y, count, color=COLORS[kind], height=0.42)
        bars.text(
            2, y + 0.33, f"{NAMES[kind].of(lang)}: {count:,d}", fontsize=12, color=COLORS[kind], fontweight="bold"
        )
    bars.set(xscale="log", xlim=(1, 10 ** np.ceil(np.log10(scores["dense"][0].weights))), ylim=(-0.4, 2.7), yticks=[])
    bars.minorticks_off()
    bars.set_title(Text("weights, first layer", "第一层权重数").of(lang), loc="left")
    left, right = figure.add_axes((0.345, 0.145, 0.295, 0.60)), figure.add_axes((0.68, 0.145, 0.295, 0.60))
    _draw_accuracy(left, scores, [(0, None), *((s, s) for s in plan.shifts)], change="shifted")
    _draw_accuracy(right, scores, sorted([(1, None), *((z, z) for z in plan.zooms)]), change="zoomed")
    left.set_title(Text("shifted: accuracy", "平移后的准确率").of(lang), loc="left")
    right.set_title(Text("scaled: accuracy", "缩放后的准确率").of(lang), loc="left")
    left.set_xlabel(Text("pixels", "像素").of(lang))
    right.set_xlabel(Text("factor", "倍数").of(lang))
    right.tick_params(labelleft=False)
    return figure


def _draw_accuracy(axes: Axes, scores: Scores, points: Sequence[tuple[float, float | None]], *, change: str) -> None:
    """Draw each network's accuracy at some points; at the one without a key images are as they are."""
    for kind in KINDS:
        of_kind = [(s, s.shifted if change == "shifted" else s.zoomed) for s in scores[kind]]
        curves = np.array(
            [[s.plain if key is None else accuracies[key] for _, key in points] for s, accuracies in of_kind]
        )
        x = [x for x, _ in points]
        axes.fill_between(x, curves.min(0), curves.max(0), color=COLORS[kind], alpha=0.15, linewidth=0)
        axes.plot(x, curves.mean(0), "o-", color=COLORS[kind], markersize=6)
    axes.set(ylim=(0, 1.03), xticks=[x for x, _ in points], xticklabels=[f"{x:g}" for x, _ in points])
    axes.tick_params(axis="x", labelsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1))


LAB = Lab(
    name="weight-sharing",
    claim_id="C13",
    title=Text(
        "a convolution: far fewer weights than a dense layer, robust to small shifts and scale",
        "卷积所需权重远少于全连接层，且对小的平移与缩放稳健",
    ),
    claim=Text(
        "A convolution uses the same few weights at every place, so it needs far fewer than a dense layer, "
        "and a network of convolutions "
        "and poolings still recognizes images that are shifted or scaled a little.",
        "卷积在每个位置使用同样的少量权重，因此所需权重远少于全连接层；由卷积与池化构成的网络，"
        "仍能认出略有平移或缩放的图像。",
    ),
    formula=Text(
        "convolution O(Ck² + 1)      local PO(Ck² + 1)      dense PO(PC + 1)      weights, P places, O maps\n"
        "conv(shift x) = shift(conv x)",
        "卷积 O(Ck² + 1)      局部连接 PO(Ck² + 1)      全连接 PO(PC + 1)      权重数；P 个位置，O 个图\n"
        "conv(shift x) = shift(conv x)",
    ),
    method=Text(
        f"Three networks learn real images (scikit-learn's digits of 8×8 in a border of {BORDER} pixels; "
        "fashion-mnist in the full form) "
        f"as they are, without augmentation, with Adam: two convolutions of 3×3 ({WIDTHS[0]} and {WIDTHS[1]} "
        "maps) with 2×2 pooling and a "
        "dense layer for the classes; the same with filters of its own at every place; and a dense hidden "
        "layer with as many outputs as "
        "the first convolution. They are tested on images shifted in four directions (one pixel is an "
        "eighth of a digit) and scaled, "
        "by bilinear interpolation. What counts as small and as robust was fixed before the first run.",
        f"三个网络学习真实图像（scikit-learn 的 digits，8×8，外加 {BORDER} 像素边框；完整形式用 "
        "fashion-mnist），图像保持原样，不做增强，"
        f"用 Adam：两层 3×3 卷积（{WIDTHS[0]} 与 {WIDTHS[1]} 个图）加 2×2 池化与一个输出类别的全连接层；"
        "同样结构但每个位置各有滤波器；"
        "以及一个输出数与第一层卷积相同的全连接隐藏层。"
        "测试时将图像向四个方向平移（一个像素是数字宽度的八分之一）或缩放，双线性插值。"
        "何为“小”、何为“稳健”，在首次运行之前确定。",
    ),
    margin=Text(
        "by how much more accuracy the dense network loses than the convolutional one when images are shifted a little",
        "图像略微平移时，全连接网络比卷积网络多损失的准确率",
    ),
    held=Text(
        "The convolution needs far fewer weights, and loses little when images are moved or scaled a little.",
        "卷积所需权重少得多，图像略微移动或缩放时损失也很小。",
    ),
    refuted=Text(
        "As it stands the claim did not hold here; read its parts in the checks and in the table. The "
        "weights are fewer by a factor in the "
        "thousands. But robust it is only beside a dense network, and only to shifts: a convolution carries "
        "a shift on, exactly, and does "
        "not remove it. Two poolings of 2×2 blur it a little, and the dense layer at the end, which is "
        "trained at one place, sees the rest. "
        "Nothing in it makes up for scale. Robustness comes from more pooling, or from augmented data.",
        "论断按原文在此不成立；请在检查与表中分项来看。权重确实少了上千倍。但说到稳健，"
        "只是相对于全连接网络而言，且只对平移："
        "卷积把平移原样传递下去，并不消除它；两次 2×2 池化只能略微模糊它，"
        "其余的都落到最后那个只在一个位置训练过的全连接层上。"
        "对缩放则没有任何补偿机制。稳健性要靠更多的池化，或靠数据增强。",
    ),
    experiment=measure,
)

"""C02: cells that fire together wire together: Hebbian weights find what co-occurs.

``N`` moments, ``D`` cells. D. O. Hebb, The organization of behavior (1949); E. Oja (1982). The one idea: a weight grows
where the two cells it joins are active together, and the cells that drive a neuron together outvote those that come
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from layerwise.data.batch import Batch
from layerwise.data.loader import BatchSampler, MemoryBatches
from layerwise.data.source import ArraySource, Schema, fetch
from layerwise.labs.base import Check, Column, Findings, Lab, Lang, Mode, Table, Text, compute_interval, use_one_thread
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, add_headline, add_label
from layerwise.nn.hebbian import LinearUnits
from layerwise.plotting.svg import MUTED
from layerwise.rules.base import Context
from layerwise.rules.hebb import HebbOptions, Variant, build_hebb
from layerwise.runtime import rng
from layerwise.runtime.distributed import World
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.training.loop import Cursor, run_steps

CELLS, GROUP = 32, 8  # the cells, and those of them that fire together
MOMENTS, BATCH, EPOCHS = 500, 50, 10
STEP = 0.2  # η, of both rules
RATE = 0.25  # how often each cell fires
TOGETHER = 0.7  # how often a cell of the group does what the group does, rather than firing by itself
SEEDS: dict[Mode, int] = {"quick": 4, "normal": 20, "full": 100}
CHANCE = GROUP / CELLS
LEAST = 0.25  # what must be gained on chance


@dataclass(frozen=True)
class TrainedNeuron:
    """A neuron's final weight vector (D,) and its share of Σw² on the group; after each epoch, that share and the norm
    ‖w‖."""

    weight: NDArray[np.float64]
    shares: tuple[float, ...]
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """One seed: the group, the neurons under Hebb's and Oja's rule, and the same after the cells' firing was shuffled,
    each by itself."""

    group: NDArray[np.bool_]
    hebb: TrainedNeuron
    oja: TrainedNeuron
    shuffled: TrainedNeuron
    rates: tuple[float, float]  # how often the cells of the group fire, and the others
    angle: float  # |cos| between Oja's weight and the direction of largest variance


def draw_firing(seed: int, together: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return which cells fire at which moment, (N, D) of zeros and ones, and which cells are the group, (D,).

    Every cell fires at the rate `RATE`. A cell of the group copies a hidden event with the probability ``together`` and
    else fires by itself, so that its rate stays the same.
    """
    generator = rng.make_numpy_generator("hebb", seed)
    group = np.zeros(CELLS, dtype=np.bool_)
    group[generator.choice(CELLS, GROUP, replace=False)] = True
    event = generator.random((MOMENTS, 1)) < RATE
    alone = generator.random((MOMENTS, CELLS)) < RATE
    copies = (generator.random((MOMENTS, CELLS)) < together) & group
    return np.where(copies, event, alone).astype(np.float64), group


def shuffle_firing(cells: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return the same firing with each cell's moments in an order of its own: rates stay, coincidences
    vanish."""
    return rng.make_numpy_generator("hebb shuffled", seed).permuted(cells, axis=0)


def train_neuron(cells: NDArray[np.float64], group: NDArray[np.bool_], variant: Variant, seed: int) -> TrainedNeuron:
    """Train one neuron on the cells by the rule ``hebb``, as a run does."""
    names = tuple(f"cell{i}" for i in range(CELLS))
    source = ArraySource(Schema("row", (CELLS,), "none", (), names), cells, None, "cells")
    task = Reconstruction.prepare(source, Reconstruction.Options(scale="none"))
    batch: Batch = task.collate(fetch(source, range(len(cells))))
    with rng.use_seed(rng.derive_seed("hebb", seed)):
        net = LinearUnits(CELLS, 1, directions=variant == "hebb")
    context = Context(
        net, task, dict(net.named_parameters()), World(), seed, "fp32", batch_size=BATCH, examples=len(cells)
    )
    shares, lengths = [_compute_group_share(net, group)], [1.0]
    rule = build_hebb(context, HebbOptions(variant=variant, lr=STEP))
    for event in run_steps(rule, MemoryBatches(batch, BatchSampler(len(cells), BATCH, seed)), EPOCHS, Cursor()):
        if event.verdict is not None:
            shares.append(_compute_group_share(net, group))
            lengths.append(float(net.weight.detach().double().norm()))
    return TrainedNeuron(net.weight.detach().double().numpy()[0], tuple(shares), tuple(lengths))


def _compute_group_share(net: LinearUnits, group: NDArray[np.bool_]) -> float:
    """Return the part of Σw² that lies on the group."""
    squares = net.weight.detach().double().square()[0]
    return float(squares[torch.from_numpy(group)].sum() / squares.sum())


def find_largest_variance(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the direction (D,) along which the cells' firing varies most."""
    direction: NDArray[np.float64] = np.linalg.eigh(np.cov(cells.T))[1][:, -1]
    return direction


def run_trial(seed: int, together: float) -> Trial:
    """Train neurons by both rules on one firing, and one by Oja's rule on the shuffled firing."""
    cells, group = draw_firing(seed, together)
    hebb, oja = train_neuron(cells, group, "hebb", seed), train_neuron(cells, group, "oja", seed)
    control = train_neuron(shuffle_firing(cells, seed), group, "oja", seed)
    rates = float(cells[:, group].mean()), float(cells[:, ~group].mean())
    angle = abs(float(oja.weight @ find_largest_variance(cells))) / float(np.linalg.norm(oja.weight))
    return Trial(group, hebb, oja, control, rates, angle)


def measure(mode: Mode, *, together: float = TOGETHER, seeds: int = 0) -> Findings:
    """Train the neurons, seed by seed.

    Args:
        mode: how many seeds.
        together: how often a cell of the group does what the group does; at 0 nothing co-occurs.
        seeds: another number of seeds than the mode's.
    """
    with use_one_thread():
        trials = [run_trial(seed, together) for seed in range(seeds or SEEDS[mode])]
    control = compute_interval([t.shuffled.shares[-1] for t in trials])
    hebb = compute_interval([t.hebb.shares[-1] for t in trials])
    rates = [float(np.mean([t.rates[at] for t in trials])) for at in (0, 1)]
    growth = min(t.hebb.lengths[-1] for t in trials)
    off = max(abs(t.oja.lengths[-1] - 1) for t in trials)
    angle = min(t.angle for t in trials)
    checks = (
        Check(
            Text(
                f"it is not the rate: the cells of the group fire {rates[0]:.1%} of the time, the others "
                f"{rates[1]:.1%}",
                f"原因不在发放频率：组内细胞发放 {rates[0]:.1%} 的时间，其余 {rates[1]:.1%}",
            ),
            abs(rates[0] - rates[1]) < 0.02,
        ),
        Check(
            Text(
                f"shuffled, so that cells fire as often but not together, the group gets {control.mean:.0%} "
                "of the weight, as by "
                f"chance ({CHANCE:.0%})",
                f"打乱之后，细胞发放次数不变但不再同时，该组只得到 {control.mean:.0%} 的权重，"
                f"与偶然水平（{CHANCE:.0%}）相当",
            ),
            control.low < CHANCE + 0.1,
        ),
        Check(
            Text(
                f"Hebb's plain rule finds the group too ({hebb.mean:.0%})",
                f"赫布的原始规则也找到了该组（{hebb.mean:.0%}）",
            ),
            hebb.low > CHANCE + LEAST,
        ),
        Check(
            Text(
                f"but its weight grows without bound ({growth:,.0f} times at least), while Oja's stays "
                f"within {off:.1%} of length 1",
                f"但它的权重无界增长（至少 {growth:,.0f} 倍），而 Oja 规则的长度与 1 相差不超过 {off:.1%}",
            ),
            growth > 10 and off < 0.1,
        ),
        Check(
            Text(
                f"Oja's weight is the direction in which the cells vary most: |cos| {angle:.3f} or more",
                f"Oja 的权重就是细胞活动方差最大的方向：|cos| 不小于 {angle:.3f}",
            ),
            angle > 0.95,
        ),
    )
    return Findings(
        tuple(t.oja.shares[-1] - CHANCE for t in trials), LEAST, checks, _build_table(trials), partial(_draw, trials)
    )


def _build_table(trials: list[Trial]) -> Table:
    """Return one row for each rule."""
    names = (
        ("oja", Text("Oja's rule", "Oja 规则")),
        ("hebb", Text("Hebb's rule", "赫布规则")),
        ("shuffled", Text("Oja's rule, firing shuffled", "Oja 规则，发放打乱")),
    )
    rows = []
    for key, name in names:
        neurons: list[TrainedNeuron] = [getattr(t, key) for t in trials]
        shares = compute_interval([g.shares[-1] for g in neurons])
        weights = [np.abs(g.weight) / np.linalg.norm(g.weight) for g in neurons]
        inside = float(np.mean([w[t.group].mean() for w, t in zip(weights, trials, strict=True)]))
        outside = float(np.mean([w[~t.group].mean() for w, t in zip(weights, trials, strict=True)]))
        length = max(g.lengths[-1] for g in neurons)
        before = float(np.mean([g.shares[0] for g in neurons]))
        rows.append((name, before, shares.mean, inside, outside, f"{length:.3g}"))
    heads = (
        ("share of the group before", "学习前该组所占份额"),
        ("after", "学习后"),
        ("mean |w| in the group", "组内平均 |w|"),
        ("outside", "组外"),
    )
    specs = (".0%", ".0%", ".3f", ".3f")
    columns = (
        Column(Text("rule", "规则")),
        *(Column(Text(*h), s) for h, s in zip(heads, specs, strict=True)),
        Column(Text("longest w", "最长的 w"), ">"),
    )
    return Table(columns, tuple(rows))


def _draw(trials: list[Trial], lang: Lang) -> Figure:
    """Draw the first seed's weights by cell, and the group's share by epoch."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("Cells that fire together wire together", "一起发放的细胞，连接在一起"),
        Text(
            f"{GROUP} of {CELLS} cells fire together, all equally often. Left: one neuron's weights. Right: "
            f"{len(trials)} seeds.",
            f"{CELLS} 个细胞中有 {GROUP} 个一起发放，频率都相同。左图：一个神经元的权重。右图：{len(trials)} 个种子。",
        ),
        lang=lang,
    )
    _draw_bars(figure.add_axes((0.085, 0.145, 0.385, 0.60)), trials[0], lang)
    axes = figure.add_axes((0.585, 0.145, 0.39, 0.60))
    for key, color, style in (("oja", BLUE, "-"), ("hebb", GREEN, "--"), ("shuffled", VERMILION, "-")):
        table = np.array([getattr(t, key).shares for t in trials])  # (seeds, epochs + 1)
        if key != "hebb":  # its band is nearly Oja's
            axes.fill_between(range(EPOCHS + 1), table.min(0), table.max(0), color=color, alpha=0.15, linewidth=0)
        axes.plot(table.mean(0), style, color=color, linewidth=2.6)
    axes.axhline(CHANCE, color=MUTED, linewidth=1.2, linestyle=(0, (2, 3)))
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(Text("share of the weight on the group", "权重落在该组的份额").of(lang), loc="left")
    axes.set_xlabel(Text("epochs", "轮数").of(lang))
    add_label(axes, (EPOCHS, 0.64), Text("Oja's rule", "Oja 规则").of(lang), color=BLUE, align="right")
    add_label(
        axes, (EPOCHS, 0.55), Text("Hebb's rule (dashed)", "赫布规则（虚线）").of(lang), color=GREEN, align="right"
    )
    add_label(
        axes, (EPOCHS, 0.43), Text("not together: shuffled", "打乱：不再同时").of(lang), color=VERMILION, align="right"
    )
    return figure


def _draw_bars(axes: Axes, first: Trial, lang: Lang) -> None:
    """Draw |w| of each cell at length 1: the group on the left in blue, the others gray; a line marks each after the
    shuffle."""
    order = np.argsort(~first.group, kind="stable")
    for neuron, color in ((first.oja, BLUE), (first.shuffled, VERMILION)):
        heights = (np.abs(neuron.weight) / np.linalg.norm(neuron.weight))[order]
        if color == BLUE:
            axes.bar(range(CELLS), heights, color=[BLUE] * GROUP + [MUTED] * (CELLS - GROUP), width=0.8)
        else:
            axes.plot(range(CELLS), heights, "_", color=color, markersize=9, markeredgewidth=2.4)
    names = (Text("together", "一起发放"), Text("the others", "其余细胞"))
    axes.set_xticks([GROUP / 2 - 0.5, (CELLS + GROUP) / 2 - 0.5], [name.of(lang) for name in names])
    axes.tick_params(axis="x", length=0)
    axes.set_title(Text("|w| by cell (dashes: shuffled)", "各细胞的 |w|（短线：打乱后）").of(lang), loc="left")


LAB = Lab(
    name="hebb",
    claim_id="C02",
    title=Text("cells that fire together wire together", "一起发放的细胞连接在一起"),
    claim=Text(
        "Cells that fire together wire together: Hebbian weights find what co-occurs, without labels and "
        "without being told what to look "
        "for.",
        "一起发放的细胞连接在一起：赫布权重无需标签、无需告知要找什么，就能找到共同出现的东西。",
    ),
    formula=Text(
        "y = w·(x − m)      Hebb  Δw = η x y      Oja  Δw = η y (x − y w)",
        "y = w·(x − m)      赫布  Δw = η x y      Oja  Δw = η y (x − y w)",
    ),
    method=Text(
        f"{CELLS} cells fire in {RATE:.0%} of {MOMENTS} moments each. {GROUP} of them, drawn by the seed, "
        "follow a hidden event in "
        f"{TOGETHER:.0%} of the moments and fire by themselves in the others, so that they fire no oftener "
        "than the rest. One linear "
        f"neuron from a random start learns for {EPOCHS} epochs by the package's rule hebb (η = {STEP:g}), "
        "plain and as Oja's. Measured: "
        f"the share of Σw² on the group; by chance {CHANCE:.0%}. The control sees the same firing with each "
        "cell's moments shuffled by "
        "itself.",
        f"{CELLS} 个细胞各在 {MOMENTS} 个时刻中的 {RATE:.0%} 发放。由种子抽出的 {GROUP} 个在 {TOGETHER:.0%} "
        "的时刻跟随一个隐藏事件，"
        "其余时刻各自独立，因此并不比别的细胞发放得更多。一个线性神经元从随机起点出发，用本软件的 hebb "
        f"规则学习 {EPOCHS} 轮"
        f"（η = {STEP:g}），分别用原始规则与 Oja 规则。测量 Σw² 落在该组的份额，偶然水平为 {CHANCE:.0%}。"
        "对照组看到同样的发放，但每个细胞的时刻各自打乱。",
    ),
    margin=Text("the group's share of Oja's weight minus chance", "该组在 Oja 权重中的份额减去偶然水平"),
    held=Text(
        "The weights find the cells that fire together, and only because they do: shuffled in time they are "
        "found no more. The plain rule "
        "points the same way and explodes; Oja's forgetting term holds it at length 1 and makes it the first "
        "principal component.",
        "权重找到了一起发放的细胞，而且正因为它们一起发放：时间一打乱就再也找不到。原始规则指向同一方向，但会爆炸；"
        "Oja 的遗忘项把长度稳定在 1，并使权重成为第一主成分。",
    ),
    refuted=Text(
        "Here the claim did not hold: the weights did not find the group, or not because it fires together. "
        "Look at the checks.",
        "此处论断不成立：权重没有找到该组，或者原因并不是一起发放。请看各项检查。",
    ),
    experiment=measure,
)

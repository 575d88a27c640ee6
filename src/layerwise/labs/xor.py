"""C04: one perceptron cannot do XOR; one hidden layer can.

``M`` points of ``D`` = 2 inputs. F. Rosenblatt (1958); M. Minsky, S. Papert, Perceptrons (1969); D. E. Rumelhart, G. E.
Hinton, R. J. Williams (1986). The one idea: a perceptron decides by one straight line, and no line has XOR's two
classes on its two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.loader import BatchSampler, MemoryBatches
from layerwise.data.source import ArraySource, Schema, fetch
from layerwise.labs.base import Check, Column, Findings, Lab, Lang, Mode, Table, Text, compute_interval, use_one_thread
from layerwise.labs.figures import BLUE, ORANGE, SIZE, add_headline
from layerwise.models.feedforward import mlp, perceptron
from layerwise.plotting.svg import INK, MUTED
from layerwise.rules.backprop import Backprop
from layerwise.rules.base import Context
from layerwise.rules.perceptron import Perceptron
from layerwise.runtime import rng
from layerwise.runtime.distributed import World
from layerwise.tasks.classification import Classification
from layerwise.training.loop import Cursor, run_steps

Gate = Literal["xor", "and", "or"]
Net = Callable[[Tensor], Tensor]
POINTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
GATES: dict[Gate, tuple[int, ...]] = {"xor": (0, 1, 1, 0), "and": (0, 0, 0, 1), "or": (0, 1, 1, 1)}
SEEDS: dict[Mode, int] = {"quick": 4, "normal": 20, "full": 100}
EPOCHS = {"perceptron": 50, "mlp": 100}
SMALL, LARGE = 2, 8  # hidden units: as few as can represent XOR, and as many as find it every time


@dataclass(frozen=True)
class Trial:
    """One network trained on the four points: its accuracy, and its scores z as a function of points (M, 2) → (M,)."""

    accuracy: float
    scores: Net


def make_source(gate: Gate) -> ArraySource:
    """Return a gate's truth table as a source: four rows with two columns."""
    schema = Schema("row", (2,), "class", ("0", "1"), ("x1", "x2"))
    return ArraySource(schema, POINTS, np.array(GATES[gate], dtype=np.int64), gate)


def compute_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of scores z (N,) on the right side of 0."""
    return float(((scores > 0) == (labels == 1)).double().mean())


def make_examples(gate: Gate) -> tuple[Classification, Batch]:
    """Return the task and the four examples as one batch."""
    table = make_source(gate)
    task = Classification.prepare(table, Classification.Options(scale="none"))
    return task, task.collate(fetch(table, range(len(table))))


def train_perceptron(gate: Gate, seed: int) -> Trial:
    """Train one perceptron by Rosenblatt's rule (E09), and keep the best weights (the pocket algorithm, Gallant
    1990)."""
    task, batch = make_examples(gate)
    assert batch.targets is not None
    with rng.use_seed(rng.derive_seed("xor", seed)):
        net = perceptron(features=2, classes=2)
        for parameter in net.parameters():
            nn.init.normal_(parameter)  # not zero, as the model has it: integer weights leave points on the line
    rule = Perceptron(_make_context(net, task, seed, batch_size=1), Perceptron.Options())
    best, best_state = (0.0, 0.0), {name: value.clone() for name, value in net.state_dict().items()}
    for _ in run_steps(rule, MemoryBatches(batch, BatchSampler(4, 1, seed)), EPOCHS["perceptron"], Cursor()):
        with torch.no_grad():
            z = net(batch.inputs)[:, 0]
            fitness = (
                compute_accuracy(z, batch.target_tensor),
                float(z.abs().min()),
            )  # of equals, the line farther from the points
        if fitness > best:
            best, best_state = fitness, {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(best_state)
    return Trial(best[0], partial(_compute_scores, net))


def train_mlp(gate: Gate, seed: int, hidden: int = LARGE, activation: str = "tanh") -> Trial:
    """Train a network with one hidden layer by backpropagation (E11) with Adam, full batch."""
    task, batch = make_examples(gate)
    assert batch.targets is not None
    with rng.use_seed(rng.derive_seed("xor", seed)):
        net = mlp(features=2, outputs=1, hidden=(hidden,), activation=activation)
    rule = Backprop(_make_context(net, task, seed, batch_size=4), Backprop.Options(optimizer="adam", lr=0.1))
    for _ in run_steps(rule, MemoryBatches(batch, BatchSampler(4, 4)), EPOCHS["mlp"], Cursor()):
        pass
    with torch.no_grad():
        return Trial(
            compute_accuracy(net(batch.input_tensor)[:, 0], batch.target_tensor), partial(_compute_scores, net)
        )


def _make_context(net: nn.Module, task: Classification, seed: int, *, batch_size: int) -> Context:
    """Return the context of a learning rule."""
    return Context(net, task, dict(net.named_parameters()), World(), seed, "fp32", batch_size=batch_size, examples=4)


@torch.no_grad()
def _compute_scores(net: nn.Module, points: Tensor) -> Tensor:
    """Return the scores (M,) of points (M, 2)."""
    out: Tensor = net(points)
    return out[:, 0]


def is_separable(points: NDArray[np.float64], labels: Sequence[int]) -> bool:
    """Whether a line separates the two classes: is y(w·x + b) ≥ 1 feasible? Exact, by linear
    programming.

    Args:
        points: (M, D).
        labels: M zeros and ones.
    """
    from scipy.optimize import linprog  # comes with scikit-learn; slow to import

    signs = 2.0 * np.asarray(labels) - 1
    rows = -signs[:, None] * np.hstack([points, np.ones((len(points), 1))])  # −y (x, 1)·(w, b) ≤ −1
    solution = linprog(np.zeros(rows.shape[1]), A_ub=rows, b_ub=-np.ones(len(points)), bounds=(None, None))
    return int(solution.status) == 0  # 2: infeasible


def find_best_accuracy(gate: Gate) -> float:
    """Return the best accuracy of any line on the four points: tries every subset, largest first."""
    labels = GATES[gate]
    for size in range(4, 0, -1):
        for subset in combinations(range(4), size):
            if is_separable(POINTS[list(subset)], [labels[i] for i in subset]):
                return size / 4
    return 0.0


def count_separable_functions() -> int:
    """Return how many of the 16 functions of two bits one perceptron can compute."""
    return sum(is_separable(POINTS, [code >> i & 1 for i in range(4)]) for code in range(16))


def measure(mode: Mode, *, gate: Gate = "xor", activation: str = "tanh", seeds: int = 0) -> Findings:
    """Train perceptrons and networks with one hidden layer, seed by seed.

    Args:
        mode: how many seeds.
        gate: the function to learn.
        activation: the hidden layer's; with ``linear`` two layers are no more than one.
        seeds: another number of seeds than the mode's.
    """
    numbers = range(seeds or SEEDS[mode])
    with use_one_thread():
        single = [train_perceptron(gate, seed) for seed in numbers]
        linear = [train_mlp(gate, seed, activation="linear") for seed in numbers]
        small = [train_mlp(gate, seed, SMALL, activation) for seed in numbers]
        large = [train_mlp(gate, seed, LARGE, activation) for seed in numbers]
    possible, functions = find_best_accuracy(gate), count_separable_functions()
    name = gate.upper()
    checks = (
        Check(
            Text(
                f"no line separates {name}, by linear programming: the best has {4 * possible:.0f} of 4 right "
                f"({functions} of the 16 functions of two bits have a line)",
                f"线性规划表明没有直线能分开 {name}：最好的直线分对 4 个点中的 {4 * possible:.0f} 个"
                f"（两个比特的 16 个函数中有 {functions} 个线性可分）",
            ),
            possible < 1,
        ),
        Check(
            Text("no perceptron ever had all four right, with any seed", "任何种子下，感知机从未同时分对四个点"),
            max(t.accuracy for t in single) < 1,
        ),
        Check(
            Text(
                f"every network with {LARGE} hidden units has all four right",
                f"每个带 {LARGE} 个隐藏单元的网络都分对全部四个点",
            ),
            min(t.accuracy for t in large) == 1,
        ),
    )
    margins = tuple(trial.accuracy - possible for trial in large)
    table = _build_table(single, linear, small, large, activation)
    return Findings(margins, 0.0, checks, table, partial(_draw, gate, max(single, key=_get_selection_key), large[0]))


def _get_selection_key(trial: Trial) -> tuple[float, float]:
    """Return the sort key of a trial: accuracy, then the margin (smallest |z|)."""
    return trial.accuracy, float(trial.scores(torch.from_numpy(POINTS).float()).abs().min())


def _build_table(
    single: list[Trial], linear: list[Trial], small: list[Trial], large: list[Trial], activation: str
) -> Table:
    """Return one row for each network."""

    def build_row(name: Text, weights: int, trials: list[Trial]) -> tuple[Text | str | int | float, ...]:
        accuracies = [t.accuracy for t in trials]
        solved = f"{sum(r == 1 for r in accuracies)}/{len(accuracies)}"
        return (name, weights, f"{min(accuracies) * 4:.0f}/4", compute_interval(accuracies).mean, solved)

    columns = (
        Column(Text("network", "网络")),
        Column(Text("weights", "权重数"), "d"),
        Column(Text("worst seed", "最差种子")),
        Column(Text("mean accuracy", "平均准确率"), ".3f"),
        Column(Text("seeds that solve it", "解出的种子")),
    )
    rows = (
        build_row(Text("perceptron, best weights it ever had", "感知机（取训练中最好的权重）"), 3, single),
        build_row(Text(f"{LARGE} hidden units, linear", f"{LARGE} 个隐藏单元，线性"), 4 * LARGE + 1, linear),
        build_row(
            Text(f"{SMALL} hidden units, {activation}", f"{SMALL} 个隐藏单元，{activation}"), 4 * SMALL + 1, small
        ),
        build_row(
            Text(f"{LARGE} hidden units, {activation}", f"{LARGE} 个隐藏单元，{activation}"), 4 * LARGE + 1, large
        ),
    )
    return Table(columns, rows)


def _draw(gate: Gate, single: Trial, large: Trial, lang: Lang) -> Figure:
    """Draw both networks' decisions side by side."""
    figure = Figure(figsize=SIZE)
    name = gate.upper()
    add_headline(
        figure,
        Text(f"One line cannot part {name}; one hidden layer can", f"一条直线分不开 {name}，一层隐藏单元就可以"),
        Text("Shading: the network's answer. Discs: the four examples.", "底色：网络的回答。圆点：四个样本。"),
        lang=lang,
    )
    titles = (Text("One perceptron", "一个感知机"), Text(f"{LARGE} hidden units", f"{LARGE} 个隐藏单元"))
    for panel, (title, trial) in enumerate(zip(titles, (single, large), strict=True)):
        axes = figure.add_axes((0.085 + 0.485 * panel, 0.125, 0.385, 0.63))
        _draw_regions(axes, trial.scores)
        _draw_examples(axes, gate, trial.scores)
        correct = f"{4 * trial.accuracy:.0f}"
        score = Text(f"{correct} of 4 right", f"4 个对了 {correct} 个").of(lang)
        axes.set_title(
            f"{title.of(lang)}: {score}" if lang == "en" else f"{title.of(lang)}：{score}", fontsize=16, color=INK
        )
    return figure


def _draw_regions(axes: Axes, scores: Net) -> None:
    """Shade where the score is below and above 0, and draw the boundary."""
    x = torch.linspace(-0.5, 1.5, 61)
    grid = torch.cartesian_prod(x, x)  # (M, 2), first coordinate slow
    z = scores(grid).reshape(len(x), len(x)).T.numpy()
    axes.contourf(x, x, z, levels=[-1e9, 0, 1e9], colors=[BLUE, ORANGE], alpha=0.22)
    axes.contour(x, x, z, levels=[0], colors=[INK], linewidths=2.2)
    axes.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5), xticks=[0, 1], yticks=[0, 1], xlabel="x₁")
    axes.set_ylabel("x₂", rotation=0, labelpad=10)
    axes.grid(False)


def _draw_examples(axes: Axes, gate: Gate, scores: Net) -> None:
    """Draw the four examples with their labels; a misclassified one gets a ring."""
    predictions = (scores(torch.from_numpy(POINTS).float()) > 0).long().tolist()
    for (x, y), label, prediction in zip(POINTS, GATES[gate], predictions, strict=True):
        axes.plot(x, y, "o", markersize=25, color=(BLUE, ORANGE)[label], markeredgecolor="white", markeredgewidth=2)
        axes.text(
            x,
            y,
            str(label),
            ha="center",
            va="center_baseline",
            fontsize=15,
            fontweight="bold",
            color=("white", INK)[label],
        )
        if prediction != label:
            axes.plot(x, y, "o", markersize=38, fillstyle="none", color=INK, markeredgewidth=2)
            axes.text(x, y + 0.26, "✗", ha="center", va="center", fontsize=15, color=MUTED)


LAB = Lab(
    name="xor",
    claim_id="C04",
    title=Text("one perceptron cannot do XOR; one hidden layer can", "单个感知机学不会异或，一层隐藏单元就可以"),
    claim=Text(
        "One perceptron cannot compute XOR, whatever its weights. A network with one hidden layer can, and "
        "backpropagation finds it.",
        "无论权重取何值，单个感知机都无法实现异或。带一层隐藏单元的网络可以，并且反向传播能找到它。",
    ),
    formula=Text(
        "perceptron  ŷ = [w·x + b > 0]\nnetwork     ŷ = [v·f(Wx + c) + d > 0]",
        "感知机  ŷ = [w·x + b > 0]\n网络    ŷ = [v·f(Wx + c) + d > 0]",
    ),
    method=Text(
        "By reasoning: a linear program asks for a line with margin 1 through every subset of the four "
        "points. Were there "
        "one for all four, then b ≤ −1, w₁+b ≥ 1, w₂+b ≥ 1 and w₁+w₂+b ≤ −1; the sum of the middle two says "
        "w₁+w₂+2b ≥ 2, "
        "of the outer two ≤ −2. By experiment: Rosenblatt's rule, 50 epochs, start and order drawn by the "
        "seed, judged by "
        "the best weights it ever had; Adam on networks with one hidden layer, 100 full-batch steps, judged "
        "at the end.",
        "推理：对四个点的每个子集，用线性规划求一条间隔为 1 的直线。若四个点都能分开，则 b ≤ −1、w₁+b ≥ 1、w₂+b ≥ 1、"
        "w₁+w₂+b ≤ −1；中间两式相加得 w₁+w₂+2b ≥ 2，首尾两式相加得 w₁+w₂+2b ≤ −2，矛盾。实验："
        "感知机用罗森布拉特规则训练 50 "
        "轮，起点与样本顺序由种子决定，取训练中最好的权重；单隐藏层网络用 Adam 全批量训练 100 步，以最终权重计。",
    ),
    margin=Text(
        "the network's accuracy minus the best that any line can have", "网络的准确率减去任何直线所能达到的最高准确率"
    ),
    held=Text(
        "A hidden layer with a nonlinearity makes new features in which the classes can be parted. The "
        "linear row shows "
        "that the layer alone does not help: two linear layers are one. Two hidden units suffice to represent XOR, yet "
        "gradient descent does not find them from every start; eight are found every time.",
        "带非线性的隐藏层造出了新特征，使两类变得可分。线性那一行说明只加层没有用：两层线性等于一层。"
        "两个隐藏单元足以表示异或，但梯度下降并非从每个起点都能找到；八个则每次都能找到。",
    ),
    refuted=Text(
        "Here the claim did not hold: either a line can part the classes, or the hidden layer did not learn "
        "to. Look at the checks.",
        "此处论断不成立：要么一条直线就能分开两类，要么隐藏层没有学会。请看各项检查。",
    ),
    experiment=measure,
)

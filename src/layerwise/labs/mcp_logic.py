"""C01: an MCP neuron computes logic but cannot learn.

``M`` = 2ⁿ rows of a truth table with ``n`` inputs. W. S. McCulloch, W. Pitts (1943); F. Rosenblatt (1958). The one
idea: its output is a step, so that a small change of a weight changes nothing, and there is no slope that could say
which way to turn it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from layerwise.functional.neuron import mcp, neuron, perceptron_step
from layerwise.labs.base import Check, Column, Findings, Lab, Lang, Mode, Table, Text, compute_interval, use_one_thread
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, add_headline, add_label
from layerwise.models.mcculloch_pitts import MCPNet, MCPNeuron
from layerwise.models.mcculloch_pitts import mcp as build_gate
from layerwise.plotting.svg import MUTED
from layerwise.runtime import rng

Unit = Callable[[Tensor, Tensor, Tensor], Tensor]  # inputs (M, n), weights (n,), threshold () to outputs (M,)
INPUTS = 4
SEEDS: dict[Mode, int] = {"quick": 6, "normal": 20, "full": 100}
PASSES = 60
RATE, NUDGE = 0.5, 1e-4  # step size of gradient descent; the step of the finite difference that measures the slope
GATES: dict[str, Callable[[tuple[int, ...]], int]] = {
    "and": lambda x: int(all(x)),
    "or": lambda x: int(any(x)),
    "nand": lambda x: int(not all(x)),
    "nor": lambda x: int(not any(x)),
}
WIDEST = 8  # inputs up to which each gate is checked


@dataclass(frozen=True)
class Learner:
    """One neuron's accuracy on the truth table before the first pass and after each, (PASSES + 1,)."""

    path: tuple[float, ...]

    @property
    def gain(self) -> float:
        """The change of accuracy over all passes."""
        return self.path[-1] - self.path[0]


@dataclass(frozen=True)
class Trial:
    """One seed: a McCulloch–Pitts neuron and a sigmoid neuron under gradient descent, a perceptron under its rule, all
    from one start."""

    mcp: Learner
    sigmoid: Learner
    perceptron: Learner
    sloped: int  # finite differences that were not 0, of all that were taken for the McCulloch–Pitts neuron
    slopes: int


def enumerate_inputs(inputs: int) -> Tensor:
    """Return all combinations of inputs, (2ⁿ, n)."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=inputs)), dtype=torch.float64)


def step_unit(x: Tensor, weights: Tensor, threshold: Tensor) -> Tensor:
    """Return the outputs of a McCulloch–Pitts neuron (E01)."""
    return mcp(x, weights, threshold)


def sigmoid_unit(x: Tensor, weights: Tensor, threshold: Tensor) -> Tensor:
    """Return the outputs of a neuron with a sigmoid instead of the step (E02)."""
    return neuron(x, weights, bias=-threshold, activation=torch.sigmoid)


def count_wrong_outputs() -> int:
    """Return how many entries of the truth tables of AND, OR, NAND, NOR (1 to WIDEST inputs), NOT and XOR the catalog's
    nets have wrong."""
    wrong = 0
    for name, expected in GATES.items():
        for inputs in range(1, WIDEST + 1):
            wrong += _count_wrong_rows(build_gate(gate=name, inputs=inputs), inputs, expected)  # type: ignore[arg-type]
    wrong += _count_wrong_rows(build_gate(gate="not", inputs=1), 1, lambda x: 1 - x[0])
    return wrong + _count_wrong_rows(build_gate(gate="xor"), 2, lambda x: x[0] ^ x[1])


def build_network(table: tuple[int, ...]) -> MCPNet:
    """Return a net of two layers for any truth table (2ⁿ entries): one neuron for each row with a 1, which fires there
    only, then OR.

    A table without a 1 gets one neuron that never fires.
    """
    points = enumerate_inputs(len(table).bit_length() - 1)
    ones = [x for x, y in zip(points, table, strict=True) if y]
    first = [MCPNeuron((2 * x - 1).tolist(), float(x.sum())) for x in ones] or [MCPNeuron([0.0] * points.shape[1], 1.0)]
    return MCPNet(first, MCPNeuron([1.0] * len(first), 1.0))


def count_computed_functions(inputs: int) -> int:
    """Return how many of the 2^2ⁿ functions of n bits a net of two layers computes exactly."""
    x = enumerate_inputs(inputs).float()
    tables = itertools.product((0, 1), repeat=2**inputs)
    return sum(build_network(table)(x)[:, 0].tolist() == list(table) for table in tables)


def _count_wrong_rows(net: torch.nn.Module, inputs: int, expected: Callable[[tuple[int, ...]], int]) -> int:
    """Return in how many rows a net's output is not the expected one."""
    x = enumerate_inputs(inputs).float()
    outputs = net(x)[:, 0].tolist()
    return sum(int(y != expected(tuple(int(v) for v in row))) for row, y in zip(x.tolist(), outputs, strict=True))


def draw_task(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a function that one neuron can compute, to be learned, and a start: outputs (M,), weights (n,), threshold
    ().

    Function and start are drawn until the function is not constant and the start has at least a quarter of the table
    wrong.
    """
    generator = rng.make_numpy_generator("mcp-logic", seed)
    x = enumerate_inputs(INPUTS)
    while True:
        goal, start = (torch.from_numpy(generator.normal(size=INPUTS + 1)) for _ in range(2))
        y = step_unit(x, goal[:-1], goal[-1])
        if 0 < float(y.mean()) < 1 and compute_accuracy(step_unit, x, y, start[:-1], start[-1]) <= 0.75:
            return y, start[:-1], start[-1]


def compute_accuracy(unit: Unit, x: Tensor, y: Tensor, weights: Tensor, threshold: Tensor) -> float:
    """Return the accuracy over rows; an output of ½ or more is a 1."""
    return float(((unit(x, weights, threshold) >= 0.5) == (y > 0.5)).double().mean())


def compute_numerical_gradient(unit: Unit, x: Tensor, y: Tensor, weights: Tensor, threshold: Tensor) -> Tensor:
    """Return the gradient of Σ(output − y)² in weights and threshold, (n + 1,), by central differences with the step
    `NUDGE`."""
    parameters = torch.cat([weights, threshold[None]])
    offsets = NUDGE * torch.eye(len(parameters), dtype=torch.float64)

    def compute_error(point: Tensor) -> Tensor:
        return (unit(x, point[:-1], point[-1]) - y).square().sum()

    return torch.stack([(compute_error(parameters + n) - compute_error(parameters - n)) / (2 * NUDGE) for n in offsets])


def apply_gradient_descent(
    unit: Unit, x: Tensor, y: Tensor, weights: Tensor, threshold: Tensor
) -> tuple[Learner, int, int]:
    """Train the unit by gradient descent for all passes. Return the learner, the finite differences that were not 0,
    and all of them."""
    path, sloped, slopes = [compute_accuracy(unit, x, y, weights, threshold)], 0, 0
    for _ in range(PASSES):
        gradient = compute_numerical_gradient(unit, x, y, weights, threshold)
        sloped, slopes = sloped + int((gradient != 0).sum()), slopes + len(gradient)
        weights, threshold = weights - RATE * gradient[:-1], threshold - RATE * gradient[-1]
        path.append(compute_accuracy(unit, x, y, weights, threshold))
    return Learner(tuple(path)), sloped, slopes


def apply_perceptron_rule(x: Tensor, y: Tensor, weights: Tensor, threshold: Tensor, *, rate: float) -> Learner:
    """Correct mistakes one after the other by Rosenblatt's rule (E09) for all passes."""
    path, bias = [compute_accuracy(step_unit, x, y, weights, threshold)], -threshold
    for _ in range(PASSES):
        for row, target in zip(x, 2 * y - 1, strict=True):
            weights, bias = perceptron_step(row, target, weights=weights, bias=bias, rate=rate)
        path.append(compute_accuracy(step_unit, x, y, weights, -bias))
    return Learner(tuple(path))


def run_trial(seed: int, unit: Unit, rate: float) -> Trial:
    """Train the three neurons on one function from one start."""
    y, weights, threshold = draw_task(seed)
    x = enumerate_inputs(INPUTS)
    hard, sloped, slopes = apply_gradient_descent(unit, x, y, weights, threshold)
    smooth, _, _ = apply_gradient_descent(sigmoid_unit, x, y, weights, threshold)
    return Trial(hard, smooth, apply_perceptron_rule(x, y, weights, threshold, rate=rate), sloped, slopes)


def measure(mode: Mode, *, unit: Unit = step_unit, rate: float = 1.0, seeds: int = 0) -> Findings:
    """Check the logic, then train the neurons, seed by seed.

    Args:
        mode: how many seeds.
        unit: the output of the neuron trained by gradient descent; with `sigmoid_unit` it is no longer a
            McCulloch–Pitts neuron.
        rate: η of the perceptron's rule; 0 takes the rule away.
        seeds: another number of seeds than the mode's.
    """
    with use_one_thread():
        trials = [run_trial(seed, unit, rate) for seed in range(seeds or SEEDS[mode])]
        wrong, functions = count_wrong_outputs(), (count_computed_functions(2), count_computed_functions(3))
    sloped, slopes = sum(t.sloped for t in trials), sum(t.slopes for t in trials)
    learned = sum(t.perceptron.path[-1] == 1 for t in trials)
    checks = (
        Check(
            Text(
                f"AND, OR, NAND, NOR of 1 to {WIDEST} inputs, NOT and XOR are computed without a mistake",
                f"1 至 {WIDEST} 个输入的与、或、与非、或非，以及非和异或，全部计算无误",
            ),
            wrong == 0,
        ),
        Check(
            Text(
                f"two layers compute {functions[0]} of the 16 functions of two bits and {functions[1]} of "
                "the 256 of three",
                f"两层网络能算出两个比特的 16 个函数中的 {functions[0]} 个、三个比特的 256 个函数中的 "
                f"{functions[1]} 个",
            ),
            functions == (16, 256),
        ),
        Check(
            Text(
                f"the slope of its error is 0: {sloped} of {slopes} finite differences are not",
                f"误差的斜率为零：{slopes} 个有限差分中有 {sloped} 个不为零",
            ),
            sloped <= slopes // 100,
        ),
        Check(
            Text(
                f"these functions can be learned: the perceptron ends without a mistake with {learned} of "
                f"{len(trials)} seeds",
                f"这些函数是可学的：感知机在 {len(trials)} 个种子中的 {learned} 个上最终全对",
            ),
            learned == len(trials),
        ),
    )
    margins = tuple(t.perceptron.gain - t.mcp.gain for t in trials)
    return Findings(margins, 0.1, checks, _build_table(trials), partial(_draw, trials))


def _build_table(trials: list[Trial]) -> Table:
    """Return one row for each learner."""
    names = (
        ("mcp", Text("McCulloch–Pitts, gradient descent", "麦卡洛克-皮茨，梯度下降")),
        ("sigmoid", Text("sigmoid, gradient descent", "sigmoid，梯度下降")),
        ("perceptron", Text("perceptron, Rosenblatt's rule (1958)", "感知机，罗森布拉特规则（1958）")),
    )
    rows = []
    for key, name in names:
        learners: list[Learner] = [getattr(t, key) for t in trials]
        before, after = (compute_interval([learner.path[index] for learner in learners]).mean for index in (0, -1))
        rows.append((name, before, after, f"{sum(learner.path[-1] == 1 for learner in learners)}/{len(learners)}"))
    heads = (
        ("right before", "学习前正确率"),
        ("after", "学习后"),
        ("seeds that end without a mistake", "最终全对的种子"),
    )
    columns = (
        Column(Text("neuron", "神经元")),
        *(Column(Text(*head), ".3f") for head in heads[:2]),
        Column(Text(*heads[2])),
    )
    return Table(columns, tuple(rows))


def _draw(trials: list[Trial], lang: Lang) -> Figure:
    """Draw the error against one weight, and the share right by pass."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("A step computes logic, but has no slope to learn by", "阶跃能计算逻辑，却没有可供学习的斜率"),
        Text(
            f"Functions of {INPUTS} inputs, {len(trials)} seeds, the same start for all. Right: mean over seeds.",
            f"{INPUTS} 个输入的函数，{len(trials)} 个种子，起点相同。右图：种子平均。",
        ),
        lang=lang,
    )
    _draw_staircase(figure.add_axes((0.085, 0.145, 0.385, 0.60)), lang)
    axes = figure.add_axes((0.585, 0.145, 0.39, 0.60))
    for key, color, style in (("perceptron", BLUE, "-"), ("sigmoid", GREEN, "--"), ("mcp", VERMILION, "-")):
        axes.plot(np.mean([getattr(t, key).path for t in trials], 0), style, color=color, linewidth=2.6)
    axes.set_ylim(0.3, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(Text("share of the truth table right", "真值表的正确率").of(lang), loc="left")
    axes.set_xlabel(Text("passes over the table", "遍历真值表的次数").of(lang))
    level = float(np.mean([t.mcp.path[-1] for t in trials]))
    add_label(axes, (PASSES, 0.88), Text("perceptron's rule", "感知机规则").of(lang), color=BLUE, align="right")
    add_label(
        axes,
        (PASSES, 0.80),
        Text("sigmoid, gradient descent", "sigmoid，梯度下降").of(lang),
        color=GREEN,
        align="right",
    )
    name = Text("McCulloch–Pitts, gradient descent", "麦卡洛克-皮茨，梯度下降")
    add_label(axes, (PASSES, level - 0.06), name.of(lang), color=VERMILION, align="right")
    return figure


def _draw_staircase(axes: Axes, lang: Lang) -> None:
    """Draw the first seed's error by its first weight, for the step and for the sigmoid."""
    y, weights, threshold = draw_task(0)
    x, values = enumerate_inputs(INPUTS), torch.linspace(-4, 4, 801, dtype=torch.float64)
    for unit, color, style in ((sigmoid_unit, GREEN, "--"), (step_unit, VERMILION, "-")):
        errors = [
            float((unit(x, torch.cat([value[None], weights[1:]]), threshold) - y).square().sum()) for value in values
        ]
        axes.plot(values, errors, style, color=color, linewidth=2.6)
    axes.axvline(float(weights[0]), color=MUTED, linewidth=1.2, linestyle=(0, (2, 3)))
    axes.set_ylim(bottom=0)
    axes.set_title(Text("error Σ(output − wanted)²", "误差 Σ(输出 − 目标)²").of(lang), loc="left")
    axes.set_xlabel(Text("one weight (dotted: where it starts)", "一个权重（点线：起点）").of(lang))


LAB = Lab(
    name="mcp-logic",
    claim_id="C01",
    title=Text("an MCP neuron computes logic but cannot learn", "麦卡洛克-皮茨神经元能计算逻辑，却不能学习"),
    claim=Text(
        "McCulloch–Pitts neurons compute every function of logic with weights and thresholds set by hand, "
        "and nothing in them says "
        "how to change a weight.",
        "麦卡洛克-皮茨神经元凭人设定的权重与阈值可以计算一切逻辑函数，但其中没有任何东西说明应如何改变权重。",
    ),
    formula=Text(
        "y = 1 if Σ wᵢxᵢ ≥ θ else 0      ∂y/∂w = 0 wherever Σ wᵢxᵢ ≠ θ",
        "若 Σ wᵢxᵢ ≥ θ 则 y = 1，否则 y = 0      只要 Σ wᵢxᵢ ≠ θ，就有 ∂y/∂w = 0",
    ),
    method=Text(
        "Logic: the registered gates against their truth tables, and a net of two layers (one neuron for "
        "each row with a 1, then OR) "
        f"for every function of two and of three bits. Learning: a function of {INPUTS} inputs that one "
        "neuron can compute, and a start "
        f"with at least a quarter of the table wrong, both drawn by the seed. {PASSES} passes of gradient "
        "descent on the squared error, "
        f"its slope measured by central differences (±{NUDGE:g}, η = {RATE:g}), which need no formula and so "
        "give the step its chance; the "
        "same with a sigmoid in the step's place; and Rosenblatt's rule (E09, η = 1) on the very same step.",
        "逻辑：目录中的各个门逐行对照真值表；对两个和三个比特的每个函数，用两层网络（每个取 1 "
        "的行一个神经元，再取或）实现。"
        f"学习：由种子抽取一个单个神经元能算出的 {INPUTS} 输入函数，以及一个至少错四分之一的起点。"
        f"在平方误差上做 {PASSES} 遍梯度下降，"
        f"斜率用中心差分测量（±{NUDGE:g}，η = {RATE:g}），不依赖公式，因而给阶跃函数公平的机会；再把阶跃换成 "
        "sigmoid 重做一遍；"
        "最后对同样的阶跃使用罗森布拉特规则（E09，η = 1）。",
    ),
    margin=Text(
        "what the perceptron's rule gained in accuracy minus what gradient descent gained on the "
        "McCulloch–Pitts neuron",
        "感知机规则带来的正确率增量，减去梯度下降在麦卡洛克-皮茨神经元上带来的增量",
    ),
    held=Text(
        "Its error is a staircase: flat where it stands, so that no slope says which way a weight should go. "
        "Two ways out were found: a "
        "rule that needs no slope (the perceptron, 1958), and a smooth step (the sigmoid), on which "
        "gradients work. That the neuron itself "
        "has no rule is history, not a theorem: the perceptron is the same neuron with one.",
        "它的误差是一级级台阶：所处之处是平的，没有斜率指示权重该往哪个方向变。后来有两条出路："
        "不需要斜率的规则（1958 年的感知机），"
        "以及光滑的阶跃（sigmoid），使梯度可用。神经元本身没有学习规则是史实而非定理："
        "感知机正是配上了规则的同一种神经元。",
    ),
    refuted=Text(
        "Here the claim did not hold: the neuron failed at logic, its error had a slope, or the rule beside "
        "it did not learn. Look at the "
        "checks.",
        "此处论断不成立：神经元算错了逻辑，或误差有了斜率，或对照的规则没有学会。请看各项检查。",
    ),
    experiment=measure,
)

"""C07: sigmoid and tanh saturate and the gradient vanishes with depth; ReLU does not.

``N`` examples, ``D`` = 64 units in every layer, ``L`` hidden layers. S. Hochreiter (1991); X. Glorot, Y. Bengio (2010);
K. He et al. (2015); S. S. Schoenholz et al., Deep information propagation (2017). The one idea: each layer on the way
back multiplies the gradient by about √(D·Var w·E f′²), and where f is flat, f′ is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from layerwise.data import sklearn_datasets
from layerwise.data.batch import Batch
from layerwise.data.source import fetch
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
    format_signed,
    use_one_thread,
)
from layerwise.labs.figures import BLUE, GREEN, SIZE, VERMILION, add_headline, add_label
from layerwise.models.feedforward import mlp
from layerwise.runtime import rng
from layerwise.tasks.classification import Classification

WIDTH = 64  # as many units as digits has pixels, so that every hidden layer's weights have the same shape
FLAT = 0.1  # a unit is called saturated where f′ is below this part of its largest value
DECADE, ALLOWED_LOSS = 1.0, 0.05  # what must be lost at the least; what ReLU may lose in a layer, in powers of ten
ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
CENTERED, SHIFTED, LARGE = "centered", "shifted", "large"
STARTS = {
    CENTERED: "b = 0",
    SHIFTED: "b ~ N(0, 1)",
    LARGE: "b = 0, 3·W",
}
VANISHING = (("sigmoid", CENTERED), ("sigmoid", SHIFTED), ("tanh", SHIFTED))  # where the claim says that it vanishes
CASES = (*((a, s) for a in ("sigmoid", "tanh") for s in STARTS), ("relu", CENTERED), ("relu", SHIFTED))


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, depths in hidden layers, examples in the batch."""

    seeds: int
    depths: tuple[int, ...]
    examples: int


PLANS: dict[Mode, Plan] = {
    "quick": Plan(3, (5, 10, 20, 30), 64),
    "normal": Plan(10, (5, 10, 20, 30), 512),
    "full": Plan(20, (5, 10, 20, 30, 50), 1797),
}


@dataclass(frozen=True)
class GradientProfile:
    """One network at its start: ‖∂L/∂W⁽ˡ⁾‖ by hidden layer, the saturated share, and √(D·Var w·E f′²) of the later
    half."""

    norms: tuple[float, ...]
    saturated: float
    factor: float

    @property
    def log10_gradient_ratio(self) -> float:
        """By how many powers of ten the first layer's gradient is larger than the last hidden layer's."""
        return math.log10(self.norms[0] / self.norms[-1])


def build_network(activation: str, start: str, depth: int, seed: int) -> nn.Sequential:
    """Return Layerwise's mlp in float64, with Glorot's weights for sigmoid and tanh, He's for relu, changed by
    ``start``.

    Args:
        activation: its name.
        start: ``centered`` leaves the biases at zero, ``shifted`` draws them from N(0, 1), ``large`` takes the weights
            times 3.
        depth: hidden layers.
        seed: of all draws.
    """
    with rng.use_seed(rng.derive_seed("vanishing-depth", depth, seed)):
        net = mlp(features=WIDTH, outputs=10, hidden=(WIDTH,) * depth, activation=activation).double()
        for layer in get_linear_layers(net):
            if start == SHIFTED:
                nn.init.normal_(layer.bias)
            elif start == LARGE:
                layer.weight.data.mul_(3)
    assert isinstance(net, nn.Sequential)
    return net


def get_linear_layers(net: nn.Module) -> list[nn.Linear]:
    """Return the linear layers, from the input on."""
    return [m for m in net.modules() if isinstance(m, nn.Linear)]


def load_digits(examples: int, seed: int) -> tuple[Classification, Batch]:
    """Return the task and a batch of real handwritten digits, drawn by the seed, in float64."""
    source = sklearn_datasets.load("digits")
    task = Classification.prepare(source, Classification.Options())
    rows = rng.make_numpy_generator("vanishing-depth", seed).permutation(len(source))[:examples]
    return task, task.collate(fetch(source, rows)).to(torch.device("cpu"), torch.float64)


def compute_activation_derivatives(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Return f′(z) of each hidden layer, (N, D), for inputs x (N, …)."""
    slopes, value = [], x
    for module in net:
        if value.ndim == 2 and not isinstance(module, (nn.Linear, nn.Flatten)):
            z = value.detach().requires_grad_()
            slopes.append(torch.autograd.grad(module(z).sum(), z)[0])
        with torch.no_grad():
            value = module(value)
    return slopes


def find_largest_derivative(module: nn.Module) -> float:
    """Return the largest slope of an activation, found on a grid: ¼ for sigmoid, 1 for tanh and relu."""
    z = torch.linspace(-6, 6, 2401, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(module(z).sum(), z)[0].max())


def measure_gradient_profile(net: nn.Sequential, task: Classification, batch: Batch) -> GradientProfile:
    """Measure each hidden layer's gradient of the mean loss and its saturation."""
    layers = get_linear_layers(net)
    loss = task.objective(net, batch)
    gradients = torch.autograd.grad(loss.total / loss.weight, [layer.weight for layer in layers])
    flat = torch.stack(compute_activation_derivatives(net, batch.input_tensor))  # (L, N, D)
    gain = WIDTH * float(torch.stack([layer.weight.detach().var() for layer in layers[1:-1]]).mean())
    middle = flat[len(flat) // 2 :]  # behind the first layers, where the inputs' own scale has faded
    return GradientProfile(
        tuple(float(g.norm()) for g in gradients[:-1]),
        float((flat < FLAT * find_largest_derivative(net[2])).double().mean()),
        math.sqrt(gain * float(middle.square().mean())),
    )


Profiles = dict[tuple[str, str, int], list[GradientProfile]]


def measure(mode: Mode, *, activations: Mapping[str, str] = ACTIVATIONS, plan: Plan | None = None) -> Findings:
    """Take the gradient by layer at several depths, for each activation and start, seed by seed.

    Args:
        mode: how many seeds, examples and depths.
        activations: the activation of each role; an exchanged one is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    profiles: Profiles = {(a, s, depth): [] for a, s in CASES for depth in plan.depths}
    with use_one_thread():
        for seed in range(plan.seeds):
            task, batch = load_digits(plan.examples, seed)
            for name, start, depth in profiles:
                net = build_network(activations[name], start, depth, seed)
                profiles[name, start, depth].append(measure_gradient_profile(net, task, batch))
    deepest = plan.depths[-1]
    margins = tuple(_compute_margin(profiles, seed, deepest) for seed in range(plan.seeds))
    return Findings(
        margins, DECADE, _build_checks(profiles, plan), _build_table(profiles, plan), partial(_draw, profiles, deepest)
    )


def _compute_margin(profiles: Profiles, seed: int, depth: int) -> float:
    """Return by how many decades more than ReLU's, at the same start, the gradient falls: of the vanishing cases the
    least."""
    return min(
        profiles["relu", start, depth][seed].log10_gradient_ratio
        - profiles[name, start, depth][seed].log10_gradient_ratio
        for name, start in VANISHING
    )


def _compute_means(profiles: Profiles, name: str, start: str, plan: Plan) -> list[float]:
    """Return the mean of log₁₀ of the gradients' ratio over the seeds, for each depth."""
    means = []
    for depth in plan.depths:
        ratios = [profile.log10_gradient_ratio for profile in profiles[name, start, depth]]
        means.append(compute_interval(ratios).mean)
    return means


def _fit_trend(profiles: Profiles, name: str, start: str, plan: Plan) -> float:
    """Return how many decades are lost with each further layer: the slope of the decades by depth."""
    means = _compute_means(profiles, name, start, plan)
    return float(np.polyfit(plan.depths, means, 1)[0])


def _build_checks(profiles: Profiles, plan: Plan) -> tuple[Check, ...]:
    """Return the checks: the gradient vanishes with saturation and with depth; ReLU's does
    not."""
    trends = [_fit_trend(profiles, name, start, plan) for name, start in VANISHING]
    relu = [_fit_trend(profiles, "relu", start, plan) for start in (CENTERED, SHIFTED)]
    flat = {}
    for start in (CENTERED, SHIFTED):
        flat[start] = compute_interval([p.saturated for p in profiles["tanh", start, plan.depths[-1]]]).mean
    slowest, worst = format_signed(10 ** max(trends), ".2f"), format_signed(10 ** min(relu), ".2f")
    return (
        Check(
            Text(
                "with sigmoid, and with tanh shifted by biases, each further layer multiplies the gradient "
                f"by {slowest} or less",
                f"使用 sigmoid，或使用 tanh 且偏置使其偏移时，每多一层，梯度至少缩小到 {slowest} 倍",
            ),
            max(trends) < -ALLOWED_LOSS,
        ),
        Check(
            Text(
                f"with ReLU each further layer multiplies it by {worst} or more, at either start",
                f"使用 ReLU 时，两种起点下每多一层，梯度至少保留 {worst} 倍",
            ),
            min(relu) > -ALLOWED_LOSS,
        ),
        Check(
            Text(
                f"tanh's gradient vanishes where tanh saturates: {flat[SHIFTED]:.0%} of its units with drawn biases, "
                f"{flat[CENTERED]:.0%} without",
                f"tanh 的梯度在其饱和处消失：偏置偏移时饱和单元占 {flat[SHIFTED]:.0%}，不偏移时占 {flat[CENTERED]:.0%}",
            ),
            flat[SHIFTED] > flat[CENTERED],
        ),
    )


def _build_table(profiles: Profiles, plan: Plan) -> Table:
    """Return one row for each case, with the decades lost at each depth."""
    deepest = plan.depths[-1]
    columns = (
        Column(Text("activation", "激活")),
        Column(Text("start", "起点")),
        Column(Text("saturated", "饱和"), ".0%"),
        Column(Text("factor a layer", "每层因子"), ".2f"),
        *(Column(Text(f"{depth} layers", f"{depth} 层"), ".1f") for depth in plan.depths),
        Column(Text("±", "±"), ".1f"),
    )
    rows = []
    for name, start in CASES:
        last = profiles[name, start, deepest]
        span = compute_interval([p.log10_gradient_ratio for p in last])
        means = _compute_means(profiles, name, start, plan)
        row: tuple[Cell, ...] = (
            name,
            STARTS[start],
            compute_interval([p.saturated for p in last]).mean,
            compute_interval([p.factor for p in last]).mean,
            *means,
            span.high - span.mean,
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(profiles: Profiles, depth: int, lang: Lang) -> Figure:
    """Draw the gradient's norm by layer, relative to the last hidden layer's, at both starts."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("Flat activations starve the first layers", "饱和的激活使前面的层得不到梯度"),
        Text(
            f"Gradient of a layer's weights relative to the last layer's; {depth} layers, real digits.",
            f"各层权重的梯度范数，相对于最后一层；{depth} 层，真实手写数字。",
        ),
        lang=lang,
    )
    titles = {CENTERED: Text("zero biases", "偏置为零"), SHIFTED: Text("biases drawn from N(0, 1)", "偏置取自 N(0, 1)")}
    low = min(min(p.norms) / p.norms[-1] for key, ps in profiles.items() if key[2] == depth for p in ps)
    for panel, (start, title) in enumerate(titles.items()):
        axes = figure.add_axes((0.105 + 0.465 * panel, 0.145, 0.42, 0.60))
        axes.set_title(title.of(lang), loc="left")
        axes.set(yscale="log", xlim=(0, depth + 1), ylim=(low / 30, 300), xticks=[1, *range(10, depth + 1, 10)])
        axes.set_xlabel(Text("layer, from the input", "层（从输入起）").of(lang))
        if panel:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel(Text("relative gradient norm", "相对梯度范数").of(lang))
        for name, color in (("relu", GREEN), ("tanh", BLUE), ("sigmoid", VERMILION)):
            _draw_line(axes, profiles[name, start, depth], color=color)
            _label_line(
                axes, profiles[name, start, depth], name, color=color, above=name == "relu" and start == CENTERED
            )
    return figure


def _compute_relative_norms(profiles: list[GradientProfile]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return each seed's norms over its last layer's, (seeds, L)."""
    return np.array([np.array(p.norms) / p.norms[-1] for p in profiles])


def _draw_line(axes: Axes, profiles: list[GradientProfile], *, color: str) -> None:
    """Draw the geometric mean over seeds, in the band from the least to the most."""
    curves = _compute_relative_norms(profiles)
    layers = np.arange(1, curves.shape[1] + 1)
    axes.fill_between(layers, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
    axes.plot(layers, np.exp(np.log(curves).mean(0)), color=color)


def _label_line(axes: Axes, profiles: list[GradientProfile], name: str, *, color: str, above: bool) -> None:
    """Write the activation's name near the first layers, above or below its line."""
    text = {"relu": "ReLU"}.get(name, name)
    value = float(np.exp(np.log(_compute_relative_norms(profiles)).mean(0))[3])
    add_label(axes, (4.5, value * (30 if above else 1 / 40)), text, color=color)


LAB = Lab(
    name="vanishing-depth",
    claim_id="C07",
    title=Text(
        "sigmoid and tanh saturate and the gradient vanishes with depth; ReLU does not",
        "sigmoid 与 tanh 会饱和，梯度随深度消失；ReLU 不会",
    ),
    claim=Text(
        "Sigmoid and tanh flatten out where their input is large; there the gradient is small, and through "
        "many layers it "
        "vanishes. ReLU's slope is exactly 1 wherever a unit is active, so the gradient survives.",
        "输入较大时，sigmoid 与 tanh 趋于平坦，斜率很小；经过许多层后，梯度就消失了。ReLU "
        "在单元激活时斜率恒为 1，梯度得以保留。",
    ),
    formula=Text(
        "∂L/∂a⁽ˡ⁻¹⁾ = W⁽ˡ⁾ᵀ(f′(z⁽ˡ⁾) ⊙ ∂L/∂a⁽ˡ⁾)      factor a layer ≈ √(D · Var w · E f′²)\n"
        "sigmoid f′ ≤ ¼,  tanh f′ ≤ 1,  ReLU f′ ∈ {0, 1}",
        "∂L/∂a⁽ˡ⁻¹⁾ = W⁽ˡ⁾ᵀ(f′(z⁽ˡ⁾) ⊙ ∂L/∂a⁽ˡ⁾)      每层因子 ≈ √(D · Var w · E f′²)\nsigmoid f′ ≤ ¼，tanh "
        "f′ ≤ 1，ReLU f′ ∈ {0, 1}",
    ),
    method=Text(
        "Multilayer perceptrons of 64 units a layer, untrained, on a batch of real handwritten digits (scikit-learn's, "
        "standardized), float64. Each activation has the weights made for it: Glorot's for sigmoid and tanh, "
        "He's for ReLU. "
        "The numbers under the depths are log₁₀ of ‖∂L/∂W‖ in the first layer over that in the last hidden "
        "layer: −6 is a "
        "millionth; ± is the interval of the last. Saturated: the share of units with f′ below a tenth of "
        "its largest value "
        "(for ReLU: switched off, f′ = 0). Biases start at zero, or are drawn from N(0, 1), which pushes tanh off its "
        "straight part; or the weights are three times as large.",
        "每层 64 个单元的多层感知机，未经训练，输入一批真实手写数字（scikit-learn 的 digits，已标准化），float64。"
        "每种激活都用为其设计的权重初始化：sigmoid 与 tanh 用 Glorot，ReLU 用 He。"
        "各深度下的数是首层 ‖∂L/∂W‖ 与最后一个隐藏层之比的 log₁₀：−6 即百万分之一；± 为最后一列的区间半宽。"
        "饱和：f′ 低于其最大值十分之一的单元所占比例（对 ReLU 即关闭，f′ = 0）。"
        "偏置为零，或取自 N(0, 1)（使 tanh 离开其近似线性的部分），或将权重放大三倍。",
    ),
    margin=Text(
        "by how many powers of ten the gradient falls further than ReLU's at the same start, at the greatest "
        "depth: the least of "
        "sigmoid at both starts and tanh with drawn biases",
        "在最大深度、相同起点下，梯度比 ReLU 多缩小的数量级（以十的幂计）：取 sigmoid 两种起点与 tanh "
        "偏置偏移三者中的最小值",
    ),
    held=Text(
        "The claim holds, with a limit that the table shows. Sigmoid loses the gradient from any start, "
        "saturated or not: "
        "its slope is a quarter at best. Tanh loses it where it saturates and the weights do not make up for "
        "it; on its "
        "straight part, with Glorot's weights and zero biases, it keeps the gradient; and with weights three "
        "times as large "
        "it saturates most, yet the gradient grows, for the weights outweigh the small slopes. ReLU, half of "
        "whose units "
        "are off, keeps the gradient at both starts: He's factor 2 makes up for the half, wherever the biases lie.",
        "论断成立，但表中也显示了它的界限。sigmoid 无论起点如何、是否饱和，都会丢失梯度：其斜率至多四分之一。"
        "tanh 在饱和且权重不足以弥补时丢失梯度；在近似线性的部分（Glorot 权重、零偏置）则能保住梯度；"
        "权重放大三倍时饱和最严重，梯度反而增大，因为大权重盖过了小斜率。"
        "ReLU 虽有一半单元关闭，却在两种起点下都保住梯度：He 初始化的因子 2 恰好补上这一半，与偏置在何处无关。",
    ),
    refuted=Text(
        "Here the claim did not hold: the gradient did not vanish where it should, or ReLU did not keep it. "
        "Look at the checks.",
        "此处论断不成立：梯度没有在应当消失之处消失，或者 ReLU 没有保住梯度。请看各项检查。",
    ),
    experiment=measure,
)

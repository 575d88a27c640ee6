"""C08: ReLU units can die.

``N`` examples, ``D`` inputs, ``H`` hidden units. A. L. Maas, A. Y. Hannun, A. Y. Ng, Rectifier nonlinearities improve
neural network acoustic models (2013); L. Lu et al., Dying ReLU and initialization (2020). The one idea: where ReLU is
off its slope is 0, so a unit that one large step has switched off for every example gets no gradient from any of them,
and stays where it is for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
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

HIDDEN, BATCH = 64, 32
USUAL, LARGE, HUGE = (
    0.1,
    1.0,
    3.0,
)  # steps: an everyday one, one with which the network still learns well, one that wrecks it
MANY, FEW = 0.1, 0.02  # the share that must die with the large step, and that may die with the usual one


@dataclass(frozen=True)
class Plan:
    """How much to do: data set, seeds, steps η, epochs with each of them, epochs with the usual step afterwards, the
    step that decides."""

    data: str
    seeds: int
    rates: tuple[float, ...]
    epochs: int
    rescue: int
    large: float = LARGE


PLANS: dict[Mode, Plan] = {
    "quick": Plan("digits", 6, (USUAL, LARGE, HUGE), 3, 5),
    "normal": Plan("digits", 10, (0.01, 0.03, USUAL, 0.3, LARGE, HUGE), 10, 20),
    "full": Plan("fashion-mnist", 5, (0.01, 0.03, USUAL, 0.3, LARGE, HUGE), 5, 10, HUGE),
}


@dataclass(frozen=True)
class History:
    """One network's training.

    Args:
        dead: the share of dead units before the first epoch and after each.
        off: the share of units with z ≤ 0 on every example at the end; with ReLU these are the dead.
        accuracy: on the test part, before the first epoch and after each.
        returned: how many units were dead after one epoch and not after the next.
        moved: how many units' incoming weights changed in an epoch that began and ended with them dead.
    """

    dead: tuple[float, ...]
    off: float
    accuracy: tuple[float, ...]
    returned: int
    moved: int


@dataclass(frozen=True)
class SeedResult:
    """The trainings of one seed: with each step, and with the usual step from the network that the largest step
    wrecked."""

    histories: dict[float, History]
    rescued: History
    leaky: History


def build_network(features: int, outputs: int, *, activation: str, seed: int) -> nn.Sequential:
    """Return an mlp with one hidden layer. Its inputs are the data, so a dead unit's inputs never change."""
    with rng.use_seed(rng.derive_seed("dying-relu", seed)):
        net = mlp(features=features, outputs=outputs, hidden=(HIDDEN,), activation=activation)
    assert isinstance(net, nn.Sequential)
    return net


@torch.no_grad()
def compute_preactivations(net: nn.Sequential, inputs: Tensor) -> Tensor:
    """Return the hidden units' pre-activations z (N, H) for inputs (N, …)."""
    z: Tensor = net[1](net[0](inputs))
    return z


def find_dead_units(net: nn.Sequential, inputs: Tensor) -> Tensor:
    """Return a mask of the hidden units whose derivative is f′(z) = 0 on every example, (H,) bool. Inputs are (N,
    …)."""
    z = compute_preactivations(net, inputs).requires_grad_()
    slope = torch.autograd.grad(net[2](z).sum(), z)[0]
    return (slope == 0).all(0)


def train_network(net: nn.Sequential, data: SplitBatches, *, rate: float, epochs: int, seed: int) -> History:
    """Train a network by plain gradient descent with step η, and count its dead units after each epoch.

    A loss that is not finite ends the training; the last values are repeated for the remaining epochs.
    """
    options = BackpropOptions(optimizer="sgd", lr=rate)
    states, weights = [find_dead_units(net, data.train.input_tensor)], [_copy_incoming_weights(net)]
    accuracies = [compute_metrics(net, data.task, data.test)["accuracy"]]
    with suppress(NonFiniteLoss):
        for event in train_steps(
            net, data.task, data.train, options=options, epochs=epochs, batch_size=BATCH, seed=seed
        ):
            if event.verdict is not None:
                states.append(find_dead_units(net, data.train.input_tensor))
                weights.append(_copy_incoming_weights(net))
                accuracies.append(compute_metrics(net, data.task, data.test)["accuracy"])
    returned = sum(int((a & ~b).sum()) for a, b in pairwise(states))
    both = [a & b for a, b in pairwise(states)]
    moved = sum(
        int(((v != w).any(1) & still_dead).sum()) for (v, w), still_dead in zip(pairwise(weights), both, strict=True)
    )
    shares = [float(state.double().mean()) for state in states]
    missing = epochs + 1 - len(shares)
    off = float((compute_preactivations(net, data.train.input_tensor) <= 0).all(0).double().mean())
    return History((*shares, *shares[-1:] * missing), off, (*accuracies, *accuracies[-1:] * missing), returned, moved)


def _copy_incoming_weights(net: nn.Sequential) -> Tensor:
    """Return a copy of each hidden unit's weights and bias, (H, D + 1)."""
    hidden = net[1]
    assert isinstance(hidden, nn.Linear)
    return torch.cat([hidden.weight.detach(), hidden.bias.detach()[:, None]], 1)


def run_seed(plan: Plan, seed: int, activation: str) -> SeedResult:
    """Train one seed's network with each step, then from the last with the usual step, unchanged and with a leaky
    slope."""
    data = load_batches(plan.data, seed=seed)
    features, outputs = data.train.input_tensor[0].numel(), len(data.task.classes)
    build = partial(build_network, features, outputs, seed=seed)
    histories = {}
    for rate in plan.rates:
        net = build(activation=activation)
        histories[rate] = train_network(net, data, rate=rate, epochs=plan.epochs, seed=seed)
    after = []
    for slope in (activation, "leaky-relu"):  # no parameters of its own, so the weights fit either
        rescued = build(activation=slope)
        rescued.load_state_dict(net.state_dict())
        after.append(train_network(rescued, data, rate=USUAL, epochs=plan.rescue, seed=seed))
    return SeedResult(histories, *after)


def measure(mode: Mode, *, activation: str = "relu", plan: Plan | None = None) -> Findings:
    """Train with steps of several sizes, seed by seed, and count the units that died.

    Args:
        mode: how many seeds, steps and epochs, on which data.
        activation: of the hidden layer; another one than relu is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    with use_one_thread():
        results = [run_seed(plan, seed, activation) for seed in range(plan.seeds)]
    margins = tuple(_compute_died_share(s.histories[plan.large]) for s in results)
    return Findings(margins, MANY, _build_checks(results), _build_table(results, plan), partial(_draw, results, plan))


def _compute_died_share(history: History) -> float:
    """Return the share of units that died while training."""
    return history.dead[-1] - history.dead[0]


def _build_checks(results: Sequence[SeedResult]) -> tuple[Check, ...]:
    """Return the checks: death is permanent, it comes of large steps, and of the slope 0."""
    histories = [history for s in results for history in (*s.histories.values(), s.rescued)]
    returned, moved = sum(history.returned for history in histories), sum(history.moved for history in histories)
    usual = compute_interval([_compute_died_share(s.histories[USUAL]) for s in results]).mean
    gain = compute_interval([s.leaky.accuracy[-1] - s.rescued.accuracy[-1] for s in results])
    return (
        Check(
            Text(
                f"the dead stay dead: {returned} came back, and {moved} had a weight changed by an epoch",
                f"死亡是永久的：恢复的单元 {returned} 个，权重在一轮训练中有变化的死亡单元 {moved} 个",
            ),
            returned == moved == 0,
        ),
        Check(
            Text(
                f"with the everyday step η = {USUAL:g} fewer than {FEW:.0%} die ({usual:.1%})",
                f"用日常步长 η = {USUAL:g} 时，死亡的单元不到 {FEW:.0%}（{usual:.1%}）",
            ),
            usual < FEW,
        ),
        Check(
            Text(
                "it is the slope 0: from the same wrecked weights, a slope of 0.01 learns again, by "
                f"{100 * gain.mean:.0f} points "
                f"of test accuracy more [{100 * gain.low:.0f}, {100 * gain.high:.0f}]",
                "原因在于斜率为 0：从同样被毁坏的权重出发，把斜率改为 0.01 就能重新学习，测试准确率高出 "
                f"{100 * gain.mean:.0f} "
                f"个百分点 [{100 * gain.low:.0f}, {100 * gain.high:.0f}]",
            ),
            gain.low > 0,
        ),
    )


def _build_table(results: Sequence[SeedResult], plan: Plan) -> Table:
    """Return one row for each step, and two for what follows the largest."""
    columns = (
        Column(Text("training", "训练")),
        Column(Text("epochs", "轮数"), "d"),
        Column(Text("dead at start", "起始死亡"), ".1%"),
        Column(Text("dead at end", "结束死亡"), ".1%"),
        Column(Text("±", "±"), ".1%"),
        Column(Text("off at end", "结束时关闭"), ".1%"),
        Column(Text("test accuracy", "测试准确率"), ".1%"),
    )

    def build_row(name: Text | str, histories: list[History]) -> tuple[Cell, ...]:
        last = compute_interval([history.dead[-1] for history in histories])
        values = [(history.dead[0], history.off, history.accuracy[-1]) for history in histories]
        first, off, right = (float(np.mean(v)) for v in zip(*values, strict=True))
        return (name, len(histories[0].dead) - 1, first, last.mean, last.high - last.mean, off, right)

    rows = [build_row(f"η = {rate:g}", [s.histories[rate] for s in results]) for rate in plan.rates]
    rescue = f"η = {plan.rates[-1]:g} → {USUAL:g}"
    rows.append(build_row(Text(f"{rescue}, ReLU", f"{rescue}，ReLU"), [s.rescued for s in results]))
    rows.append(build_row(Text(f"{rescue}, leaky", f"{rescue}，带泄漏"), [s.leaky for s in results]))
    return Table(columns, tuple(rows))


def _draw(results: Sequence[SeedResult], plan: Plan, lang: Lang) -> Figure:
    """Draw the dead by step, and the accuracy that comes back with a leaky slope only."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("One step too large, and ReLU units die for good", "一步迈得太大，ReLU 单元就永久死亡"),
        Text(
            f"{HIDDEN} hidden units, real images ({plan.data}), {len(results)} seeds. Bands: all seeds.",
            f"{HIDDEN} 个隐藏单元，真实图像（{plan.data}），{len(results)} 个种子。色带：所有种子。",
        ),
        lang=lang,
    )
    left, right = figure.add_axes((0.09, 0.145, 0.385, 0.60)), figure.add_axes((0.575, 0.145, 0.40, 0.60))
    _draw_by_step(left, results, plan, lang)
    _draw_by_epoch(right, results, plan, lang)
    return figure


def _draw_band(axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], *, color: str) -> None:
    """Draw the mean over seeds of values (seeds, points), in the band from the least to the most."""
    table = np.array(values)
    axes.fill_between(x, table.min(0), table.max(0), color=color, alpha=0.2, linewidth=0)
    axes.plot(x, table.mean(0), color=color, marker="o" if len(x) < 8 else None, markersize=7)


def _draw_by_step(axes: Axes, results: Sequence[SeedResult], plan: Plan, lang: Lang) -> None:
    """Draw the share of dead units after training, against the step."""
    _draw_band(
        axes, plan.rates, [[s.histories[rate].dead[-1] for rate in plan.rates] for s in results], color=VERMILION
    )
    axes.set_title(Text("dead units after training", "训练后死亡的单元").of(lang), loc="left")
    axes.set(xscale="log", ylim=(-0.03, 1.05), xticks=plan.rates, xticklabels=[f"{rate:g}" for rate in plan.rates])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(Text("step size η", "步长 η").of(lang))


def _draw_by_epoch(axes: Axes, results: Sequence[SeedResult], plan: Plan, lang: Lang) -> None:
    """Draw test accuracy over the epochs: the wrecking step, then the usual one with either slope."""
    wreck, wrecking = plan.epochs, plan.rates[-1]
    after = range(wreck, wreck + plan.rescue + 1)
    _draw_band(axes, range(wreck + 1), [s.histories[wrecking].accuracy for s in results], color=MUTED)
    _draw_band(axes, after, [s.leaky.accuracy for s in results], color=BLUE)
    _draw_band(axes, after, [s.rescued.accuracy for s in results], color=VERMILION)
    axes.axvline(wreck, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_title(Text("test accuracy, once all are dead", "全部死亡之后的测试准确率").of(lang), loc="left")
    axes.set(ylim=(-0.03, 1.05), xlim=(0, after[-1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel(Text("epoch", "轮").of(lang))
    add_label(axes, (wreck / 2, 0.985), f"η = {wrecking:g}", color=MUTED, align="center")
    middle = wreck + plan.rescue / 2
    add_label(
        axes, (middle, 0.985), Text(f"then η = {USUAL:g}", f"随后 η = {USUAL:g}").of(lang), color=MUTED, align="center"
    )
    end = after[-1] * 0.985
    add_label(axes, (wreck + 0.02 * end, 0.87), Text("slope 0.01 (leaky)", "斜率 0.01（带泄漏）").of(lang), color=BLUE)
    add_label(axes, (end, 0.04), Text("slope 0 (ReLU)", "斜率 0（ReLU）").of(lang), color=VERMILION, align="right")


LAB = Lab(
    name="dying-relu",
    claim_id="C08",
    title=Text("ReLU units can die", "ReLU 单元会死亡"),
    claim=Text(
        "A ReLU unit that is off for every example has slope 0 everywhere, so it gets no gradient and never "
        "learns again: it "
        "is dead. Large steps kill units.",
        "若一个 ReLU 单元对所有样本都关闭，其斜率处处为 0，便得不到任何梯度，再也学不到东西：它死了。"
        "步长过大会杀死单元。",
    ),
    formula=Text(
        "a = max(0, z),  z = w·x + b       dead: zₙ ≤ 0 for all n\n"
        "∂L/∂w = Σₙ ∂L/∂aₙ · [zₙ > 0] · xₙ = 0        leaky: [zₙ > 0] + 0.01 · [zₙ ≤ 0]",
        "a = max(0, z)，z = w·x + b        死亡：对所有 n 有 zₙ ≤ 0\n"
        "∂L/∂w = Σₙ ∂L/∂aₙ · [zₙ > 0] · xₙ = 0        带泄漏：[zₙ > 0] + 0.01 · [zₙ ≤ 0]",
    ),
    method=Text(
        f"One hidden layer of {HIDDEN} ReLU units learns real images (scikit-learn's digits; fashion-mnist "
        "in the full form) by "
        f"plain gradient descent, batches of {BATCH}, with steps η of several sizes from the same start. "
        "After each epoch a unit "
        "counts as dead if f′(z) = 0 on every training example; off: z ≤ 0 on every one. The network that "
        "the largest step "
        f"leaves behind then goes on with η = {USUAL:g}, from the same weights, once as it is and once with "
        "the slope 0.01 where "
        "ReLU has 0 (leaky). ± is the interval of the dead at the end. Steps and bounds were fixed after "
        "one trial run on "
        f"other draws; that η = {HUGE:g} decides on fashion-mnist, after a run in which η = {LARGE:g} killed "
        "10% [1%, 18%] there and "
        "wrecked the network.",
        f"一个含 {HIDDEN} 个 ReLU 单元的隐藏层学习真实图像（scikit-learn 的 digits；完整形式用 "
        "fashion-mnist），用普通梯度下降，"
        f"批量 {BATCH}，从同一起点出发，分别用几种步长 η。每轮之后，若某单元在所有训练样本上 f′(z) = 0，则计为死亡；"
        f"若在所有样本上 z ≤ 0，则计为关闭。最大步长留下的网络再以 η = {USUAL:g} 从同样的权重继续训练：一次保持原样，"
        "一次把 ReLU 斜率为 0 的一侧改为 0.01（带泄漏）。± 为结束时死亡比例的区间半宽。"
        f"步长与界限在一次试运行（用别的随机数）之后确定；在 fashion-mnist 上由 η = {HUGE:g} 判定，"
        f"则是因为一次运行中 η = {LARGE:g} 杀死 10% [1%, 18%] 的单元，并已毁坏网络。",
    ),
    margin=Text(
        f"the share of hidden units that die while training with η = {LARGE:g} ({HUGE:g} in the full form)",
        f"以 η = {LARGE:g}（完整形式为 {HUGE:g}）训练期间死亡的隐藏单元所占比例",
    ),
    held=Text(
        "ReLU units do die, and for good: none came back, none of their weights moved. But it takes a large "
        "step. With everyday "
        f"steps hardly a unit dies, and on the digits with η = {LARGE:g} the network does well without its "
        "dead. Only where all "
        "are dead is learning over. From those very weights a leaky slope learns again, though most units "
        "stay off: it learns on the "
        "leaky side. That death is for good holds for a first layer and plain gradient descent; deeper units "
        "may wake when "
        "the layers below them change.",
        "ReLU 单元确实会死亡，而且是永久的：没有一个恢复，它们的权重也一个都没有变过。但这需要很大的步长："
        "日常步长下几乎没有单元死亡；"
        f"在 digits 上 η = {LARGE:g} 时虽有不少死亡，其余单元仍足以胜任。只有全部死亡时，学习才告终结。"
        "从同样的权重出发，"
        "带泄漏的斜率又能重新学习，尽管多数单元仍然关闭：它是在泄漏的一侧学习。"
        "“永久死亡”对第一层与普通梯度下降成立；更深层的单元，"
        "若其下方的层发生变化，仍可能醒来。",
    ),
    refuted=Text(
        "Here the claim did not hold: units did not die with the large step, or the dead came back. Look at "
        "the checks.",
        "此处论断不成立：大步长下单元没有死亡，或死亡的单元又恢复了。请看各项检查。",
    ),
    experiment=measure,
)

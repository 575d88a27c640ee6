"""C09: the mean absolute error shrugs off outliers, the mean squared error does not.

``N`` examples, ``D`` inputs. A. M. Legendre (1805), least squares; R. J. Boscovich (1757), P.-S. Laplace (1793), least
absolute deviations; P. J. Huber, Robust estimation of a location parameter (1964). The one idea: the squared error
pulls with a force in proportion to the error, the absolute error with the same force however large it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from torch import nn

from layerwise.data.batch import Batch
from layerwise.data.load import Options, load_splits
from layerwise.data.loader import collate_source
from layerwise.data.source import ArraySource, Source, fetch
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
from layerwise.labs.training import compute_metrics, train_steps
from layerwise.models.feedforward import mlp
from layerwise.plotting.svg import MUTED
from layerwise.rules.backprop import BackpropOptions
from layerwise.runtime import rng
from layerwise.tasks.regression import Regression

Floats = NDArray[np.float64]
Error = Literal["mse", "mae"]
Where = Literal["targets", "both"]
ERRORS: tuple[Error, Error] = ("mse", "mae")
DATA, COLUMN = "diabetes", 2  # the column of inputs that may go wild too: the body mass index, which tells most
SHARE, FAR = 0.1, 10.0  # the case that decides: a tenth of the targets, ten standard deviations off
GAP, SHRUG, CLOSE = (
    0.2,
    0.1,
    0.02,
)  # least gap between the losses; most that MAE may suffer; how near training must come to the optimum


@dataclass(frozen=True)
class Case:
    """The outliers in the training data: where, in which share of the examples, by how many standard deviations.

    ``targets``: only targets are outliers; ``both``: an input of the same examples is off by as much.
    """

    where: Where
    share: float
    far: float = FAR


CLEAN, DECIDING = Case("targets", 0.0), Case("targets", SHARE)
FARTHER, LEVERAGE = Case("targets", SHARE, 10 * FAR), Case("both", SHARE)


@dataclass(frozen=True)
class Plan:
    """How much to do: seeds, steps of training, further shares of outliers, and whether all cases train a hidden
    layer."""

    seeds: int
    steps: int
    shares: tuple[float, ...]
    everywhere: bool = True

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases, as the table has them."""
        return (CLEAN, *(Case("targets", share) for share in sorted({*self.shares, SHARE})), FARTHER, LEVERAGE)


PLANS: dict[Mode, Plan] = {
    "quick": Plan(4, 150, (0.6,), everywhere=False),
    "normal": Plan(10, 300, (0.02, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6)),
    "full": Plan(50, 600, (0.02, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6)),
}


@dataclass(frozen=True)
class Fit:
    """The results of training with one error, as RMSE on clean test examples, in the target's unit.

    Args:
        linear: of the trained linear network.
        exact: of the best linear network: least squares or least absolute deviations.
        gap: the relative excess of the trained one's training error over the best one's.
        deep: of a trained network with a hidden layer; NaN where none was trained.
    """

    linear: float
    exact: float
    gap: float
    deep: float


Trial = dict[tuple[Case, Error], Fit]


def add_outliers(source: Source, case: Case, seed: int) -> ArraySource:
    """Return the examples with a share of outliers: too large by ``far`` standard deviations.

    The seed draws the examples; a larger share includes those of a smaller one.
    """
    examples = fetch(source, np.arange(len(source)))
    assert isinstance(examples.inputs, np.ndarray)
    assert examples.targets is not None
    inputs, targets = examples.inputs.astype(np.float64), examples.targets.astype(np.float64)  # copies
    rows = rng.make_numpy_generator("outliers", seed).permutation(len(targets))[: round(case.share * len(targets))]
    targets[rows] += case.far * targets.std()
    if case.where == "both":
        inputs[rows, COLUMN] += case.far * inputs[:, COLUMN].std()
    return ArraySource(source.schema, inputs, targets, "spoiled")


def solve_least_squares(x: Floats, y: Floats) -> Floats:
    """Return the w (D,) that minimizes Σ(y − x·w)². Inputs are (N, D)."""
    solution: Floats = np.asarray(np.linalg.lstsq(x, y)[0], dtype=np.float64)
    return solution


def solve_least_absolute(x: Floats, y: Floats) -> Floats:
    """Return a w (D,) that minimizes Σ|y − x·w|, by the dual linear program, which is small: max y·a with xᵀa = 0, −1 ≤
    a ≤ 1.

    The multipliers of its D equations are w.
    """
    from scipy.optimize import linprog  # comes with scikit-learn; slow to import

    solution = linprog(-y, A_eq=x.T, b_eq=np.zeros(x.shape[1]), bounds=(-1, 1))
    return -np.asarray(solution.eqlin.marginals, dtype=np.float64)


def build_best_network(error: Error, data: Batch) -> nn.Sequential:
    """Return the linear network with the least possible error on a batch, computed without training."""
    assert data.targets is not None
    x = np.hstack([data.input_tensor.double().numpy(), np.ones((len(data), 1))])
    solve = solve_least_squares if error == "mse" else solve_least_absolute
    w = torch.from_numpy(solve(x, data.target_tensor[:, 0].double().numpy())).float()
    net = build_network(x.shape[1] - 1, (), 0)
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (w[None, :-1], w[-1:]), strict=True):
            parameter.copy_(value)
    return net


def build_network(features: int, hidden: tuple[int, ...], seed: int) -> nn.Sequential:
    """Return Layerwise's mlp for one number."""
    with rng.use_seed(rng.derive_seed("outliers", seed)):
        net = mlp(features=features, outputs=1, hidden=hidden)
    assert isinstance(net, nn.Sequential)
    return net


def fit(error: Error, train: ArraySource, test: Source, *, steps: int, seed: int, deep: bool) -> Fit:
    """Train the linear network and, if ``deep``, the deeper one with one error, full batch, and compute the best
    linear one."""
    task = Regression.prepare(train, Regression.Options(loss=error))
    data, clean = (collate_source(source, task.collate, 1) for source in (train, test))
    networks = []
    for hidden, rate in (((), 0.2), ((16,), 0.01))[: 1 + deep]:
        net = build_network(data.input_tensor.shape[1], hidden, seed)
        options = BackpropOptions(optimizer="adam", lr=rate, schedule="cosine")
        for _ in train_steps(net, task, data, options=options, epochs=steps, batch_size=len(data), seed=seed):
            pass
        networks.append(net)
    exact = build_best_network(error, data)
    with torch.no_grad():
        loss, best_loss = (float(task.objective(net, data).total) for net in (networks[0], exact))
    errors = [compute_metrics(net, task, clean)["rmse"] for net in (networks[0], exact, *networks[1:])]
    return Fit(errors[0], errors[1], loss / best_loss - 1, errors[2] if deep else math.nan)


def run_trial(plan: Plan, seed: int, errors: dict[Error, Error]) -> Trial:
    """Fit every case with both errors; ``errors`` maps each role to its error."""
    splits = load_splits(Options(DATA), seed=seed)
    fits: Trial = {}
    for case in plan.cases:
        train = add_outliers(splits.train, case, seed)
        deep = plan.everywhere or case in (CLEAN, DECIDING)
        for role, error in errors.items():
            fits[case, role] = fit(error, train, splits.test, steps=plan.steps, seed=seed, deep=deep)
    return fits


def measure(mode: Mode, *, errors: dict[Error, Error] | None = None, plan: Plan | None = None) -> Findings:
    """Fit clean and spoiled training data with both errors, seed by seed, and judge on clean test data.

    Args:
        mode: how many seeds, steps and shares.
        errors: the error of each role; an exchanged one is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    errors = errors or {"mse": "mse", "mae": "mae"}
    with use_one_thread():
        trials = [run_trial(plan, seed, errors) for seed in range(plan.seeds)]
    margins = tuple(_compute_harm(t, "mse") - _compute_harm(t, "mae") for t in trials)
    return Findings(margins, GAP, _build_checks(trials), _build_table(trials, plan), partial(_draw, trials, plan))


def _compute_harm(fits: Trial, error: Error, *, deep: bool = False) -> float:
    """Return the relative excess of the deciding case's test error over that without outliers, after training."""
    spoiled, clean = fits[DECIDING, error], fits[CLEAN, error]
    return (spoiled.deep / clean.deep if deep else spoiled.linear / clean.linear) - 1


def _compute_excess(fits: Trial, case: Case, error: Error) -> float:
    """Return how much test error a case adds to the best linear network, in the target's unit."""
    return fits[case, error].exact - fits[CLEAN, error].exact


def _build_checks(trials: Sequence[Trial]) -> tuple[Check, ...]:
    """Return the checks: MAE suffers little, however far the outliers; training reaches the optimum; the same with
    a hidden layer."""
    suffered = compute_interval([_compute_harm(t, "mae") for t in trials])
    growth = compute_interval(
        [_compute_excess(t, FARTHER, "mse") / _compute_excess(t, DECIDING, "mse") for t in trials]
    ).mean
    still = max(abs(t[FARTHER, "mae"].exact / t[DECIDING, "mae"].exact - 1) for t in trials)
    gap = max(fit.gap for t in trials for fit in t.values())
    deep = compute_interval([_compute_harm(t, "mse", deep=True) - _compute_harm(t, "mae", deep=True) for t in trials])
    return (
        Check(
            Text(
                f"MAE shrugs: with {SHARE:.0%} of the targets wild its test error grows by "
                f"{suffered.mean:.1%}, at most {SHRUG:.0%} by the "
                f"interval's upper end ({suffered.high:.1%})",
                f"MAE 几乎不受影响：{SHARE:.0%} 的目标异常时，其测试误差增加 {suffered.mean:.1%}，"
                f"区间上端（{suffered.high:.1%}）不超过 {SHRUG:.0%}",
            ),
            suffered.high <= SHRUG,
        ),
        Check(
            Text(
                f"outliers ten times as far: the harm to least squares grows {growth:.1f}-fold, least "
                "absolute deviations change by "
                f"{still:.2%} at most",
                f"异常值再远十倍：最小二乘受到的损害增至 {growth:.1f} 倍，最小绝对偏差至多变化 {still:.2%}",
            ),
            growth > 5 and still < 0.01,
        ),
        Check(
            Text(
                f"training finds the best line there is: its error is at most {gap:.1%} above that by least "
                "squares or linear programming",
                f"训练找到了最优直线：其误差比最小二乘或线性规划的最优值至多高 {gap:.1%}",
            ),
            gap < CLOSE,
        ),
        Check(
            Text(
                f"so it is with a hidden layer: MSE suffers by {100 * deep.mean:.0f} points more than MAE "
                f"[{100 * deep.low:.0f}, {100 * deep.high:.0f}]",
                f"带隐藏层的网络也是如此：MSE 比 MAE 多受损 {100 * deep.mean:.0f} 个百分点 "
                f"[{100 * deep.low:.0f}, {100 * deep.high:.0f}]",
            ),
            deep.low > GAP,
        ),
    )


def _describe_case(case: Case) -> Text | str:
    """Return the case in words."""
    if not case.share:
        return Text("none", "无")
    text = f"{case.share:.0%}, +{case.far:g} σ"
    return text if case.where == "targets" else Text(f"{text}, input too", f"{text}，输入亦然")


def _build_table(trials: Sequence[Trial], plan: Plan) -> Table:
    """Return one row for each case: the mean test error by either loss, of each kind of network."""
    heads = (
        ("MSE", "MSE"),
        ("least squares", "最小二乘"),
        ("MAE", "MAE"),
        ("least abs. dev.", "最小绝对偏差"),
        ("MSE, hidden layer", "MSE，隐藏层"),
        ("MAE, hidden layer", "MAE，隐藏层"),
    )
    columns = (Column(Text("wild targets", "异常目标")), *(Column(Text(*head), ".1f") for head in heads))
    rows = []
    for case in plan.cases:
        mse, mae = ([t[case, error] for t in trials] for error in ERRORS)
        values = (
            [f.linear for f in mse],
            [f.exact for f in mse],
            [f.linear for f in mae],
            [f.exact for f in mae],
            [f.deep for f in mse],
            [f.deep for f in mae],
        )
        row: tuple[Cell, ...] = (
            _describe_case(case),
            *(None if math.isnan(v[0]) else float(np.mean(v)) for v in values),
        )
        rows.append(row)
    return Table(columns, tuple(rows))


def _draw(trials: Sequence[Trial], plan: Plan, lang: Lang) -> Figure:
    """Draw both losses' lines through spoiled data, and the test error by the share of outliers."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("One tenth wild readings: MSE follows them, MAE does not", "十分之一的读数异常：MSE 被带偏，MAE 不受影响"),
        Text(
            f"Real data (diabetes), wild targets {FAR:g} standard deviations too large. Bands: all of "
            f"{len(trials)} seeds.",
            f"真实数据（diabetes），异常目标偏大 {FAR:g} 个标准差。色带：全部 {len(trials)} 个种子。",
        ),
        lang=lang,
    )
    _draw_lines(figure.add_axes((0.095, 0.145, 0.385, 0.60)), lang)
    _draw_by_share(figure.add_axes((0.585, 0.145, 0.39, 0.60)), trials, plan, lang)
    return figure


def _draw_lines(axes: Axes, lang: Lang) -> None:
    """Draw one seed's spoiled training data, by body mass index, with the best line of either loss."""
    data = add_outliers(load_splits(Options(DATA), seed=0).train, DECIDING, 0)
    assert data.targets is not None
    x, y = np.asarray(data.inputs)[:, COLUMN], data.targets
    axes.plot(x, y, ".", color=MUTED, alpha=0.5, markersize=5)
    ends = np.array([x.min(), x.max()])
    both = np.stack([x, np.ones_like(x)], 1)
    for solve, color, name, up in ((solve_least_squares, VERMILION, "MSE", 1), (solve_least_absolute, BLUE, "MAE", -1)):
        slope, level = solve(both, y)
        axes.plot(ends, slope * ends + level, color=color, linewidth=3)
        add_label(axes, (ends[1], slope * ends[1] + level + 80 * up), name, color=color, align="right")
    axes.set_title(Text("the line through the data", "穿过数据的直线").of(lang), loc="left")
    axes.set_xlabel(Text("body mass index", "体质指数（BMI）").of(lang))
    axes.set_ylabel(Text("disease progression", "病情进展指标").of(lang))


def _draw_by_share(axes: Axes, trials: Sequence[Trial], plan: Plan, lang: Lang) -> None:
    """Draw the clean test error against the share of wild targets: trained as lines, the closed forms as rings."""
    cases = [case for case in plan.cases if case.where == "targets" and case.far == FAR]
    shares = [case.share for case in cases]
    for error, color in zip(ERRORS, (VERMILION, BLUE), strict=True):
        trained = np.array([[t[case, error].linear for case in cases] for t in trials])
        exact = np.array([[t[case, error].exact for case in cases] for t in trials])
        axes.fill_between(shares, trained.min(0), trained.max(0), color=color, alpha=0.2, linewidth=0)
        axes.plot(shares, trained.mean(0), color=color)
        axes.plot(
            shares, exact.mean(0), "o", markersize=9, markerfacecolor="none", markeredgecolor=color, markeredgewidth=1.6
        )
    axes.set(ylim=(0, None), xlim=(-0.01, shares[-1] * 1.03))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(Text("error on clean test data (RMSE)", "在干净测试数据上的误差（RMSE）").of(lang), loc="left")
    axes.set_xlabel(Text("share of wild training targets", "训练目标中异常值的比例").of(lang))
    top = axes.get_ylim()[1]
    add_label(axes, (0.02, top * 0.93), Text("lines: trained", "线：训练所得").of(lang), color=MUTED)
    add_label(axes, (0.02, top * 0.84), Text("rings: closed form", "圆圈：闭式解").of(lang), color=MUTED)
    add_label(axes, (0.14, top * 0.32), "MSE", color=VERMILION, align="right")
    add_label(axes, (0.2, top * 0.15), "MAE", color=BLUE)


LAB = Lab(
    name="outliers",
    claim_id="C09",
    title=Text("MAE shrugs off outliers, MSE does not", "MAE 几乎不受异常值影响，MSE 则不然"),
    claim=Text(
        "Trained by the mean absolute error, a network hardly notices a few wild targets. Trained by the "
        "mean squared error, it follows "
        "them.",
        "用平均绝对误差训练，网络几乎不理会少数异常目标；用均方误差训练，网络会被它们带偏。",
    ),
    formula=Text(
        "MSE = 1/n Σ(y−ŷ)²    ∂/∂ŷ = 2(ŷ−y)/n      best constant: the mean\n"
        "MAE = 1/n Σ|y−ŷ|     ∂/∂ŷ = sign(ŷ−y)/n   best constant: the median",
        "MSE = 1/n Σ(y−ŷ)²    ∂/∂ŷ = 2(ŷ−y)/n      最优常数：均值\n"
        "MAE = 1/n Σ|y−ŷ|     ∂/∂ŷ = sign(ŷ−y)/n   最优常数：中位数",
    ),
    method=Text(
        "Real data: diabetes, 442 patients, ten measurements, the disease's progression a year later. In "
        "the training part the seed "
        f"draws a share of patients whose target becomes {FAR:g} standard deviations (σ) too large. A linear "
        "network and one "
        "with 16 hidden units learn it by MSE and by MAE (Adam, full batch). The best linear network there is comes "
        "from least squares and from a linear "
        "program (least absolute deviations). All are judged on clean test data by the root mean squared "
        "error, MSE's own measure, in the "
        f"target's unit. The case that decides is {SHARE:.0%} at {FAR:g} σ. In the last row the body mass "
        "index of the same patients is "
        f"{FAR:g} σ too large as well. Bounds were fixed before the first run; the last row was chosen after "
        "a milder one showed no harm.",
        "真实数据 diabetes：442 名患者、十项测量值、一年后的病情进展。在训练部分，由种子抽取一定比例的患者，"
        f"将其目标加大 {FAR:g} "
        "个标准差（σ）。线性网络与带 16 个隐藏单元的网络分别用 MSE 与 MAE 学习（Adam，全批量）。"
        "最优的线性网络由最小二乘与线性规划（最小绝对偏差）求得。全部在干净的测试数据上以均方根误差（MSE "
        f"自己的尺度）评判，单位与目标相同。判定所用情形为 {SHARE:.0%}、{FAR:g} σ。"
        f"最后一行中，同一批患者的体质指数也加大 {FAR:g} σ。界限在首次运行之前确定；"
        "最后一行是在一种较温和的设置未见损害之后选定的。",
    ),
    margin=Text(
        "by how much more of its clean value the test error grows with MSE than with MAE, linear network, "
        f"{SHARE:.0%} of the targets "
        f"{FAR:g} σ off",
        f"线性网络、{SHARE:.0%} 的目标偏离 {FAR:g} σ 时，测试误差的相对增幅：MSE 的减去 MAE 的",
    ),
    held=Text(
        "The squared error's pull grows with the distance, so the harm to MSE grows with every σ; to MAE a "
        "wild target is one vote among "
        "many, however far. The table shows the limits. From about half of the targets on, MAE follows the "
        "outliers too, and "
        "then further than MSE. Where the outliers' inputs are wild as well, the line turns to reach them, "
        "and MAE is no "
        "shield. And with a hidden layer MAE is harmed by very far outliers: they blow up the σ by which targets are "
        "standardized, so that all else is small in training.",
        "平方误差的拉力随距离增大，所以偏离越远，MSE 受损越重；对 MAE 而言，无论多远，一个异常目标只是众多票中的一票。"
        "表中也显示了界限：异常目标约达一半时，MAE 同样被带走，且比 MSE 走得更远；若异常样本的输入也异常，"
        "直线会转过去迁就它们，"
        "MAE 便起不到保护作用；带隐藏层时，极远的异常值也会损害 MAE：它们撑大了用来标准化目标的 σ，"
        "使其余部分在训练中显得微小。",
    ),
    refuted=Text(
        "Here the claim did not hold: MSE did not suffer from the outliers, or MAE did. Look at the checks.",
        "此处论断不成立：MSE 没有因异常值受损，或者 MAE 也受损了。请看各项检查。",
    ),
    experiment=measure,
)

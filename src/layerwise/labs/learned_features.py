"""C27: learned features beat hand-made ones (HOG + linear against a CNN) when data suffice.

``N`` examples. N. Dalal, B. Triggs (2005); A. Krizhevsky, I. Sutskever, G. E. Hinton (2012). The one idea: the same
linear layer reads
three descriptions of an image: its pixels, hand-designed histograms of edges, and maps that are learned with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from matplotlib.figure import Figure

from layerwise.labs import learning_curves
from layerwise.labs.base import Check, Findings, Lab, Lang, Mode, Text, compute_interval
from layerwise.labs.figures import BLUE, GREEN, ORANGE
from layerwise.labs.learning_curves import CurveConfig, Curves, Learner, Plan, compute_lead, format_points

FIELD = 12
LEARNERS: dict[str, Learner] = {
    "cnn": learning_curves.train_cnn,
    "hog": learning_curves.fit_linear_on_hog,
    "pixels": learning_curves.fit_linear,
}
NAMES = {
    "cnn": Text("learned (CNN)", "学习得到（CNN）"),
    "hog": Text("HOG + linear", "HOG + 线性"),
    "pixels": Text("pixels + linear", "像素 + 线性"),
}
COLORS = {"cnn": BLUE, "hog": GREEN, "pixels": ORANGE}
PLACED_DIGITS = CurveConfig("digits", (30, 100, 300, 1000, 2500), FIELD)
PLANS: dict[Mode, Plan] = {
    "quick": Plan((CurveConfig("digits", (30, 500), FIELD),), 4, 60, 16),
    "normal": Plan((PLACED_DIGITS, CurveConfig("digits", (10, 30, 100, 300, 1259))), 5, 300, 12),
    "full": Plan((CurveConfig("fashion-mnist", (100, 1000, 10_000)), PLACED_DIGITS), 5, 400, 15),
}


def measure(mode: Mode, *, learners: Mapping[str, Learner] = LEARNERS, plan: Plan | None = None) -> Findings:
    """Train the same linear layer on the three kinds of features, with few and with many examples, seed by seed.

    Args:
        mode: how many examples, of which data, and seeds.
        learners: the learner of each role; an exchanged one is a counter-experiment.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    results = [(config, learning_curves.sweep(config, learners, plan)) for config in plan.configs]
    margins = tuple(compute_lead(results[0][1], "cnn", "hog", -1))
    return Findings(
        margins,
        0.0,
        _build_checks(*results[0]),
        learning_curves.build_table(results, NAMES, ("cnn", "hog")),
        partial(_draw, results),
    )


def _build_checks(config: CurveConfig, curves: Curves) -> tuple[Check, ...]:
    """Check that HOG beats pixels, and that it is ahead where data are few."""
    least, most = (f"{config.sizes[index]:,d}" for index in (0, -1))
    worth = compute_interval(compute_lead(curves, "hog", "pixels", -1))
    few = compute_interval(compute_lead(curves, "hog", "cnn", 0))
    return (
        Check(
            Text(
                f"HOG is worth something: with {most} examples it is ahead of pixels by {format_points(worth)} points",
                f"HOG 确有价值：{most} 个样本时领先像素 {format_points(worth)} 个百分点",
            ),
            worth.low > 0,
        ),
        Check(
            Text(
                f"data must suffice: with {least} examples HOG is ahead of the CNN by {format_points(few)} points",
                f"数据须足够：只有 {least} 个样本时，HOG 领先 CNN {format_points(few)} 个百分点",
            ),
            few.low > 0,
        ),
    )


def _draw(results: list[tuple[CurveConfig, Curves]], lang: Lang) -> Figure:
    """Draw the curves of each data set."""
    title = Text("With few images design wins, with many learning does", "图像少时靠设计取胜，图像多时靠学习取胜")
    return learning_curves.draw_figure(results, title, names=NAMES, colors=COLORS, lang=lang)


LAB = Lab(
    name="learned-features",
    claim_id="C27",
    title=Text("learned features beat hand-made ones when data suffice", "数据足够时，学到的特征胜过手工设计的特征"),
    claim=Text(
        "Features that a CNN learns beat features made by hand, histograms of oriented gradients read by a "
        "linear layer, when there are "
        "examples enough.",
        "样本足够时，CNN 学到的特征胜过手工设计的特征（由线性层读取的方向梯度直方图）。",
    ),
    formula=Text(
        "hand-made    softmax(W · HOG(x) + b)     votes of ‖∇x‖ by direction and cell, blocks v/√(‖v‖² + ε²)\n"
        "learned      softmax(W · f(x; θ) + b)    f: two convolutions with ReLU and pooling, θ learned with W",
        "手工设计   softmax(W · HOG(x) + b)     按方向与单元对 ‖∇x‖ 投票，块归一化 v/√(‖v‖² + ε²)\n"
        "学习得到   softmax(W · f(x; θ) + b)    f：两层卷积、ReLU 与池化，θ 与 W 一同学习",
    ),
    method=Text(
        f"Scikit-learn's digits of 8×8, each placed at random on a field of {FIELD}×{FIELD}, so that one "
        "image gives many examples; "
        "then, "
        "beside them, as they are (fashion-mnist in the full form). Three linear layers: on pixels, on HOG "
        "(Dalal & Triggs's: nine directions, cells of two pixels, of four on fashion-mnist), and on the maps "
        "of two convolutions "
        f"({learning_curves.WIDTHS[0]} and "
        f"{learning_curves.WIDTHS[1]} filters of 3×3) that learn with it, by Adam. All see the same examples and "
        "choose on the same validation "
        "part: the L2 "
        "penalty, and the step at which the network was best. The margin is read at the last number of "
        "examples of the first kind of "
        "images; the checks at the first and the last. (In the full form the first is 100: with 30, five "
        "seeds left open who is ahead.)",
        f"scikit-learn 的 digits（8×8），每个随机摆放在 {FIELD}×{FIELD} 的背景上，"
        "因而一幅图可以产生许多样本；另附原样图像"
        "（完整形式用 fashion-mnist）。三个线性层：分别读取像素、HOG（Dalal 与 Triggs 的形式：九个方向，"
        "单元边长 2 像素，"
        f"fashion-mnist 为 4 像素），以及与之一同用 Adam 学习的两层卷积（{learning_curves.WIDTHS[0]} 与 "
        f"{learning_curves.WIDTHS[1]} 个 3×3 滤波器）的特征图。"
        "各方使用同样的样本，并在同一验证集上选择：L2 惩罚的强度，以及网络表现最好的那一步。"
        "裕量取第一类图像在样本最多时的值；"
        "各项检查取样本最少与最多时的值。（完整形式从 100 个样本开始：只有 30 个时，五个种子分不出先后。）",
    ),
    margin=Text(
        "the CNN's test accuracy minus HOG's, with the most examples",
        "样本最多时，CNN 的测试准确率减去 HOG 的",
    ),
    held=Text(
        "With few examples what people knew about edges beats what can be learned; with many, what is "
        "learned fits the task and what was "
        "designed does not change. When data suffice depends on the task: on digits as they are (normal "
        "form) HOG leads over most of the "
        "curve, "
        "and 1,259 of them only just bring the network level.",
        "样本少时，人们关于边缘的知识胜过所能学到的；样本多时，学到的特征契合任务，而设计好的特征不再变化。"
        "多少数据才算足够，取决于任务：在原样的 digits 上（标准形式），HOG 在曲线的大部分领先，1,259 "
        "个样本也只够让网络勉强追平。",
    ),
    refuted=Text(
        "Here the claim did not hold: the learned features were not ahead at the end of the curve, or the "
        "hand-made ones were no rival at "
        "its "
        "beginning. Look at the checks.",
        "此处论断不成立：曲线末端学到的特征没有领先，或者手工特征在曲线开头不构成对手。请看各项检查。",
    ),
    experiment=measure,
)

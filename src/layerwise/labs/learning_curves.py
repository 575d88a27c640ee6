"""Learning curves: the accuracy of several learners by number of examples, each tuned on the same validation part.

``N`` examples, ``D`` features. The one idea: with one seed all learners train and are tested on the same examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from layerwise.data.batch import Batch
from layerwise.functional.hog import hog
from layerwise.labs.base import Cell, Column, Interval, Lang, Table, Text, compute_interval, use_one_thread
from layerwise.labs.figures import SIZE, add_headline
from layerwise.labs.training import SplitBatches, fit_and_score, load_batches
from layerwise.models.convolutional import cnn
from layerwise.rules.backprop import BackpropOptions
from layerwise.runtime import compute_settings, rng
from layerwise.tasks.inputs import ImageInputs

WIDTHS, BATCH = (16, 32), 32
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C of the linear model
MARGINS, KERNELS = (1.0, 10.0), (0.25, 0.5, 1.0, 2.0)  # C and γ of the SVM, γ in units of 1 / (D · variance)
PLAIN, PLACED = Text("as they are", "原样"), Text("placed at random", "随机摆放")
CELLS = 7  # a side of an image has about so many cells of HOG, two pixels each at least


@dataclass(frozen=True)
class CurveConfig:
    """The examples of one curve: a data set, the numbers of training examples in rising order, and the side of a field
    of background on which each image is placed at random (0: unchanged images)."""

    data: str
    sizes: tuple[int, ...]
    field: int = 0


@dataclass(frozen=True)
class Plan:
    """How much to do: the curves, seeds, and the least number of steps and of epochs of a network."""

    configs: tuple[CurveConfig, ...]
    seeds: int
    steps: int
    epochs: int


Learner = Callable[[SplitBatches, Plan, int], float]
Features = Callable[[SplitBatches, Batch], NDArray[Any]]
Curves = dict[str, NDArray[np.float64]]  # for each learner the accuracy on the test part, (seeds, sizes)


# -- examples ----------------------------------------------------------------------------------------------------------


def load_examples(config: CurveConfig, size: int, *, seed: int) -> SplitBatches:
    """Return ``size`` training examples of a curve, with the whole validation and test part."""
    data = load_batches(config.data, seed=seed, examples=size)
    if not config.field:
        return data
    train, val, test = (
        place_randomly(batch, config.field, copies, seed=rng.derive_seed("placed", name, seed))
        for name, batch, copies in (
            ("train", data.train, -(-size // len(data.train))),
            ("val", data.val, 1),
            ("test", data.test, 3),
        )
    )
    return replace(data, train=train.span(slice(size)), val=val, test=test)


def place_randomly(batch: Batch, field: int, copies: int, *, seed: int) -> Batch:
    """Return ``copies`` copies of each image of a batch (N, C, H, W), each at a random position of a field of
    background."""
    x = batch.input_tensor.repeat(copies, 1, 1, 1)
    height, width = x.shape[2:]
    corners = np.random.default_rng(seed).integers(0, (field - height + 1, field - width + 1), (len(x), 2))
    canvas = x.new_full((*x.shape[:2], field, field), float(x.min()))
    for image, target, (top, left) in zip(x, canvas, corners, strict=True):
        target[:, top : top + height, left : left + width] = image
    targets = None if batch.targets is None else batch.target_tensor.repeat(copies)
    return Batch(canvas, targets, torch.arange(len(x)))


# -- learners ----------------------------------------------------------------------------------------------------------


def train_cnn(data: SplitBatches, plan: Plan, seed: int, *, learned: bool = True) -> float:
    """Train Layerwise's cnn, two convolutions with pooling and a linear layer, and return its accuracy on the test
    part.

    Unless ``learned``, the convolutions stay at their random start, which is a counter-experiment.
    """
    channels, height, width = data.train.input_tensor.shape[1:]
    with rng.use_seed(rng.derive_seed("curves", seed)):
        net = cnn(outputs=len(data.task.classes), channels=channels, size=(height, width), widths=WIDTHS, dense=())
    compute_settings.apply_layout(net, compute_settings.CHANNELS_LAST)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(learned or name.startswith("classifier"))
    options = BackpropOptions(optimizer="adam", lr=0.003, schedule="cosine")
    steps = max(plan.steps, plan.epochs * len(data.train) // BATCH)
    return fit_and_score(net, data, options=options, steps=steps, batch_size=BATCH, seed=seed, validation_count=12)


def flatten_pixels(data: SplitBatches, batch: Batch) -> NDArray[Any]:
    """Return images as rows, (N, D)."""
    rows: NDArray[Any] = batch.input_tensor.flatten(1).numpy()
    return rows


def compute_hog(data: SplitBatches, batch: Batch) -> NDArray[Any]:
    """Return the images' histograms of oriented gradients, (N, D)."""
    assert isinstance(data.task.inputs, ImageInputs)
    images = data.task.inputs.raw(batch.input_tensor)
    cell = max(2, min(images.shape[2:]) // CELLS)
    features: NDArray[Any] = torch.cat([hog(part, cell=cell) for part in images.split(1024)]).numpy()
    return features


def fit_linear(data: SplitBatches, plan: Plan, seed: int) -> float:
    """Fit a softmax layer on pixels, its L2 penalty by validation."""
    return _fit_logistic(data, flatten_pixels)


def fit_linear_on_hog(data: SplitBatches, plan: Plan, seed: int) -> float:
    """Fit a softmax layer on HOG, its L2 penalty by validation."""
    return _fit_logistic(data, compute_hog)


def _fit_logistic(data: SplitBatches, features: Features) -> float:
    """Fit the linear model on some features with each penalty strength."""
    from sklearn.linear_model import LogisticRegression

    return _fit_and_select(data, features, [LogisticRegression(C=c, max_iter=100) for c in STRENGTHS])


def fit_svm(data: SplitBatches, plan: Plan, seed: int) -> float:
    """Fit a support vector machine, C and γ by validation."""
    return tune_svm(data)


def tune_svm(data: SplitBatches) -> float:
    """Fit support vector machines with the RBF kernel on pixels, and return the accuracy of the one that is best on
    the validation part."""
    from sklearn.svm import SVC

    x = flatten_pixels(data, data.train)
    unit = 1 / (x.shape[1] * x.var())
    return _fit_and_select(
        data, flatten_pixels, [SVC(C=c, gamma=g * unit, cache_size=500) for c in MARGINS for g in KERNELS]
    )


def _fit_and_select(data: SplitBatches, features: Features, models: Sequence[Any]) -> float:
    """Fit each model, and return the test accuracy of the one that does best on the validation part (ties: the
    first)."""
    train, val, test = ((features(data, b), _get_targets(b)) for b in (data.train, data.val, data.test))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")  # validation decides
        fitted = [model.fit(*train) for model in models]
    best = max(fitted, key=lambda model: float(model.score(*val)))
    return float(best.score(*test))


def _get_targets(batch: Batch) -> NDArray[np.int64]:
    """Return the labels, (N,)."""
    assert batch.targets is not None
    labels: NDArray[np.int64] = batch.target_tensor.numpy()
    return labels


# -- curves ------------------------------------------------------------------------------------------------------------


def sweep(config: CurveConfig, learners: Mapping[str, Learner], plan: Plan) -> Curves:
    """Train all learners on each number of examples, seed by seed."""
    accuracies: Curves = {name: np.zeros((plan.seeds, len(config.sizes))) for name in learners}
    with use_one_thread():
        for seed in range(plan.seeds):
            for index, size in enumerate(config.sizes):
                data = load_examples(config, size, seed=seed)
                for name, learner in learners.items():
                    accuracies[name][seed, index] = learner(data, plan, seed)
    return accuracies


def compute_lead(curves: Curves, one: str, other: str, index: int) -> list[float]:
    """Return the accuracy of one learner minus that of another at one size of the curves, seed by seed."""
    values: list[float] = (curves[one][:, index] - curves[other][:, index]).tolist()
    return values


def format_points(span: Interval) -> str:
    """Return an interval of accuracies in percentage points."""
    mean, low, high = (format(100 * v, "+.1f").replace("-", "−") for v in span)
    return f"{mean} [{low}, {high}]"


def build_table(
    results: Sequence[tuple[CurveConfig, Curves]], names: Mapping[str, Text], pair: tuple[str, str]
) -> Table:
    """Return one row for each number of examples: mean accuracies, and the lead of ``pair[0]`` over
    ``pair[1]`` in points."""
    first, second = (names[name] for name in pair)
    columns = (
        Column(Text("images", "图像")),
        Column(Text("examples", "样本数"), ",d"),
        *(Column(name, ".1%") for name in names.values()),
        Column(Text(f"{first.en} − {second.en}", f"{first.zh} − {second.zh}"), ">"),
    )
    rows: list[tuple[Cell, ...]] = []
    for config, curves in results:
        for index, size in enumerate(config.sizes):
            difference = format_points(compute_interval(compute_lead(curves, *pair, index)))
            rows.append(
                (
                    PLACED if config.field else PLAIN,
                    size,
                    *(float(curves[name][:, index].mean()) for name in names),
                    difference,
                )
            )
    return Table(columns, tuple(rows))


def draw_curve(axes: Axes, config: CurveConfig, curves: Curves, colors: Mapping[str, str]) -> None:
    """Draw each learner's error by the number of examples, both on logarithmic scales: the mean, and its interval as a
    band."""
    for name, color in colors.items():
        spans = [compute_interval((1 - curves[name][:, index]).tolist()) for index in range(len(config.sizes))]
        low, high = ([max(1e-3, s[part]) for s in spans] for part in (1, 2))
        axes.fill_between(config.sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(config.sizes, [s.mean for s in spans], "o-", color=color, markersize=6)
    axes.set(xscale="log", yscale="log", xticks=config.sizes, xticklabels=[f"{size:,d}" for size in config.sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=11.5)
    bottom, top = axes.get_ylim()
    ticks = [t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if bottom <= t <= top]
    axes.set(yticks=ticks, yticklabels=[f"{t:.1%}" if t < 0.01 else f"{t:.0%}" for t in ticks])


def draw_figure(
    results: Sequence[tuple[CurveConfig, Curves]],
    title: Text,
    *,
    names: Mapping[str, Text],
    colors: Mapping[str, str],
    lang: Lang,
) -> Figure:
    """Draw one or two learning curves side by side, with the learners' names below the curves."""
    figure = Figure(figsize=SIZE)
    subtitle = Text(
        "Wrong answers on the test part, by the number of training examples. Bands: 95 %.",
        "测试集错误率随训练样本数的变化。色带：95 % 区间。",
    )
    add_headline(figure, title, subtitle, lang=lang)
    for panel, (config, result) in enumerate(results):
        axes = figure.add_axes((0.09 + 0.49 * panel, 0.155, 0.395 if len(results) > 1 else 0.87, 0.59))
        draw_curve(axes, config, result, colors)
        panel_title = (
            Text(f"{config.data}, placed at random", f"{config.data}，随机摆放")
            if config.field
            else Text(config.data, config.data)
        )
        axes.set_title(panel_title.of(lang), loc="left")
        axes.set_xlabel(Text("training examples", "训练样本数").of(lang))
        for line, (name, color) in enumerate(list(colors.items())[::-1] if panel == 0 else []):
            corner = (0.04, 0.06 + 0.09 * line)
            axes.text(
                *corner, names[name].of(lang), color=color, fontsize=13.5, fontweight="bold", transform=axes.transAxes
            )
    return figure

"""Learning curves: how right several learners are after so many examples, each tuned on the same validation part.

``N`` examples, ``D`` features. The one idea: of a seed all learners see the same examples, few or many, and are judged
on the same ones.
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

from layerwise.data.loader import Batch
from layerwise.functional.hog import hog
from layerwise.labs.base import Cell, Column, Interval, Lang, Table, Text, mean_interval, one_thread
from layerwise.labs.figures import SIZE, headline
from layerwise.labs.training import Parts, fit, parts
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
class Course:
    """The examples of one curve: a data set, the numbers of training examples in rising order, and the side of a field
    of background on which each image is placed at random (0: images as they are)."""

    data: str
    sizes: tuple[int, ...]
    field: int = 0


@dataclass(frozen=True)
class Plan:
    """How much to do: the curves' examples, seeds, and how long a network learns: so many steps and so many epochs at
    least."""

    courses: tuple[Course, ...]
    seeds: int
    steps: int
    epochs: int


Learner = Callable[[Parts, Plan, int], float]
Features = Callable[[Parts, Batch], NDArray[Any]]
Curves = dict[str, NDArray[np.float64]]  # for each learner the accuracy on the test part, (seeds, sizes)


# -- examples ----------------------------------------------------------------------------------------------------------


def examples(course: Course, size: int, *, seed: int) -> Parts:
    """Return so many training examples of a course, with the whole validation and test part."""
    data = parts(course.data, seed=seed, examples=size)
    if not course.field:
        return data
    train, val, test = (
        placed(batch, course.field, copies, seed=rng.key("placed", name, seed))
        for name, batch, copies in (
            ("train", data.train, -(-size // len(data.train))),
            ("val", data.val, 1),
            ("test", data.test, 3),
        )
    )
    return replace(data, train=train.span(slice(size)), val=val, test=test)


def placed(batch: Batch, field: int, copies: int, *, seed: int) -> Batch:
    """Return each image of a batch (N, C, H, W) so many times, each time at a random place of a field of
    background."""
    x = batch.inputs.repeat(copies, 1, 1, 1)
    height, width = x.shape[2:]
    places = np.random.default_rng(seed).integers(0, (field - height + 1, field - width + 1), (len(x), 2))
    found = x.new_full((*x.shape[:2], field, field), float(x.min()))
    for image, laid, (top, left) in zip(x, found, places, strict=True):
        laid[:, top : top + height, left : left + width] = image
    targets = None if batch.targets is None else batch.targets.repeat(copies)
    return Batch(found, targets, torch.arange(len(x)))


# -- learners ----------------------------------------------------------------------------------------------------------


def network(data: Parts, plan: Plan, seed: int, *, learned: bool = True) -> float:
    """Train the catalog's cnn, two convolutions with pooling and a linear layer, and return its accuracy on the test
    part.

    If its features are not to be ``learned`` the convolutions stay as they were drawn, which is a counter-experiment.
    """
    channels, height, width = data.train.inputs.shape[1:]
    with rng.seeded(rng.key("curves", seed)):
        net = cnn(outputs=len(data.task.classes), channels=channels, size=(height, width), widths=WIDTHS, dense=())
    compute_settings.lay_out(net, compute_settings.CHANNELS_LAST)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(learned or name.startswith("classifier"))
    options = BackpropOptions(optimizer="adam", lr=0.003, schedule="cosine")
    steps = max(plan.steps, plan.epochs * len(data.train) // BATCH)
    return fit(net, data, options=options, steps=steps, batch=BATCH, seed=seed, looks=12)


def pixels(data: Parts, batch: Batch) -> NDArray[Any]:
    """Return images as rows, (N, D)."""
    found: NDArray[Any] = batch.inputs.flatten(1).numpy()
    return found


def edges(data: Parts, batch: Batch) -> NDArray[Any]:
    """Return the images' histograms of oriented gradients, (N, D)."""
    assert isinstance(data.task.inputs, ImageInputs)
    images = data.task.inputs.raw(batch.inputs)
    cell = max(2, min(images.shape[2:]) // CELLS)
    found: NDArray[Any] = torch.cat([hog(part, cell=cell) for part in images.split(1024)]).numpy()
    return found


def linear(data: Parts, plan: Plan, seed: int) -> float:
    """Fit a softmax layer on pixels, its L2 penalty by validation."""
    return _logistic(data, pixels)


def linear_on_edges(data: Parts, plan: Plan, seed: int) -> float:
    """Fit a softmax layer on HOG, its L2 penalty by validation."""
    return _logistic(data, edges)


def _logistic(data: Parts, features: Features) -> float:
    """Fit the linear model on some features with each strength."""
    from sklearn.linear_model import LogisticRegression

    return _chosen(data, features, [LogisticRegression(C=c, max_iter=100) for c in STRENGTHS])


def svm(data: Parts, plan: Plan, seed: int) -> float:
    """Fit a support vector machine, C and γ by validation."""
    return support_vectors(data)


def support_vectors(data: Parts) -> float:
    """Fit support vector machines with the RBF kernel on pixels, and return the accuracy of the one that validation
    chooses."""
    from sklearn.svm import SVC

    x = pixels(data, data.train)
    unit = 1 / (x.shape[1] * x.var())
    return _chosen(data, pixels, [SVC(C=c, gamma=g * unit, cache_size=500) for c in MARGINS for g in KERNELS])


def _chosen(data: Parts, features: Features, models: Sequence[Any]) -> float:
    """Fit each model, and return the test accuracy of the one that does best on the validation part, the first of
    equals."""
    train, val, test = ((features(data, b), _targets(b)) for b in (data.train, data.val, data.test))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")  # validation judges the model as it is
        fitted = [model.fit(*train) for model in models]
    best = max(fitted, key=lambda model: float(model.score(*val)))
    return float(best.score(*test))


def _targets(batch: Batch) -> NDArray[np.int64]:
    """Return the labels, (N,)."""
    assert batch.targets is not None
    found: NDArray[np.int64] = batch.targets.numpy()
    return found


# -- curves ------------------------------------------------------------------------------------------------------------


def sweep(course: Course, learners: Mapping[str, Learner], plan: Plan) -> Curves:
    """Let all learners learn from each number of examples, seed by seed."""
    found: Curves = {name: np.zeros((plan.seeds, len(course.sizes))) for name in learners}
    with one_thread():
        for seed in range(plan.seeds):
            for place, size in enumerate(course.sizes):
                data = examples(course, size, seed=seed)
                for name, learner in learners.items():
                    found[name][seed, place] = learner(data, plan, seed)
    return found


def lead(curves: Curves, one: str, other: str, at: int) -> list[float]:
    """Return by how much accuracy one learner is ahead of another at a place of the curves, seed by seed."""
    values: list[float] = (curves[one][:, at] - curves[other][:, at]).tolist()
    return values


def points(span: Interval) -> str:
    """Return an interval of accuracies in percentage points."""
    mean, low, high = (format(100 * v, "+.1f").replace("-", "−") for v in span)
    return f"{mean} [{low}, {high}]"


def table(found: Sequence[tuple[Course, Curves]], names: Mapping[str, Text], behind: tuple[str, str]) -> Table:
    """Return one row for each number of examples: mean accuracies, and by how many points ``behind[0]`` is ahead of
    ``behind[1]``."""
    first, second = (names[name] for name in behind)
    columns = (
        Column(Text("images", "图像")),
        Column(Text("examples", "样本数"), ",d"),
        *(Column(name, ".1%") for name in names.values()),
        Column(Text(f"{first.en} − {second.en}", f"{first.zh} − {second.zh}"), ">"),
    )
    rows: list[tuple[Cell, ...]] = []
    for course, curves in found:
        for at, size in enumerate(course.sizes):
            ahead = points(mean_interval(lead(curves, *behind, at)))
            rows.append(
                (PLACED if course.field else PLAIN, size, *(float(curves[name][:, at].mean()) for name in names), ahead)
            )
    return Table(columns, tuple(rows))


def draw(axes: Axes, course: Course, curves: Curves, colors: Mapping[str, str]) -> None:
    """Draw each learner's error by the number of examples, both on logarithmic scales: the mean, and its interval as a
    band."""
    for name, color in colors.items():
        spans = [mean_interval((1 - curves[name][:, at]).tolist()) for at in range(len(course.sizes))]
        low, high = ([max(1e-3, s[part]) for s in spans] for part in (1, 2))
        axes.fill_between(course.sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(course.sizes, [s.mean for s in spans], "o-", color=color, markersize=6)
    axes.set(xscale="log", yscale="log", xticks=course.sizes, xticklabels=[f"{size:,d}" for size in course.sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=11.5)
    least, most = axes.get_ylim()
    ticks = [t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if least <= t <= most]
    axes.set(yticks=ticks, yticklabels=[f"{t:.1%}" if t < 0.01 else f"{t:.0%}" for t in ticks])


def imaged(
    found: Sequence[tuple[Course, Curves]],
    title: Text,
    *,
    names: Mapping[str, Text],
    colors: Mapping[str, str],
    lang: Lang,
) -> Figure:
    """Draw the curves of one or two courses side by side, with the learners' names where no falling curve comes."""
    figure = Figure(figsize=SIZE)
    subtitle = Text(
        "Wrong answers on the test part, by the number of training examples. Bands: 95 %.",
        "测试集错误率随训练样本数的变化。色带：95 % 区间。",
    )
    headline(figure, title, subtitle, lang=lang)
    for place, (course, result) in enumerate(found):
        axes = figure.add_axes((0.09 + 0.49 * place, 0.155, 0.395 if len(found) > 1 else 0.87, 0.59))
        draw(axes, course, result, colors)
        kind = (
            Text(f"{course.data}, placed at random", f"{course.data}，随机摆放")
            if course.field
            else Text(course.data, course.data)
        )
        axes.set_title(kind.of(lang), loc="left")
        axes.set_xlabel(Text("training examples", "训练样本数").of(lang))
        for line, (name, color) in enumerate(list(colors.items())[::-1] if place == 0 else []):
            at = (0.04, 0.06 + 0.09 * line)
            axes.text(
                *at, names[name].of(lang), color=color, fontsize=13.5, fontweight="bold", transform=axes.transAxes
            )
    return figure

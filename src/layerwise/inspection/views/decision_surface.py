"""The view ``function``: the function that a network of one or two inputs computes over the range of the data.

One input: the fitted curve, or the probability of each class. Two inputs: the surface, or the classes' decision regions
and boundaries. ``M`` points of a grid, ``A`` × ``B`` along its two axes, ``K`` classes, ``N`` examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contourpy  # comes with matplotlib
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.source import SPLITS, Source, Splits, fetch
from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.inference.predict import inference_context
from layerwise.inspection.base import Json, Lang, Target, View, format_table, require_data, save
from layerwise.inspection.predictions import compute_predictions, get_device_and_dtype, make_batches
from layerwise.plotting import functions
from layerwise.plotting.functions import Floats, PointSet
from layerwise.plotting.svg import mask_undrawable
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.column_encoders import NumberEncoder
from layerwise.tasks.objectives import to_class_logits
from layerwise.tasks.regression import Regression, RegressionPrediction
from layerwise.tasks.row_inputs import RowInputs
from layerwise.text_display import format_row

LINE_POINTS, GRID_SIDE = 301, 101  # points along a single axis, and along each of two axes
MARGIN = 0.05  # of the range, added at each end of two axes
MAX_POINTS = 1000  # of each part in the figure
BATCH = 4096
PARTS = {"train": ("training", "训练"), "val": ("validation", "验证"), "test": ("test", "测试")}
WORDS = {"function": ("fitted function", "拟合函数"), "probability": ("probability", "概率")}


@dataclass(frozen=True, kw_only=True)
class FunctionGrid:
    """A network's predictions on a grid, with the data.

    Attributes:
        names, target: the names of the inputs and of the target.
        classes: the class names; () for regression.
        axes: the points along each axis, in the data's unit.
        values: predictions (M,), or probabilities (M, K); the last axis varies fastest.
        margins: each class's logit minus the largest other logit, (M, K); empty for regression.
        parts: the data points of train, val and test.
    """

    names: tuple[str, ...]
    target: str
    classes: tuple[str, ...]
    axes: tuple[Floats, ...]
    values: Floats
    margins: Floats
    parts: tuple[PointSet, ...]

    @property
    def kind(self) -> str:
        """The kind of plot: curve, surface, probabilities or regions."""
        return (("curve", "surface"), ("probabilities", "regions"))[bool(self.classes)][len(self.axes) - 1]

    @property
    def points(self) -> Floats:
        """The points of the grid, (M, D)."""
        return make_grid(self.axes)


def can_draw_function(task: Task) -> bool:
    """Return whether a task predicts a class or number from one or two numeric columns."""
    inputs = task.inputs
    return (
        isinstance(task, Classification | Regression)
        and isinstance(inputs, RowInputs)
        and 1 <= len(inputs.encoders) <= 2
        and all(isinstance(encoder, NumberEncoder) for encoder in inputs.encoders)
    )


def view(target: Target, *, out: Path | None) -> View:
    """Return the function over the range of the data. Writes ``function.svg``, and ``function.csv`` with the grid.

    Draws at most ``target.examples`` points of each part, or of ``target.split`` only.

    Raises `UsageError` without data, for an unknown part, and for inputs other than one or two numbers.
    """
    model, task, splits = require_data(target, "function")
    if target.split and target.split not in SPLITS:
        raise make_unknown_name_error("split", target.split, SPLITS)
    if not can_draw_function(task):
        received = (
            f"{len(task.inputs.features)} columns" if isinstance(task.inputs, RowInputs) else f"{task.inputs.kind}s"
        )
        raise UsageError(
            "the view 'function' draws answers over one or two numbers",
            expected="a classifier or a regression of rows with one or two numeric columns",
            received=f"{task.name} of {received}",
            do="train on fewer columns: --set 'data.drop=[…]'",
        )
    function = evaluate_on_grid(model, task, splits, count=target.examples or MAX_POINTS)
    parts = tuple(part for part in function.parts if target.split in ("", part.name))
    metrics = {}
    for name in SPLITS if not target.split else (target.split,):
        if len(splits.part(name)):
            predictions = compute_predictions(model, task, make_batches(model, task, splits.part(name)))
            metrics[name] = {"examples": len(predictions.losses), **predictions.metrics}
    figures = save(out, "function.svg", draw_function(function, target.lang, parts))
    figures += save(out, "function.csv", to_csv(function))
    return View("function", to_json(function, metrics), format_text(target, function, metrics), figures)


def make_grid(axes: tuple[Floats, ...]) -> Floats:
    """Return the points of a grid, (M, D); the last axis varies fastest."""
    return np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], 1)


def evaluate_on_grid(model: nn.Module, task: Task, splits: Splits, *, count: int = MAX_POINTS) -> FunctionGrid:
    """Evaluate the model over the range of the data, without changing it.

    Args:
        count: the maximum number of data points of each part, evenly spaced.
    """
    assert isinstance(task.inputs, RowInputs)
    assert isinstance(task, Classification | Regression)
    sources = {name: task.convert_source(splits.part(name)) for name in SPLITS if len(splits.part(name))}
    parts = tuple(sample_points(name, source, count) for name, source in sources.items())
    cells = np.concatenate([part.inputs for part in parts])
    dimensions = cells.shape[1]
    edge, points = (0.0, LINE_POINTS) if dimensions == 1 else (MARGIN, GRID_SIDE)
    axes = tuple(make_axis(cells[:, column], edge=edge, count=points) for column in range(dimensions))
    outputs = compute_outputs(model, task, make_grid(axes))
    values, margins = decode_outputs(task, outputs)
    name = splits.train.schema.target_name
    classes = task.classes if isinstance(task, Classification) else ()
    return FunctionGrid(
        names=task.inputs.features, target=name, classes=classes, axes=axes, values=values, margins=margins, parts=parts
    )


def sample_points(name: str, source: Source, count: int) -> PointSet:
    """Return at most ``count`` evenly spaced examples of a part, without those with missing values."""
    indices = np.linspace(0, len(source) - 1, min(len(source), count)).astype(np.int64)
    examples = fetch(source, indices)
    inputs, targets = np.asarray(examples.inputs, dtype=np.float64), np.asarray(examples.targets)
    complete = ~np.isnan(inputs).any(1)
    return PointSet(name, inputs[complete], targets[complete])


def make_axis(cells: Floats, *, edge: float, count: int) -> Floats:
    """Return ``count`` evenly spaced points over the range of the drawable cells (N,), plus ``edge`` at each end."""
    cells = cells[np.isfinite(mask_undrawable(cells))]
    low, high = (float(cells.min()), float(cells.max())) if len(cells) else (0.0, 1.0)
    magnitude = max(abs(low), abs(high))
    margin = edge * (high - low) if high - low > 1e-9 * magnitude else max(0.5, 1e-3 * magnitude)
    return np.linspace(low - margin, high + margin, count)


def compute_outputs(model: nn.Module, task: Task, rows: Floats) -> Tensor:
    """Return the model's outputs (M, …) for rows (M, D) in the data's unit, float64 on the CPU."""
    device, dtype = get_device_and_dtype(model)
    out = []
    with inference_context(model, device):
        for start in range(0, len(rows), BATCH):
            out.append(model(task.inputs.tensor(rows[start : start + BATCH]).to(device, dtype)).double().cpu())
    return torch.cat(out)


def decode_outputs(task: Classification | Regression, outputs: Tensor) -> tuple[Floats, Floats]:
    """Return predictions (M,) and empty margins for regression, or probabilities (M, K) and margins (M, K)."""
    if isinstance(task, Regression):
        predictions = task.decode(outputs, Batch(outputs, None, torch.arange(len(outputs))))
        return np.array([a.value for a in predictions if isinstance(a, RegressionPrediction)]), np.zeros((0, 0))
    logits = to_class_logits(outputs)  # (M, K)
    first, second = logits.topk(2, 1).values.T
    others = torch.where(logits == first[:, None], second[:, None], first[:, None])
    return task.loss.probabilities(outputs).numpy(), (logits - others).numpy()


def find_borders(function: FunctionGrid) -> dict[str, list[Floats]]:
    """Return the decision boundaries of each class as lines (n, 2), where the margin interpolates linearly to 0.

    With two classes, returns the boundary of the first only. With one input, each boundary is one point (1, 1).
    """
    names = function.classes[:1] if len(function.classes) == 2 else function.classes
    out = {}
    for label, name in enumerate(names):
        margin = function.margins[:, label]
        if len(function.axes) == 1:
            out[name] = [np.array([[position]]) for position in find_crossings(function.axes[0], margin)]
        else:
            x, y = function.axes
            out[name] = find_level_lines(x, y, margin.reshape(len(x), len(y)))
    return out


def find_level_lines(x: Floats, y: Floats, z: Floats) -> list[Floats]:
    """Return the lines (n, 2) on which z (A, B) over x (A,) and y (B,) is 0; none pass where z is not finite."""
    height = np.ma.masked_invalid(mask_undrawable(z.T))
    return [np.asarray(line) for line in contourpy.contour_generator(x=x, y=y, z=height).lines(0.0)]


def find_crossings(x: Floats, y: Floats) -> list[float]:
    """Return where y (M,) over x (M,) changes sign, by linear interpolation between finite neighbors."""
    y = mask_undrawable(y)
    starts = np.flatnonzero(((y[:-1] >= 0) != (y[1:] >= 0)) & np.isfinite(y[:-1] + y[1:]))
    return [float(x[i] - y[i] * (x[i + 1] - x[i]) / (y[i + 1] - y[i])) for i in starts]


def draw_function(function: FunctionGrid, lang: Lang, parts: tuple[PointSet, ...] | None = None) -> str:
    """Draw the function as SVG, with the data points of ``parts`` (None: all)."""
    language = int(lang == "zh")
    point_sets = [
        part._replace(name=PARTS[part.name][language]) for part in (function.parts if parts is None else parts)
    ]
    borders = [line for lines in find_borders(function).values() for line in lines]
    if function.kind == "curve":
        names = (function.names[0], function.target)
        label = WORDS["function"][language]
        return functions.plot_function(function.axes[0], function.values, point_sets, names=names, label=label)
    if function.kind == "probabilities":
        changes = sorted({position for line in borders for position in line[:, 0].tolist()})
        names = (function.names[0], WORDS["probability"][language])
        return functions.plot_class_probabilities(
            function.axes[0], function.values, changes, point_sets, names=names, classes=function.classes
        )
    x, y = function.axes
    names = (function.names[0], function.names[1])
    if function.kind == "surface":
        values = function.values.reshape(len(x), len(y))
        return functions.plot_surface(x, y, values, point_sets, names=names, target=function.target)
    margins = function.margins.reshape(len(x), len(y), -1)
    return functions.plot_decision_regions(
        x, y, margins.argmax(2), borders, point_sets, names=names, classes=function.classes, margins=margins
    )


def to_json(function: FunctionGrid, metrics: dict[str, Any]) -> Json:
    """Return the grid, predictions, boundaries and metrics as JSON, without the data points."""
    return {
        "kind": function.kind,
        "inputs": list(function.names),
        "target": function.target,
        "classes": list(function.classes),
        "axes": [points.tolist() for points in function.axes],
        "values": function.values.tolist(),
        "borders": {name: [line.tolist() for line in lines] for name, lines in find_borders(function).items()},
        "parts": metrics,
    }


def to_csv(function: FunctionGrid) -> str:
    """Return the grid as CSV: a row for each point, with the inputs and the prediction or each class's probability."""
    rows = np.column_stack([function.points, function.values]).tolist()
    return "".join(map(format_row, [[*function.names, *(function.classes or (function.target,))], *rows]))


def format_text(target: Target, function: FunctionGrid, metrics: dict[str, Any]) -> str:
    """Return the metrics of each part and a summary of the function, as text."""
    names = list(dict.fromkeys(name for part in metrics.values() for name in part if name != "examples"))
    header = [target.translate("part", "部分"), target.translate("examples", "样本数"), *names]
    rows = []
    for part, m in metrics.items():
        rows.append([target.translate(*PARTS[part]), str(m["examples"]), *(f"{m[name]:.4f}" for name in names)])
    ranges = " × ".join(
        f"{name} {points[0]:.5g} … {points[-1]:.5g}" for name, points in zip(function.names, function.axes, strict=True)
    )
    title = target.translate(
        f"{function.target} as a function of {ranges}, at {len(function.values)} points",
        f"{function.target} 作为 {ranges} 的函数，共 {len(function.values)} 点",
    )
    metric_table = format_table(header, rows, right=frozenset(range(1, len(header))))
    return f"{title}\n\n{metric_table}\n\n{_format_summary(target, function)}"


def _format_summary(target: Target, function: FunctionGrid) -> str:
    """Return the function's extremes, or where the predicted class changes, as text."""
    if not function.classes:
        extremes = []
        for index in (function.values.argmin(), function.values.argmax()):
            inputs = zip(function.names, function.points[index], strict=True)
            position = ", ".join(f"{name} = {value:.5g}" for name, value in inputs)
            extremes.append(f"{function.values[index]:.5g} ({position})")
        low, high = extremes
        return target.translate(f"minimum {low}; maximum {high}", f"最小 {low}；最大 {high}")
    if len(function.axes) == 1:
        lines = [line for borders in find_borders(function).values() for line in borders]
        changes = sorted({f"{line[0, 0]:.5g}" for line in lines}, key=float)
        listed = ", ".join(changes) or target.translate("none", "无")
        return target.translate(
            f"the predicted class changes at {function.names[0]} = {listed}",
            f"预测类别改变之处：{function.names[0]} = {listed}",
        )
    counts = np.bincount(function.margins.argmax(1), minlength=len(function.classes))
    shares = ", ".join(
        f"{name} {count / counts.sum():.1%}" for name, count in zip(function.classes, counts, strict=True)
    )
    return target.translate(f"predicted classes by share of the plane: {shares}", f"各预测类别占平面的比例：{shares}")

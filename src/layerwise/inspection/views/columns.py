"""The view ``columns``: permutation importance of the columns of a table.

L. Breiman, Random forests, Machine Learning 45 (2001): with metric s on the original rows and sⱼᵣ after the r-th
shuffle of column j, the importance of j is the mean over r of s − sⱼᵣ (sⱼᵣ − s if less is better). A shuffle permutes a
column of the table, so all inputs that encode it (one-hot categories, a date's cycles, missing-value flags) move
together. Redundant columns share their importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from layerwise.data.source import SPLITS, Array, ArraySource, Examples, Source, fetch
from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.inference.evaluate import evaluate
from layerwise.inspection.base import Target, View, format_table, require_data, save
from layerwise.inspection.predictions import get_device_and_dtype, make_batches
from layerwise.plotting.bars import plot_bars
from layerwise.runtime import rng
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task
from layerwise.tasks.row_inputs import RowInputs

SHUFFLES = 10
MAX_EXAMPLES = 10_000  # by default
MAX_BARS = 20  # columns in the figure
NAMES = {"accuracy": ("accuracy", "准确率"), "rmse": ("RMSE", "均方根误差")}


class Importance(NamedTuple):
    """A column, and by how much the metric is worse after each shuffle."""

    name: str
    kind: str
    worse: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The importance: the mean over the shuffles."""
        return float(np.mean(self.worse))

    @property
    def spread(self) -> float:
        """The standard deviation over the shuffles."""
        return float(np.std(self.worse))


def view(target: Target, *, out: Path | None) -> View:
    """Return each column's importance on the validation part or ``target.split``. Writes ``columns.svg``.

    Raises `UsageError` for runs on images, and for tasks without a target.
    """
    model, task, splits = require_data(target, "columns")
    split = target.split or "val"
    if split not in SPLITS:
        raise make_unknown_name_error("split", split, SPLITS)
    check_task(task)
    source = take_evenly(task.convert_source(splits.part(split)), target.examples or MAX_EXAMPLES)
    base, importances = compute_importances(model, task, source)
    importances.sort(key=lambda column: -column.mean)
    data = {
        "split": split,
        "examples": len(source),
        "shuffles": SHUFFLES,
        "metric": task.goal.metric,
        "value": base,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "importance": column.mean,
                "deviation": column.spread,
                "worse": list(column.worse),
            }
            for column in importances
        ],
    }
    text = format_text(target, task, base, importances, len(source), split)
    return View("columns", data, text, save(out, "columns.svg", draw_figure(target, task, importances)))


def check_task(task: Task) -> None:
    """Raise `UsageError` if the inputs are not rows of a table or the task has no target."""
    if not isinstance(task.inputs, RowInputs):
        raise UsageError(
            "the view 'columns' shuffles the columns of a table",
            expected="a run on a table",
            received="a run on images",
        )
    if task.goal.metric not in NAMES:
        raise UsageError(
            "the view 'columns' looks at how well a target is told from the columns",
            expected="classification or regression",
            received=task.name,
        )


def take_evenly(source: Source, count: int) -> ArraySource:
    """Return at most ``count`` evenly spaced rows of a table, as arrays."""
    indices = np.linspace(0, len(source) - 1, min(len(source), count)).astype(np.int64)
    examples: Examples = fetch(source, indices)
    return ArraySource(source.schema, np.asarray(examples.inputs), examples.targets, source.name_of(0))


def compute_importances(
    model: nn.Module, task: Task, source: ArraySource, *, shuffles: int = SHUFFLES
) -> tuple[float, list[Importance]]:
    """Return the task's metric on the original rows, and the importance of each column in order."""
    sign = 1.0 if task.goal.more_is_better else -1.0

    def compute_metric(rows: ArraySource) -> float:
        device, _ = get_device_and_dtype(model)
        result = evaluate(model, task, make_batches(model, task, rows), World(device=device))
        return result.metrics[task.goal.metric]

    base = compute_metric(source)
    importances = []
    for index, column in enumerate(source.schema.table):
        shuffled = (shuffle_column(source, index, repeat) for repeat in range(shuffles))
        worse = tuple(sign * (base - compute_metric(rows)) for rows in shuffled)
        importances.append(Importance(column.name, column.kind, worse))
    return base, importances


def shuffle_column(source: ArraySource, column: int, repeat: int) -> ArraySource:
    """Return the rows with one column shuffled; the order depends only on ``column`` and ``repeat``."""
    order = rng.make_numpy_generator("columns", column, repeat).permutation(len(source))
    inputs: Array = source.inputs.copy()
    inputs[:, column] = inputs[order, column]
    return replace(source, inputs=inputs)


def format_text(
    target: Target, task: Task, base: float, importances: Sequence[Importance], count: int, split: str
) -> str:
    """Return the importances as a table."""
    name = target.translate(*NAMES[task.goal.metric])
    head = target.translate(
        f"{name} on {count} rows of the {split} part is {base:.4g}; by how much it is worse when one column "
        "is shuffled "
        f"(mean ± deviation over {SHUFFLES} shuffles):",
        f"{split} 部分 {count} 行上的{name}为 {base:.4g}；打乱某一列后它变差多少（{SHUFFLES} 次打乱的均值 ± 标准差）：",
    )
    kinds = {"number": ("number", "数值"), "category": ("category", "类别"), "date": ("date", "日期")}
    rows = [
        [
            column.name,
            target.translate(*kinds[column.kind]),
            f"{round(column.mean, 4) + 0.0:+.4f}",
            f"± {column.spread:.4f}",
        ]
        for column in importances
    ]
    header = [
        target.translate("column", "列"),
        target.translate("kind", "类型"),
        target.translate("worse by", "变差"),
        "",
    ]
    return f"{head}\n\n" + format_table(header, rows, right=frozenset({2, 3}))


def draw_figure(target: Target, task: Task, importances: Sequence[Importance]) -> str:
    """Draw the importances as bars, the largest on top."""
    is_accuracy = task.goal.metric == "accuracy"
    label = (
        target.translate("drop in accuracy (points)", "准确率下降（百分点）")
        if is_accuracy
        else target.translate("rise in RMSE", "均方根误差上升")
    )
    scale = 100.0 if is_accuracy else 1.0
    columns = importances[:MAX_BARS]
    return plot_bars(
        [column.name for column in columns],
        [column.mean * scale for column in columns],
        [column.spread * scale for column in columns],
        x=label,
    )

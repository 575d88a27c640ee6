"""The view ``columns``: how much worse a run's answers get when one column of its table is shuffled.

Permutation importance, L. Breiman, Random forests, Machine Learning 45 (2001): with metric s on the part as it is and
sⱼᵣ after the r-th shuffle of column j, the importance of j is the mean over r of s − sⱼᵣ (sⱼᵣ − s where less is
better). Whole columns of the table are shuffled, so that a category's places, a date's cycles and the marks of gaps go
together. Columns that say the same share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from layerwise.data.source import SPLITS, Array, ArraySource, Examples, Source, fetch
from layerwise.errors import UsageError, unknown
from layerwise.inference.evaluate import evaluate
from layerwise.inspection.base import Target, View, save, table, trained
from layerwise.inspection.predictions import batches_of, place_of
from layerwise.plotting.bars import bars
from layerwise.runtime import rng
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task
from layerwise.tasks.rows import RowInputs

SHUFFLES = 10
MOST = 10_000  # examples that are looked at unless more are asked for
DRAWN = 20  # columns in the figure
NAMES = {"accuracy": ("accuracy", "准确率"), "rmse": ("RMSE", "均方根误差")}


class Importance(NamedTuple):
    """A column, and by how much the metric is worse after each of the shuffles."""

    name: str
    kind: str
    worse: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The importance."""
        return float(np.mean(self.worse))

    @property
    def spread(self) -> float:
        """The deviation over the shuffles."""
        return float(np.std(self.worse))


def view(target: Target, *, out: Path | None) -> View:
    """Return each column's importance on the validation part unless ``target.split`` names another. Writes
    ``columns.svg``.

    Raises `UsageError` for runs on images, and for runs without a target.
    """
    model, task, splits = trained(target, "columns")
    split = target.split or "val"
    if split not in SPLITS:
        raise unknown("part of the data", split, SPLITS)
    refuse_others(task)
    source = some(task.adopt(splits.part(split)), target.examples or MOST)
    base, found = importances(model, task, source)
    found.sort(key=lambda one: -one.mean)
    data = {
        "split": split,
        "examples": len(source),
        "shuffles": SHUFFLES,
        "metric": task.goal.metric,
        "value": base,
        "columns": [
            {
                "name": one.name,
                "kind": one.kind,
                "importance": one.mean,
                "deviation": one.spread,
                "worse": list(one.worse),
            }
            for one in found
        ],
    }
    text = written(target, task, base, found, len(source), split)
    return View("columns", data, text, save(out, "columns.svg", drawing(target, task, found)))


def refuse_others(task: Task) -> None:
    """Refuse what has no columns, and what has no answer that could get worse."""
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


def some(source: Source, count: int) -> ArraySource:
    """Return at most ``count`` evenly spaced rows of a table, as arrays."""
    at = np.linspace(0, len(source) - 1, min(len(source), count)).astype(np.int64)
    found: Examples = fetch(source, at)
    return ArraySource(source.schema, np.asarray(found.inputs), found.targets, source.name_of(0))


def importances(
    model: nn.Module, task: Task, source: ArraySource, *, shuffles: int = SHUFFLES
) -> tuple[float, list[Importance]]:
    """Return the goal's metric on the rows as they are, and each column's importance, in the order of the columns."""
    sign = 1.0 if task.goal.more_is_better else -1.0

    def metric(rows: ArraySource) -> float:
        found = evaluate(model, task, batches_of(model, task, rows), World(device=place_of(model)[0]))
        return found.metrics[task.goal.metric]

    base = metric(source)
    out = []
    for at, column in enumerate(source.schema.table):
        worse = tuple(sign * (base - metric(shuffled(source, at, turn))) for turn in range(shuffles))
        out.append(Importance(column.name, column.kind, worse))
    return base, out


def shuffled(source: ArraySource, column: int, turn: int) -> ArraySource:
    """Return the rows with one column's cells in another order, drawn from (column, turn)."""
    order = rng.numpy_generator("columns", column, turn).permutation(len(source))
    inputs: Array = source.inputs.copy()
    inputs[:, column] = inputs[order, column]
    return replace(source, inputs=inputs)


def written(target: Target, task: Task, base: float, found: Sequence[Importance], count: int, split: str) -> str:
    """Return the importances as a table."""
    name = target.say(*NAMES[task.goal.metric])
    head = target.say(
        f"{name} on {count} rows of the {split} part is {base:.4g}; by how much it is worse when one column "
        "is shuffled "
        f"(mean ± deviation over {SHUFFLES} shuffles):",
        f"{split} 部分 {count} 行上的{name}为 {base:.4g}；打乱某一列后它变差多少（{SHUFFLES} 次打乱的均值 ± 标准差）：",
    )
    kinds = {"number": ("number", "数值"), "category": ("category", "类别"), "date": ("date", "日期")}
    rows = [
        [one.name, target.say(*kinds[one.kind]), f"{round(one.mean, 4) + 0.0:+.4f}", f"± {one.spread:.4f}"]
        for one in found
    ]
    header = [target.say("column", "列"), target.say("kind", "类型"), target.say("worse by", "变差"), ""]
    return f"{head}\n\n" + table(header, rows, right=frozenset({2, 3}))


def drawing(target: Target, task: Task, found: Sequence[Importance]) -> str:
    """Return the importances as bars, the largest on top."""
    share = task.goal.metric == "accuracy"
    label = (
        target.say("drop in accuracy (points)", "准确率下降（百分点）")
        if share
        else target.say("rise in RMSE", "均方根误差上升")
    )
    scale = 100.0 if share else 1.0
    shown = found[:DRAWN]
    return bars(
        [one.name for one in shown], [one.mean * scale for one in shown], [one.spread * scale for one in shown], x=label
    )

"""What the page shows of each kind of task, as plain values for the template: tables, inline drawings, images.

``N`` examples, ``K`` classes, ``C H W`` an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from torch import Tensor, nn

from layerwise.data.source import Column, Source, Splits, fetch
from layerwise.inspection.predictions import Answers, Case, inputs_shown, worst, wrong
from layerwise.inspection.views.decision_surface import applies, drawing, fitted
from layerwise.inspection.views.mistakes import image_sheet
from layerwise.inspection.views.samples import STEPS, as_images, samples
from layerwise.models.boltzmann import stack_of
from layerwise.plotting import charts, images
from layerwise.plotting.bars import reliability
from layerwise.plotting.svg import inline
from layerwise.report.texts import Texts
from layerwise.tasks.assessment import BINS
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs
from layerwise.tasks.regression import Regression
from layerwise.tasks.rows import RowInputs

Json = dict[str, Any]
MISTAKES, HARDEST, COLUMNS = 24, 8, 12
READABLE = 30  # classes up to which the matrix is a table of numbers
PAIRS = 8


@dataclass
class Figures:
    """Draws for the page and keeps every drawing as a file of the run."""

    write: Callable[[str, bytes], None]
    names: list[str] = field(default_factory=list)

    def add(self, name: str, svg: str) -> Markup:
        """Write ``figures/NAME.svg`` and return the drawing for the page. Its text was escaped where it was drawn."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "figure"
        self.names.append(plain)
        unique = plain if self.names.count(plain) == 1 else f"{plain}-{self.names.count(plain)}"
        self.write(f"figures/{unique}.svg", svg.encode("utf-8", "replace"))
        return Markup(inline(svg, f"f{len(self.names)}"))


# -- curves --------------------------------------------------------------------------------------------------------


def stages(history: list[Json], task: Task, figures: Figures, text: Texts, *, best: int | None) -> list[Json]:
    """Return each stage's name and drawings: its losses, then its metric. ``best`` marks an epoch of the last stage."""
    names = list(dict.fromkeys(str(row["stage"]) for row in history))
    return [
        {
            "name": name,
            "drawings": _stage(
                name,
                [row for row in history if str(row["stage"]) == name],
                task,
                figures,
                text,
                best if name == names[-1] else None,
            ),
        }
        for name in names
    ]


def _stage(name: str, rows: list[Json], task: Task, figures: Figures, text: Texts, best: int | None) -> list[Markup]:
    """Draw one stage."""
    found = []
    losses = {text(part): series(rows, f"{part}/loss") for part in ("train", "val")}
    label = text("best") if best is not None else ""
    if any(losses.values()):
        drawn = charts.curves(losses, x=text("epoch"), y=text("loss"), best=best, best_label=label)
        found.append(figures.add(f"{name}-loss", drawn))
    metric = goal_metric(rows, task)
    if metric:
        points = {text(part): series(rows, f"{part}/{metric}") for part in ("train", "val")}
        drawn = charts.curves(
            points, x=text("epoch"), y=text.metric(metric), best=best, best_label=label, percent=metric == "accuracy"
        )
        found.append(figures.add(f"{name}-{metric}", drawn))
    return found


def goal_metric(rows: list[Json], task: Task) -> str:
    """Return the metric a stage is judged by: the task's own if it was measured, else the first that is no loss."""
    measured = (
        [key.removeprefix("val/") for key in rows[-1] if key.startswith("val/") and key != "val/loss"] if rows else []
    )
    return task.goal.metric if task.goal.metric in measured else next(iter(measured), "")


def series(rows: list[Json], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) pairs of a column, without what is missing or no number."""
    return [
        (float(row["epoch"]), float(row[key]))
        for row in rows
        if isinstance(row.get(key), int | float) and np.isfinite(row[key])
    ]


# -- functions of one or two numbers -------------------------------------------------------------------------------


def function(model: nn.Module, task: Task, splits: Splits, figures: Figures, text: Texts) -> Json | None:
    """Return the fitted function or the classes' regions, with the data; None for other inputs than one or two
    numbers."""
    if not applies(task):
        return None
    found = fitted(model, task, splits)
    drawn = figures.add("function", drawing(found, "zh" if text.lang == "zh" else "en"))
    return {"title": text(found.kind), "note": text(f"{found.kind} note"), "drawing": drawn}


# -- classification ------------------------------------------------------------------------------------------------


def confusion(task: Classification, found: Answers, figures: Figures, text: Texts) -> Json:
    """Return the confusion matrix: a table of numbers up to 30 classes, a drawing beyond, and the pairs most often
    confused."""
    counts = np.asarray(found.meter.state()["confusion"].numpy())
    drawing = figures.add(
        "confusion", images.confusion(counts, task.classes, true=text("true"), predicted=text("predicted"))
    )
    sums = counts.sum(1)
    rows = [
        {
            "name": task.classes[i],
            "cells": [
                {"count": int(n), "alpha": round(0.12 + 0.88 * n / sums[i], 3) if n else 0, "right": i == j}
                for j, n in enumerate(counts[i])
            ],
            "recall": f"{counts[i, i] / sums[i]:.0%}" if sums[i] else "–",
        }
        for i in range(len(task.classes))
    ]
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    places = [divmod(int(at), len(task.classes)) for at in order]
    pairs = [(task.classes[i], task.classes[j], int(off[i, j])) for i, j in places if off[i, j]]
    readable = len(task.classes) <= READABLE
    return {
        "classes": task.classes,
        "long": max(map(len, task.classes)) > 3,
        "rows": rows if readable else [],
        "drawing": "" if readable else drawing,
        "pairs": pairs,
        "by_class": by_class(found),
    }


def calibration(found: Answers, figures: Figures, text: Texts) -> Json:
    """Return the reliability diagram and its note."""
    table = found.details["calibration"]
    said, right, counts = ([b[key] for b in table["bins"]] for key in ("confidence", "accuracy", "count"))
    drawn = reliability(said, right, counts, width=1 / BINS, x=text("said"), y=text("right"))
    error = f"{table['error']:.1%}" if np.isfinite(table["error"]) else "–"
    return {"drawing": figures.add("calibration", drawn), "note": text("calibration note", error=error)}


def by_class(found: Answers) -> list[Json]:
    """Return precision, recall, F1 and the area under the ROC curve of each class, as text."""
    return [
        {"name": one["name"], "support": one["support"]}
        | {key: "–" if one[key] is None else f"{one[key]:.3f}" for key in ("precision", "recall", "f1", "roc_auc")}
        for one in found.details["classes"]
    ]


def mean_error(task: Regression, found: Answers) -> float:
    """Return the root mean square error of the training part's mean as every answer, in the target's own unit."""
    assert found.targets is not None
    return float(found.targets.double().square().mean().sqrt()) * task.spread


def baseline(task: Classification, found: Answers) -> tuple[str, float]:
    """Return the most common true class and its share: what an answer without looking would reach."""
    sums = found.meter.state()["confusion"].sum(1)
    return task.classes[int(sums.argmax())], float(sums.max() / sums.sum().clamp_min(1))


def mistakes(task: Task, found: Answers, source: Source, figures: Figures, text: Texts) -> Json:
    """Return the worst mistakes; where nothing is wrong, the hardest examples; for other tasks those of highest
    loss."""
    missed = wrong(task, found)
    count = int(missed.sum())
    if task.name != "classification":
        cases = worst(task, found, source, count=HARDEST if task.name == "reconstruction" else MISTAKES)
        title = text("worst reconstructed" if task.name == "reconstruction" else "largest errors")
        note = ""
    elif count:
        cases = worst(task, found, source, count=MISTAKES, among=missed)
        title, note = text("mistakes"), text("mistakes note", shown=len(cases), wrong=count)
    else:
        cases = worst(task, found, source, count=HARDEST)
        title, note = text("mistakes"), text("no mistakes")
    shown = bool(cases) and cases[0].image is not None
    if shown:
        figures.add("mistakes", image_sheet(cases))
    columns = () if shown else source.schema.features[:COLUMNS]
    return {
        "title": title,
        "note": note,
        "images": shown,
        "columns": columns,
        "cases": [_case(case, source.schema.table[: len(columns)]) for case in cases],
    }


def _case(case: Case, columns: Sequence[Column]) -> Json:
    """Return a case as the template shows it."""
    return {
        "name": case.name,
        "true": case.true,
        "predicted": case.predicted,
        "loss": f"{case.loss:.4g}",
        "score": "" if case.score is None else f"{case.score:.1%}",
        "image": "" if case.image is None else images.data_uri(images.png(case.image)),
        "row": [cell(value, column) for value, column in zip(case.row, columns, strict=False)],
    }


def cell(value: float, column: Column) -> str:
    """Return a cell as the table had it: a number, a category's name, a date; a dash for a gap and a value never seen
    in training."""
    if np.isnan(value) or (column.kind == "category" and value < 0):
        return "–"
    if column.kind == "category":
        return column.values[int(value)]
    return (
        str(np.datetime64(round(value * 86_400), "s")).removesuffix("T00:00:00")
        if column.kind == "date"
        else f"{value:.6g}"
    )


# -- regression ----------------------------------------------------------------------------------------------------


def scatter(task: Regression, found: Answers, figures: Figures, text: Texts) -> Markup:
    """Draw predicted against true values in the target's own unit."""
    assert found.targets is not None
    true, said = ((t.double().reshape(-1) * task.spread + task.shift).tolist() for t in (found.targets, found.outputs))
    x = text("true value", name=task.target)
    return figures.add("scatter", charts.scatter(true, said, x=x, y=text("predicted value")))


# -- reconstruction, samples ---------------------------------------------------------------------------------------


def reconstructions(task: Task, found: Answers, source: Source, figures: Figures) -> Json:
    """Return originals beside reconstructions of evenly spaced examples; for rows the error by column."""
    if not isinstance(task.inputs, ImageInputs):
        return {"pairs": [], "columns": _columns(task, found, source)}
    at = np.linspace(0, len(found.ids) - 1, min(len(found.ids), COLUMNS)).astype(np.int64)
    ids = found.ids[at].numpy()
    examples = fetch(source, ids)
    batch = task.collate(examples)
    originals = inputs_shown(task, examples, batch)
    made = task.inputs.raw(found.outputs[at].float().view_as(batch.inputs)).numpy()
    figures.add("reconstructions", images.sheet([list(originals), list(made)]))
    pairs = [
        {"name": source.name_of(int(i)), "original": _uri(a), "made": _uri(b)}
        for i, a, b in zip(ids, originals, made, strict=True)
    ]
    return {"pairs": pairs, "columns": []}


def _uri(image: Any) -> str:
    """Return an image as a data URI."""
    return images.data_uri(images.png(image))


def _columns(task: Task, found: Answers, source: Source) -> list[Json]:
    """Return each column's deviation in the data and root mean square error, in its own unit."""
    examples = fetch(source, found.ids.numpy())
    inputs: Tensor = task.inputs.raw(task.collate(examples).inputs.double())  # (N, D)
    made = task.inputs.raw(found.outputs.double().view_as(inputs))
    errors = (made - inputs).square().mean(0).sqrt().tolist()
    spreads = inputs.std(0, correction=0).tolist()
    assert isinstance(task.inputs, RowInputs)
    names = task.inputs.encoded_names
    return [
        {"name": n, "deviation": f"{s:.4g}", "error": f"{e:.4g}"}
        for n, s, e in zip(names, spreads, errors, strict=True)
    ]


def drawn(model: nn.Module, task: Task, figures: Figures, text: Texts) -> Json | None:
    """Return samples of a Boltzmann machine over images as data URIs, or None for other models."""
    if not stack_of(model) or not isinstance(task.inputs, ImageInputs):
        return None
    found = as_images(samples(model, count=2 * COLUMNS), task)
    assert found is not None
    figures.add("samples", images.sheet(images.in_rows(list(found), COLUMNS)))
    return {"note": text("samples note", steps=STEPS), "images": [_uri(p) for p in found]}

"""What the page shows of each kind of task, as plain values for the template: tables, inline drawings, images.

``N`` examples, ``K`` classes, ``C H W`` an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor, nn

from layerwise.data.source import Column, Source, Splits, fetch
from layerwise.inference.predict import Predictor
from layerwise.inspection.predictions import ExamplePrediction, Predictions, find_worst, find_wrong, get_raw_inputs
from layerwise.inspection.views.decision_surface import can_draw_function, draw_function, evaluate_on_grid
from layerwise.inspection.views.mistakes import draw_mistakes
from layerwise.inspection.views.samples import STEPS, draw_samples, to_images
from layerwise.models.boltzmann import list_rbms
from layerwise.plotting import charts, images
from layerwise.plotting.bars import plot_reliability
from layerwise.plotting.svg import inline_svg
from layerwise.report.translations import TEXTS, Texts
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.column_encoders import CategoryEncoder, ColumnEncoder, NumberEncoder
from layerwise.tasks.evaluation_metrics import BINS
from layerwise.tasks.inputs import ImageInputs
from layerwise.tasks.regression import Regression
from layerwise.tasks.row_inputs import RowInputs
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import WordPrediction

Json = dict[str, Any]
MISTAKES, HARDEST, COLUMNS = 24, 8, 12
READABLE = 30  # classes up to which the matrix is a table of numbers
PAIRS = 8
WORDS, NEIGHBORS = 16, 6
SKIPPED = 30  # the most frequent words say little: articles, prepositions


@dataclass
class Figures:
    """Adds drawings to the page, and writes each as a file of the run."""

    write: Callable[[str, bytes], None]
    names: list[str] = field(default_factory=list)

    def add(self, name: str, svg: str) -> Markup:
        """Write ``figures/NAME.svg`` and return the drawing for the page. Its text is escaped already."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "figure"
        self.names.append(plain)
        unique = plain if self.names.count(plain) == 1 else f"{plain}-{self.names.count(plain)}"
        self.write(f"figures/{unique}.svg", svg.encode("utf-8", "replace"))
        return Markup(inline_svg(svg, f"f{len(self.names)}"))


# -- curves --------------------------------------------------------------------------------------------------------


def build_stages(history: list[Json], task: Task, figures: Figures, text: Texts, *, best: int | None) -> list[Json]:
    """Return each stage's name and drawings: its losses, then its metric. ``best`` marks an epoch of the last stage."""
    names = list(dict.fromkeys(str(row["stage"]) for row in history))
    stages = []
    for name in names:
        rows = [row for row in history if str(row["stage"]) == name]
        drawings = _draw_stage(name, rows, task, figures, text, best if name == names[-1] else None)
        stages.append({"name": name, "drawings": drawings})
    return stages


def _draw_stage(
    name: str, rows: list[Json], task: Task, figures: Figures, text: Texts, best: int | None
) -> list[Markup]:
    """Draw one stage."""
    drawings = []
    losses = {text(part): get_series(rows, f"{part}/loss") for part in ("train", "val")}
    label = text("best") if best is not None else ""
    if any(losses.values()):
        drawing = charts.plot_curves(losses, x=text("epoch"), y=text("loss"), best=best, best_label=label)
        drawings.append(figures.add(f"{name}-loss", drawing))
    metric = choose_goal_metric(rows, task)
    if metric:
        points = {text(part): get_series(rows, f"{part}/{metric}") for part in ("train", "val")}
        drawing = charts.plot_curves(
            points, x=text("epoch"), y=text.metric(metric), best=best, best_label=label, percent=metric == "accuracy"
        )
        drawings.append(figures.add(f"{name}-{metric}", drawing))
    return drawings


def choose_goal_metric(rows: list[Json], task: Task) -> str:
    """Return the metric a stage is judged by: the task's own if it was measured, else the first that is no loss."""
    measured = (
        [key.removeprefix("val/") for key in rows[-1] if key.startswith("val/") and key != "val/loss"] if rows else []
    )
    return task.goal.metric if task.goal.metric in measured else next(iter(measured), "")


def get_series(rows: list[Json], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) pairs of a column, without what is missing or no number."""
    return [
        (float(row["epoch"]), float(row[key]))
        for row in rows
        if isinstance(row.get(key), int | float) and np.isfinite(row[key])
    ]


# -- functions of one or two numbers -------------------------------------------------------------------------------


def build_function_section(model: nn.Module, task: Task, splits: Splits, figures: Figures, text: Texts) -> Json | None:
    """Return the fitted function or the classes' regions, with the data; None for other inputs than one or two
    numbers."""
    if not can_draw_function(task):
        return None
    fitted_function = evaluate_on_grid(model, task, splits)
    drawn = figures.add("function", draw_function(fitted_function, "zh" if text.lang == "zh" else "en"))
    return {"title": text(fitted_function.kind), "note": text(f"{fitted_function.kind} note"), "drawing": drawn}


# -- classification ------------------------------------------------------------------------------------------------


def build_confusion_section(task: Classification, predictions: Predictions, figures: Figures, text: Texts) -> Json:
    """Return the confusion matrix: a table of numbers up to 30 classes, a drawing beyond, and the pairs most often
    confused."""
    counts = np.asarray(predictions.meter.state()["confusion"].numpy())
    drawing = figures.add(
        "confusion", images.draw_confusion_matrix(counts, task.classes, true=text("true"), predicted=text("predicted"))
    )
    sums = counts.sum(1)
    rows = []
    for i, name in enumerate(task.classes):
        cells = []
        for j, n in enumerate(counts[i]):
            alpha = round(0.12 + 0.88 * n / sums[i], 3) if n else 0
            cells.append({"count": int(n), "alpha": alpha, "right": i == j})
        recall = f"{counts[i, i] / sums[i]:.0%}" if sums[i] else "–"
        rows.append({"name": name, "cells": cells, "recall": recall})
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
        "by_class": format_class_metrics(predictions),
    }


def build_calibration_section(predictions: Predictions, figures: Figures, text: Texts) -> Json:
    """Return the reliability diagram and its note."""
    table = predictions.details["calibration"]
    confidences, accuracies, counts = ([b[key] for b in table["bins"]] for key in ("confidence", "accuracy", "count"))
    drawing = plot_reliability(
        confidences, accuracies, counts, width=1 / BINS, x=text("confidence axis"), y=text("accuracy axis")
    )
    error = f"{table['error']:.1%}" if np.isfinite(table["error"]) else "–"
    return {"drawing": figures.add("calibration", drawing), "note": text("calibration note", error=error)}


def format_class_metrics(predictions: Predictions) -> list[Json]:
    """Return precision, recall, F1 and the area under the ROC curve of each class, as text."""
    rows = []
    for metrics in predictions.details["classes"]:
        row = {"name": metrics["name"], "support": metrics["support"]}
        for key in ("precision", "recall", "f1", "roc_auc"):
            row[key] = "–" if metrics[key] is None else f"{metrics[key]:.3f}"
        rows.append(row)
    return rows


def compute_mean_error(task: Regression, predictions: Predictions) -> float:
    """Return the root mean square error of always predicting the training part's mean, in the target's own unit."""
    assert predictions.targets is not None
    return float(predictions.targets.double().square().mean().sqrt()) * task.spread


def find_majority_class(task: Classification, predictions: Predictions) -> tuple[str, float]:
    """Return the most common true class and its share: the accuracy of always predicting it."""
    sums = predictions.meter.state()["confusion"].sum(1)
    return task.classes[int(sums.argmax())], float(sums.max() / sums.sum().clamp_min(1))


def build_mistakes_section(task: Task, predictions: Predictions, source: Source, figures: Figures, text: Texts) -> Json:
    """Return the worst mistakes; where nothing is wrong, the hardest examples; for other tasks those of highest
    loss."""
    is_wrong = find_wrong(task, predictions)
    count = int(is_wrong.sum())
    if task.name != "classification":
        cases = find_worst(task, predictions, source, count=HARDEST if task.name == "reconstruction" else MISTAKES)
        title = text("worst reconstructed" if task.name == "reconstruction" else "largest errors")
        note = ""
    elif count:
        cases = find_worst(task, predictions, source, count=MISTAKES, among=is_wrong)
        title, note = text("mistakes"), text("mistakes note", listed=len(cases), wrong=count)
    else:
        cases = find_worst(task, predictions, source, count=HARDEST)
        title, note = text("mistakes"), text("no mistakes")
    has_images = bool(cases) and cases[0].image is not None
    if has_images:
        figures.add("mistakes", draw_mistakes(cases))
    columns = () if has_images else source.schema.features[:COLUMNS]
    return {
        "title": title,
        "note": note,
        "images": has_images,
        "columns": columns,
        "cases": [_format_case(case, source.schema.table[: len(columns)]) for case in cases],
    }


def _format_case(case: ExamplePrediction, columns: Sequence[Column]) -> Json:
    """Return a case as the template shows it."""
    return {
        "name": case.name,
        "true": case.true,
        "predicted": case.predicted,
        "loss": f"{case.loss:.4g}",
        "score": "" if case.score is None else f"{case.score:.1%}",
        "image": "" if case.image is None else images.to_data_uri(images.encode_png(case.image)),
        "row": [format_cell(value, column) for value, column in zip(case.row, columns, strict=False)],
    }


def format_cell(value: float, column: Column) -> str:
    """Return a cell as the table had it: a number, a category's name, a date; a dash for a missing value and a value
    never seen in training."""
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


def draw_scatter(task: Regression, predictions: Predictions, figures: Figures, text: Texts) -> Markup:
    """Draw predicted against true values in the target's own unit."""
    assert predictions.targets is not None
    scaled = (predictions.targets, predictions.outputs)
    true, predicted = ((values.double().reshape(-1) * task.spread + task.shift).tolist() for values in scaled)
    x = text("true value", name=task.target)
    return figures.add("scatter", charts.plot_scatter(true, predicted, x=x, y=text("predicted value")))


# -- reconstruction, samples ---------------------------------------------------------------------------------------


def build_reconstructions_section(task: Task, predictions: Predictions, source: Source, figures: Figures) -> Json:
    """Return originals and reconstructions of evenly spaced examples; for rows the error by column."""
    if not isinstance(task.inputs, ImageInputs):
        return {"pairs": [], "columns": _compute_column_errors(task, predictions, source)}
    positions = np.linspace(0, len(predictions.ids) - 1, min(len(predictions.ids), COLUMNS)).astype(np.int64)
    ids = predictions.ids[positions].numpy()
    examples = fetch(source, ids)
    batch = task.collate(examples)
    originals = get_raw_inputs(task, examples, batch)
    reconstructions = task.inputs.raw(predictions.outputs[positions].float().view_as(batch.input_tensor)).numpy()
    figures.add("reconstructions", images.draw_image_sheet([list(originals), list(reconstructions)]))
    pairs = [
        {"name": source.name_of(int(i)), "original": _to_data_uri(a), "reconstruction": _to_data_uri(b)}
        for i, a, b in zip(ids, originals, reconstructions, strict=True)
    ]
    return {"pairs": pairs, "columns": []}


def _to_data_uri(image: Any) -> str:
    """Return an image as a data URI."""
    return images.to_data_uri(images.encode_png(image))


def _compute_column_errors(task: Task, predictions: Predictions, source: Source) -> list[Json]:
    """Return each column's deviation in the data and root mean square error, in its own unit."""
    examples = fetch(source, predictions.ids.numpy())
    inputs: Tensor = task.inputs.raw(task.collate(examples).input_tensor.double())  # (N, D)
    reconstructions = task.inputs.raw(predictions.outputs.double().view_as(inputs))
    errors = (reconstructions - inputs).square().mean(0).sqrt().tolist()
    spreads = inputs.std(0, correction=0).tolist()
    assert isinstance(task.inputs, RowInputs)
    names = task.inputs.encoded_names
    return [
        {"name": n, "deviation": f"{s:.4g}", "error": f"{e:.4g}"}
        for n, s, e in zip(names, spreads, errors, strict=True)
    ]


def build_samples_section(model: nn.Module, task: Task, figures: Figures, text: Texts) -> Json | None:
    """Return samples of a Boltzmann machine over images as data URIs, or None for other models."""
    if not list_rbms(model) or not isinstance(task.inputs, ImageInputs):
        return None
    sampled = to_images(draw_samples(model, count=2 * COLUMNS), task)
    assert sampled is not None
    figures.add("samples", images.draw_image_sheet(images.split_into_rows(list(sampled), COLUMNS)))
    return {"note": text("samples note", steps=STEPS), "images": [_to_data_uri(p) for p in sampled]}


# -- the table's columns -------------------------------------------------------------------------------------------


def build_columns_section(task: Task, columns: list[Json], text: Texts) -> list[Json]:
    """Return a line for each column, in the file's order; none for runs on images and for runs without a record of
    columns."""
    if not isinstance(task.inputs, RowInputs):
        return []
    encoders = {encoder.name: encoder for encoder in task.inputs.encoders}
    lines = []
    for column in columns:
        encoder = encoders.get(column["name"])
        lines.append(
            {
                "name": column["name"],
                "kind": text(f"k {column['kind']}") if f"k {column['kind']}" in TEXTS else column["kind"],
                "missing": column["missing"] or "",
                "distinct": f"{column['distinct']:,}",
                "example": column["example"],
                "becomes": describe_role(column["role"], text) if encoder is None else describe_encoding(encoder, text),
                "used": encoder is not None,
            }
        )
    return lines


def describe_role(name: str, text: Texts) -> str:
    """Return in words what a column that is no feature is for, or why it is left out."""
    return text(name) if name in TEXTS else text(f"r {name}") if f"r {name}" in TEXTS else name


def describe_encoding(encoder: ColumnEncoder, text: Texts) -> str:
    """Return in words what a column becomes."""
    if isinstance(encoder, CategoryEncoder):
        encoding = text("c vector" if encoder.embed else "c category", count=len(encoder.values))
    elif isinstance(encoder, NumberEncoder):
        encoding = text("c number")
    else:
        encoding = text("c date", count=encoder.width - encoder.has_missing)
    return text("c missing", what=encoding) if encoder.has_missing else encoding


# -- word vectors --------------------------------------------------------------------------------------------------


def build_neighbors_section(model: nn.Module, task: Task) -> list[Json] | None:
    """Return words, evenly spread over the ranks of the frequent half, with their counts and neighbors; None for other
    tasks."""
    if not isinstance(task.inputs, WordInputs):
        return None
    words = task.inputs.words
    first = min(SKIPPED, len(words) // 4)
    last = max(first, min(len(words) // 2, 40 * WORDS) - 1)
    picked = [words[int(n)] for n in torch.linspace(first, last, min(WORDS, last - first + 1))]
    predictions = Predictor(task.prediction_model(model), task)(*picked)
    return [
        {
            "word": word,
            "count": task.inputs.counts[task.inputs.numbers[word]],
            "nearest": list(prediction.nearest.items())[:NEIGHBORS],
        }
        for word, prediction in zip(picked, predictions, strict=True)
        if isinstance(prediction, WordPrediction)
    ]

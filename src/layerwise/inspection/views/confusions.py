"""The view ``confusions``: the classes that the model confuses most often, with images of these mistakes.

``K`` classes. The view counts each pair (true, predicted) over a part of the data, and sorts the pairs by count, then
by class index.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.inspection.image_selection import require_classes, require_network, select_split
from layerwise.inspection.predictions import (
    ExamplePrediction,
    Predictions,
    compute_predictions,
    get_example_predictions,
    make_batches,
)
from layerwise.plotting.images import Floats, draw_image_sheet
from layerwise.tasks.objectives import to_class_logits

PAIRS, IMAGES = 6, 8


def view(target: Target, *, out: Path | None) -> View:
    """Return the six most frequent pairs of true and predicted class, with their worst mistakes.

    Reads the test part or ``target.split``; ``target.examples`` is the number of mistakes for each pair. Writes
    ``confusions.svg`` for images. Raises `UsageError` if the task has no classes.
    """
    model, task = require_network(target, "confusions")
    names = require_classes(target, task, "confusions")
    source, split = select_split(target, "confusions")
    predictions = compute_predictions(model, task, make_batches(model, task, source))
    predicted_labels = to_class_logits(predictions.outputs).argmax(1)
    assert predictions.targets is not None
    counts = count_confusions(predictions.targets, predicted_labels, len(names))
    pairs: list[Json] = []
    mistakes: list[list[ExamplePrediction]] = []
    for true, predicted in rank_confused_pairs(counts)[:PAIRS]:
        positions = find_worst_mistakes(predictions, predicted_labels, true, predicted)[: target.examples or IMAGES]
        mistakes.append(get_example_predictions(task, predictions, source, positions))
        pairs.append(
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": int(counts[true, predicted]),
                "of": int(counts[true].sum()),
                "back": int(counts[predicted, true]),
                "examples": [case.to_json() for case in mistakes[-1]],
            }
        )
    wrong = int(counts.sum() - counts.diagonal().sum())
    count = len(predicted_labels)
    data = {"model": target.spec.name, "split": split, "examples": count, "wrong": wrong, "pairs": pairs}
    figures: list[Path] = []
    if mistakes and mistakes[0][0].image is not None:
        figures = save(out, "confusions.svg", draw_figure(target, data, mistakes))
    return View("confusions", data, _format_text(target, data), figures)


def count_confusions(true: Tensor, predicted_labels: Tensor, classes: int) -> Tensor:
    """Return the confusion matrix (K, K), true classes by row."""
    return torch.bincount(true.long() * classes + predicted_labels, minlength=classes**2).view(classes, classes)


def rank_confused_pairs(counts: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of different classes with at least one confusion, the most frequent first."""
    pairs = [(i, j) for i, j in counts.nonzero().tolist() if i != j]
    return sorted(pairs, key=lambda pair: (-int(counts[pair]), pair))


def find_worst_mistakes(predictions: Predictions, predicted_labels: Tensor, true: int, predicted: int) -> Tensor:
    """Return the positions of a pair's mistakes, in order of decreasing loss."""
    assert predictions.targets is not None
    positions = ((predictions.targets == true) & (predicted_labels == predicted)).nonzero()[:, 0]
    return positions[predictions.losses[positions].double().argsort(descending=True, stable=True)]


def draw_figure(target: Target, data: Json, mistakes: list[list[ExamplePrediction]]) -> str:
    """Draw a row of images for each pair, with the score of the wrong class."""
    rows: list[list[Floats]] = [[np.asarray(case.image) for case in row] for row in mistakes]
    captions = [[f"{case.score:.1%}" if case.score is not None else "" for case in row] for row in mistakes]
    labels = [f"{pair['true']} → {pair['predicted']} · {_format_share(target, pair)}" for pair in data["pairs"]]
    labels[0] += target.translate("; below: confidence in the wrong class", "；下方为对错误类别的得分")
    return draw_image_sheet(rows, captions=captions, labels=labels)


def _format_share(target: Target, pair: Json) -> str:
    """Return how many examples of the true class got the other label, as text."""
    return target.translate(f"{pair['count']} of {pair['of']}", f"{pair['of']} 个中 {pair['count']} 个")


def _format_text(target: Target, data: Json) -> str:
    """Return the pairs as a table."""
    translate, count, wrong, part = target.translate, data["examples"], data["wrong"], data["split"]
    if not data["pairs"]:
        return translate(
            f"none of the {count} examples of the {part} part is wrong", f"{part} 部分的 {count} 个样本全部预测正确"
        )
    head = [
        translate("true", "真实"),
        translate("predicted", "预测"),
        translate("count", "次数"),
        translate("of", "总数"),
        translate("share", "比例"),
        translate("reverse", "反向"),
        translate("worst", "最严重"),
    ]
    rows = [
        [
            p["true"],
            p["predicted"],
            str(p["count"]),
            str(p["of"]),
            f"{p['count'] / p['of']:.1%}",
            str(p["back"]),
            p["examples"][0]["name"],
        ]
        for p in data["pairs"]
    ]
    listed = sum(p["count"] for p in data["pairs"])
    return "\n".join(
        [
            translate(
                f"{data['model']}: {wrong} of {count} examples of the {part} part are wrong, {listed} of them "
                "in these pairs",
                f"{data['model']}：{part} 部分 {count} 个样本中错 {wrong} 个，其中 {listed} 个属于下列类别对",
            ),
            "",
            format_table(head, rows, right=frozenset({2, 3, 4, 5})),
            "",
            translate(
                "share: of the examples of the true class. "
                "reverse: how often the model took the second class for the first.\n"
                "worst: the mistake of highest loss; images are in order of loss.",
                "比例：占真实类别样本的份额。反向：把后者错认成前者的次数。\n最严重：损失最高的错误；"
                "图像按此顺序排列。",
            ),
        ]
    )

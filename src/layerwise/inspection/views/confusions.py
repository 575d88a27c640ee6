"""The view ``confusions``: which classes are most often taken for each other, with images of such mistakes.

``K`` classes. A pair (true, predicted) is counted over a part of the data; pairs are ordered by their count, equal ones
by their labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.image_selection import classes_of, network_of, part_of
from layerwise.inspection.predictions import Answers, Case, answers, batches_of, cases
from layerwise.plotting.images import Floats, sheet
from layerwise.tasks.objectives import class_logits

PAIRS, IMAGES = 6, 8


def view(target: Target, *, out: Path | None) -> View:
    """Return the six most frequent pairs of true and predicted class, with their worst mistakes. Writes
    ``confusions.svg`` for images.

    Reads the test part unless ``target.split`` names another; ``target.examples`` is the number of images for each
    pair. Works for tables too, without the figure. Raises `UsageError` where there are no classes.
    """
    model, task = network_of(target, "confusions")
    names = classes_of(target, task, "confusions")
    source, split = part_of(target, "confusions")
    found = answers(model, task, batches_of(model, task, source))
    said = class_logits(found.outputs).argmax(1)
    assert found.targets is not None
    counts = counted(found.targets, said, len(names))
    listed: list[Json] = []
    shown: list[list[Case]] = []
    for true, predicted in pairs(counts)[:PAIRS]:
        at = worst_of(found, said, true, predicted)[: target.examples or IMAGES]
        shown.append(cases(task, found, source, at))
        listed.append(
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": int(counts[true, predicted]),
                "of": int(counts[true].sum()),
                "back": int(counts[predicted, true]),
                "examples": [case.to_json() for case in shown[-1]],
            }
        )
    wrong = int(counts.sum() - counts.diagonal().sum())
    data = {"model": target.spec.name, "split": split, "examples": len(said), "wrong": wrong, "pairs": listed}
    figures = (
        save(out, "confusions.svg", figure(target, data, shown)) if shown and shown[0][0].image is not None else []
    )
    return View("confusions", data, _written(target, data), figures)


def counted(true: Tensor, said: Tensor, classes: int) -> Tensor:
    """Return how often each class was taken for each, (K, K), true class by row."""
    return torch.bincount(true.long() * classes + said, minlength=classes**2).view(classes, classes)


def pairs(counts: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of different classes that were confused at all, the most frequent first."""
    found = [(i, j) for i, j in counts.nonzero().tolist() if i != j]
    return sorted(found, key=lambda pair: (-int(counts[pair]), pair))


def worst_of(found: Answers, said: Tensor, true: int, predicted: int) -> Tensor:
    """Return the positions of a pair's mistakes, the one with the highest loss first: where the true class got
    least."""
    assert found.targets is not None
    at = ((found.targets == true) & (said == predicted)).nonzero()[:, 0]
    return at[found.losses[at].double().argsort(descending=True, stable=True)]


def figure(target: Target, data: Json, shown: list[list[Case]]) -> str:
    """Draw a row of images for each pair, with the score of the wrong class."""
    rows: list[list[Floats]] = [[np.asarray(case.image) for case in row] for row in shown]
    captions = [[f"{case.score:.1%}" if case.score is not None else "" for case in row] for row in shown]
    labels = [f"{pair['true']} → {pair['predicted']} · {_share(target, pair)}" for pair in data["pairs"]]
    labels[0] += target.say("; beneath: how sure of the wrong class", "；下方为对错误类别的得分")
    return sheet(rows, captions=captions, labels=labels)


def _share(target: Target, pair: Json) -> str:
    """Return how many of a class were taken for the other."""
    return target.say(f"{pair['count']} of {pair['of']}", f"{pair['of']} 个中 {pair['count']} 个")


def _written(target: Target, data: Json) -> str:
    """Return the pairs as a table."""
    say, count, wrong, part = target.say, data["examples"], data["wrong"], data["split"]
    if not data["pairs"]:
        return say(f"none of the {count} examples of the {part} part is wrong", f"{part} 部分的 {count} 个样本全部答对")
    head = [
        say("true", "真实"),
        say("predicted", "预测"),
        say("times", "次数"),
        say("of", "总数"),
        say("share", "比例"),
        say("way back", "反向"),
        say("worst", "最严重"),
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
    among = sum(p["count"] for p in data["pairs"])
    return "\n".join(
        [
            say(
                f"{data['model']}: {wrong} of {count} examples of the {part} part are wrong, {among} of them "
                "in these pairs",
                f"{data['model']}：{part} 部分 {count} 个样本中错 {wrong} 个，其中 {among} 个属于下列类别对",
            ),
            "",
            table(head, rows, right=frozenset({2, 3, 4, 5})),
            "",
            say(
                "share: of the examples of the true class. way back: how often the second was taken for the first.\n"
                "worst: the mistake of highest loss; images stand in this order.",
                "比例：占真实类别样本的份额。反向：把后者错认成前者的次数。\n最严重：损失最高的错误；"
                "图像按此顺序排列。",
            ),
        ]
    )

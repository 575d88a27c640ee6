"""The view ``augmentations``: training pictures beside what a run made of them, epoch by epoch (S10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from layerwise.data import splits as splits_
from layerwise.data.loader import Batch
from layerwise.data.source import SPLITS, Source, fetch
from layerwise.errors import UsageError, unknown
from layerwise.figures.pictures import sheet
from layerwise.functional.augmentation import AugmentOptions, changes
from layerwise.inspect.base import Target, View, needs_run, save, table, trained
from layerwise.tasks.augmentation import Augmentation
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs

COUNT, EPOCHS = 5, 6
NAMES = {
    "angle": ("rotated by", "旋转"), "factor": ("scaled by", "缩放"), "right": ("shifted right", "右移"), "down": ("shifted down", "下移"),
    "mirrored": ("mirrored", "左右翻转"), "upside_down": ("upside down", "上下翻转"), "brightness": ("brightness", "亮度"),
    "contrast": ("contrast", "对比度"), "saturation": ("saturation", "饱和度"), "hue": ("hue", "色调"),
}  # fmt: skip
OF = {
    "rotate": ("angle",), "scale": ("factor",), "crop": ("right", "down"), "brightness": ("brightness",), "contrast": ("contrast",),
    "saturation": ("saturation",), "hue": ("hue",),
}  # fmt: skip
FLIPS = {"none": (), "horizontal": ("mirrored",), "vertical": ("upside_down",), "both": ("mirrored", "upside_down")}


def view(target: Target, *, out: Path | None) -> View:
    """Return evenly spaced pictures with the changes they got in the first epochs of training, the very draws of the run.

    Reads the training part unless ``target.split`` names another, whose pictures are then changed as if they were trained on. Writes
    ``augmentations.svg``: a row for each picture, the original first.

    Raises `UsageError` for a bare card, and for a run without augmentation.
    """
    _, task, _ = trained(target, "augmentations")
    change, source = of_run(target, task)
    count = min(target.examples or COUNT, len(source))
    batch = task.collate(fetch(source, np.linspace(0, len(source) - 1, count).astype(np.int64)))
    seen = [change(batch, epoch) for epoch in range(EPOCHS)]
    listed = [parameters(change, batch, epoch) for epoch in range(EPOCHS)]
    names = [source.name_of(int(i)) for i in batch.ids]
    data = {
        "split": target.split or "train", "stage": change.stage, "options": msgspec.to_builtins(change.options),
        "examples": [
            {"index": int(i), "name": names[at], "epochs": [{"epoch": e + 1, **listed[e][at]} for e in range(EPOCHS)]}
            for at, i in enumerate(batch.ids)
        ],
    }  # fmt: skip
    pictures = [np.asarray(change.inputs.raw(b.inputs).numpy()) for b in (batch, *seen)]  # each (N, C, H, W)
    captions = [target.say("original", "原图"), *(target.say(f"epoch {e + 1}", f"第 {e + 1} 轮") for e in range(EPOCHS))]
    rows = [[shown[at] for shown in pictures] for at in range(count)]
    labels = [_label(task, batch, at) for at in range(count)]
    figures = save(out, "augmentations.svg", sheet(rows, captions=[captions] * count, labels=labels))
    return View("augmentations", data, _written(target, data), figures)


def of_run(target: Target, task: Task) -> tuple[Augmentation, Source]:
    """Return a run's augmentation, of its first stage that has one, and the pictures it is shown on."""
    if target.recipe is None or target.splits is None:
        raise needs_run("augmentations", target.card)
    number = next((n for n, stage in enumerate(target.recipe.stages) if stage.augment), None)
    if number is None or not isinstance(task.inputs, ImageInputs):
        raise UsageError(
            "this run was trained without augmentation", expected="a stage with augment in its recipe",
            do=f"train one: layerwise train {target.card.name} --data SOURCE --set augment.rotate=10 --set augment.crop=2",
        )  # fmt: skip
    stage, seed = target.recipe.stages[number], target.recipe.train.seed
    if target.split and target.split not in SPLITS:
        raise unknown("part of the data", target.split, SPLITS)
    source = task.adopt(target.splits.part(target.split or "train"))
    if target.split in ("", "train"):
        source = splits_.take(source, stage.examples, seed)
    return Augmentation(task.inputs, msgspec.convert(stage.augment, AugmentOptions), seed, number), source


def parameters(change: Augmentation, batch: Batch, epoch: int) -> list[dict[str, Any]]:
    """Return what happens to each picture of a batch in an epoch, by name: only what the options allow."""
    o = change.options
    found = changes(change.draws(batch, epoch), o)
    columns = {
        "angle": found.angle, "factor": found.factor, "right": found.shift[:, 0].long(), "down": found.shift[:, 1].long(),
        "mirrored": found.mirrored[:, 0], "upside_down": found.mirrored[:, 1], "brightness": found.brightness,
        "contrast": found.contrast, "saturation": found.saturation, "hue": found.hue,
    }  # fmt: skip
    kept = [name for key, names in OF.items() if getattr(o, key) for name in names] + [*FLIPS[o.flip]]

    def plain(value: torch.Tensor) -> float | int | bool:
        return round(float(value), 4) if value.is_floating_point() else value.item()

    return [{name: plain(columns[name][at]) for name in columns if name in kept} for at in range(len(batch))]


def _label(task: Task, batch: Batch, at: int) -> str:
    """Return what stands above a row: the true class, if there are classes."""
    names: tuple[str, ...] = getattr(task, "classes", ())
    return names[int(batch.targets[at])] if names and batch.targets is not None else f"{int(batch.ids[at])}"


def _written(target: Target, data: dict[str, Any]) -> str:
    """Return the first picture's changes as a table, under what the figure shows."""
    first = data["examples"][0]
    keys = [key for key in first["epochs"][0] if key != "epoch"]
    header = [target.say("epoch", "轮"), *(target.say(*NAMES[key]) for key in keys)]
    yes, no = target.say("yes", "是"), target.say("no", "否")

    def cell(key: str, value: float | int | bool) -> str:
        if isinstance(value, bool):
            return yes if value else no
        if isinstance(value, int):
            return f"{value:+d} px"
        return f"{value:+.1f}°" if key == "angle" else f"{value:+.3f}" if key == "hue" else f"× {value:.3f}"

    rows = [[str(e["epoch"]), *(cell(key, e[key]) for key in keys)] for e in first["epochs"]]
    head = target.say(
        f"{len(data['examples'])} pictures of the {data['split']} part, as they are and in the first {EPOCHS} epochs; {first['name']}:",
        f"{data['split']} 部分的 {len(data['examples'])} 张图像：原图与前 {EPOCHS} 轮中的样子；{first['name']}：",
    )
    return f"{head}\n\n" + table(header, rows, right=frozenset(range(1, len(header))))

"""The view ``augmentations``: training images beside what a run made of them, epoch by epoch (S10)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from layerwise.data import splits as splits_
from layerwise.data.loader import Batch, Mix, Order
from layerwise.data.source import SPLITS, Source, fetch
from layerwise.errors import UsageError, unknown
from layerwise.functional.augmentation import trivial_augment
from layerwise.functional.augmentation.transforms import ERASE, LEVEL, POLICY, SIGN, AugmentOptions, boxes, changes
from layerwise.inspection.base import Target, View, needs_run, save, table, trained
from layerwise.plotting.images import sheet
from layerwise.tasks.augmentation import Augmentation
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs

COUNT, EPOCHS = 5, 6
NAMES = {
    "angle": ("rotated by", "旋转"),
    "factor": ("scaled by", "缩放"),
    "right": ("shifted right", "右移"),
    "down": ("shifted down", "下移"),
    "mirrored": ("mirrored", "左右翻转"),
    "upside_down": ("upside down", "上下翻转"),
    "brightness": ("brightness", "亮度"),
    "contrast": ("contrast", "对比度"),
    "saturation": ("saturation", "饱和度"),
    "hue": ("hue", "色调"),
    "area": ("part of the area", "所取面积"),
    "operation": ("operation", "操作"),
    "erased": ("erased", "擦除"),
    "with": ("mixed with", "混入"),
    "share": ("own share", "自身占比"),
}
OF = {
    "rotate": ("angle",),
    "scale": ("factor",),
    "crop": ("right", "down"),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "saturation": ("saturation",),
    "hue": ("hue",),
    "cuts": ("area",),
    "erase": ("erased",),
    "mixes": ("with", "share"),
}
FLIPS = {"none": (), "horizontal": ("mirrored",), "vertical": ("upside_down",), "both": ("mirrored", "upside_down")}


def view(target: Target, *, out: Path | None) -> View:
    """Return evenly spaced images with the changes they got in the first epochs of training, the very draws of the
    run.

    Reads the training part unless ``target.split`` names another, whose images are then changed as if they were
    trained on. Writes
    ``augmentations.svg``: a row for each image, the original first.

    Raises `UsageError` for a bare model, and for a run without augmentation.
    """
    _, task, _ = trained(target, "augmentations")
    change, source, order = of_run(target, task)
    count = min(target.examples or COUNT, len(source))
    batch = task.collate(fetch(source, np.linspace(0, len(source) - 1, count).astype(np.int64)))
    pairs = [neighbors(order, batch.ids, epoch) if change.options.mixes else batch.ids for epoch in range(EPOCHS)]
    paired = [task.collate(fetch(source, _interleaved(batch.ids, pair).numpy())) for pair in pairs]
    seen = [change(both, epoch).span(slice(0, None, 2)) for epoch, both in enumerate(paired)]
    listed = [
        parameters(change, batch, epoch, mix=one.mix, partners=[source.name_of(int(i)) for i in pairs[epoch]])
        for epoch, one in enumerate(seen)
    ]
    names = [source.name_of(int(i)) for i in batch.ids]
    data = {
        "split": target.split or "train",
        "stage": change.stage,
        "options": msgspec.to_builtins(change.options),
        "examples": [
            {"index": int(i), "name": names[at], "epochs": [{"epoch": e + 1, **listed[e][at]} for e in range(EPOCHS)]}
            for at, i in enumerate(batch.ids)
        ],
    }
    images = [np.asarray(change.inputs.raw(b.inputs).numpy()) for b in (batch, *seen)]  # each (N, C, H, W)
    captions = [
        target.say("original", "原图"),
        *(target.say(f"epoch {e + 1}", f"第 {e + 1} 轮") for e in range(EPOCHS)),
    ]
    rows = [[shown[at] for shown in images] for at in range(count)]
    labels = [_label(task, batch, at) for at in range(count)]
    figures = save(out, "augmentations.svg", sheet(rows, captions=[captions] * count, labels=labels))
    return View("augmentations", data, _written(target, data), figures)


def neighbors(order: Order, ids: Tensor, epoch: int) -> Tensor:
    """Return with whom examples are mixed in an epoch, (N,): their neighbors in its batches."""
    index = order.indices(epoch)
    places = torch.argsort(index)[ids]
    begin = places - places % order.batch
    size = (order.examples - begin).clamp_max(order.batch)  # of the batch it lies in
    other = (places - begin) ^ 1
    return index[torch.where(other < size, begin + other, places)]


def _interleaved(a: Tensor, b: Tensor) -> Tensor:
    """Return a₀ b₀ a₁ b₁ …"""
    return torch.stack([a, b], 1).flatten()


def of_run(target: Target, task: Task) -> tuple[Augmentation, Source, Order]:
    """Return a run's augmentation, of its first stage that has one, the images it is shown on, and their order in
    training."""
    if target.recipe is None or target.splits is None:
        raise needs_run("augmentations", target.spec)
    number = next((n for n, stage in enumerate(target.recipe.stages) if stage.augment), None)
    if number is None or not isinstance(task.inputs, ImageInputs):
        raise UsageError(
            "this run was trained without augmentation",
            expected="a stage with augment in its recipe",
            do=f"train one: layerwise train {target.spec.name} --data SOURCE --set augment.rotate=10 --set "
            "augment.crop=2",
        )
    stage, seed = target.recipe.stages[number], target.recipe.train.seed
    if target.split and target.split not in SPLITS:
        raise unknown("part of the data", target.split, SPLITS)
    source = task.adopt(target.splits.part(target.split or "train"))
    if target.split in ("", "train"):
        source = splits_.take(source, stage.examples, seed)
    change = Augmentation(task.inputs, msgspec.convert(stage.augment, AugmentOptions), seed, number)
    return change, source, Order(len(source), stage.batch, seed, number)


def parameters(
    change: Augmentation, batch: Batch, epoch: int, *, mix: Mix | None, partners: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what happens to each image of a batch in an epoch, by name: only what the options allow."""
    o = change.options
    u = change.draws(batch, epoch)
    found, size = changes(u, o), (batch.inputs.shape[2], batch.inputs.shape[3])
    policy = trivial_augment.chosen(u[:, [POLICY, LEVEL, SIGN]]).operation
    columns: dict[str, Sequence[str] | Tensor] = {
        "area": boxes(u, o, size)[:, 2:].prod(1).double() / (size[0] * size[1]),
        "angle": found.angle,
        "factor": found.factor,
        "right": found.shift[:, 0].long(),
        "down": found.shift[:, 1].long(),
        "mirrored": found.mirrored[:, 0],
        "upside_down": found.mirrored[:, 1],
        "brightness": found.brightness,
        "contrast": found.contrast,
        "saturation": found.saturation,
        "hue": found.hue,
        "operation": [trivial_augment.OPERATIONS[int(n)] for n in policy],
        "erased": u[:, ERASE] < o.erase,
        "with": partners,
        "share": torch.ones(len(u)) if mix is None else mix.share,
    }
    kept = [name for key, names in OF.items() if getattr(o, key) for name in names] + [*FLIPS[o.flip]]
    kept += ["operation"] * (o.policy != "none")

    def plain(value: str | Tensor) -> str | float | int | bool:
        if isinstance(value, str):
            return value
        return round(float(value), 4) if value.is_floating_point() else value.item()

    return [{name: plain(columns[name][at]) for name in columns if name in kept} for at in range(len(batch))]


def _label(task: Task, batch: Batch, at: int) -> str:
    """Return what stands above a row: the true class, if there are classes."""
    names: tuple[str, ...] = getattr(task, "classes", ())
    return names[int(batch.targets[at])] if names and batch.targets is not None else f"{int(batch.ids[at])}"


def _written(target: Target, data: dict[str, Any]) -> str:
    """Return the first image's changes as a table, under what the figure shows."""
    first = data["examples"][0]
    keys = [key for key in first["epochs"][0] if key != "epoch"]
    header = [target.say("epoch", "轮"), *(target.say(*NAMES[key]) for key in keys)]
    yes, no = target.say("yes", "是"), target.say("no", "否")

    def cell(key: str, value: str | float | int | bool) -> str:
        if isinstance(value, str):
            return Path(value).name
        if isinstance(value, bool):
            return yes if value else no
        if key in ("area", "share"):
            return f"{value:.0%}"
        if isinstance(value, int):
            return f"{value:+d} px"
        return f"{value:+.1f}°" if key == "angle" else f"{value:+.3f}" if key == "hue" else f"× {value:.3f}"

    rows = [[str(e["epoch"]), *(cell(key, e[key]) for key in keys)] for e in first["epochs"]]
    head = target.say(
        f"{len(data['examples'])} images of the {data['split']} part, as they are and in the first "
        f"{EPOCHS} epochs; {first['name']}:",
        f"{data['split']} 部分的 {len(data['examples'])} 张图像：原图与前 {EPOCHS} 轮中的样子；{first['name']}：",
    )
    return f"{head}\n\n" + table(header, rows, right=frozenset(range(1, len(header))))

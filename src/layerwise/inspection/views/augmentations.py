"""The view ``augmentations``: training images and their augmented versions, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from layerwise.data.batch import Batch, Mix
from layerwise.data.loader import BatchSampler
from layerwise.data.source import SPLITS, Source, fetch
from layerwise.data.splits import draw_subset
from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.functional.augmentation import trivial_augment
from layerwise.functional.augmentation.transforms import (
    ERASE,
    LEVEL,
    POLICY,
    SIGN,
    AugmentOptions,
    compute_crop_boxes,
    compute_params,
)
from layerwise.inspection.base import Target, View, format_table, make_missing_run_error, require_data, save
from layerwise.plotting.images import draw_image_sheet
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
CHANGES_OF_OPTION = {
    "rotate": ("angle",),
    "scale": ("factor",),
    "crop_padding": ("right", "down"),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "saturation": ("saturation",),
    "hue": ("hue",),
    "has_random_crop": ("area",),
    "erase_prob": ("erased",),
    "has_mixing": ("with", "share"),
}
FLIPS = {"none": (), "horizontal": ("mirrored",), "vertical": ("upside_down",), "both": ("mirrored", "upside_down")}


def view(target: Target, *, out: Path | None) -> View:
    """Return evenly spaced images with their augmentations in the first epochs, from the random draws of the run.

    Reads the training part, or ``target.split`` with the same augmentation. Writes ``augmentations.svg``: a row for
    each image, the original first.

    Raises `UsageError` without a run, and for a run without augmentation.
    """
    _, task, _ = require_data(target, "augmentations")
    augmentation, source, order = get_augmentation(target, task)
    count = min(target.examples or COUNT, len(source))
    batch = task.collate(fetch(source, np.linspace(0, len(source) - 1, count).astype(np.int64)))
    partner_ids = [
        find_mix_partners(order, batch.ids, epoch) if augmentation.options.has_mixing else batch.ids
        for epoch in range(EPOCHS)
    ]
    paired_batches = [task.collate(fetch(source, _interleave(batch.ids, pair).numpy())) for pair in partner_ids]
    augmented = [
        augmentation(pairs, epoch).take(torch.arange(0, len(pairs), 2)) for epoch, pairs in enumerate(paired_batches)
    ]
    changes_by_epoch = []
    for epoch, augmented_batch in enumerate(augmented):
        partners = [source.name_of(int(i)) for i in partner_ids[epoch]]
        changes_by_epoch.append(list_changes(augmentation, batch, epoch, mix=augmented_batch.mix, partners=partners))
    examples = []
    for index, i in enumerate(batch.ids.tolist()):
        epochs = [{"epoch": e + 1, **changes_by_epoch[e][index]} for e in range(EPOCHS)]
        examples.append({"index": i, "name": source.name_of(i), "epochs": epochs})
    data = {
        "split": target.split or "train",
        "stage": augmentation.stage,
        "options": msgspec.to_builtins(augmentation.options),
        "examples": examples,
    }
    images = [
        np.asarray(augmentation.inputs.raw(b.input_tensor).numpy()) for b in (batch, *augmented)
    ]  # each (N, C, H, W)
    captions = [
        target.translate("original", "原图"),
        *(target.translate(f"epoch {e + 1}", f"第 {e + 1} 轮") for e in range(EPOCHS)),
    ]
    rows = [[epoch_images[index] for epoch_images in images] for index in range(count)]
    labels = [_format_label(task, batch, index) for index in range(count)]
    figures = save(out, "augmentations.svg", draw_image_sheet(rows, captions=[captions] * count, labels=labels))
    return View("augmentations", data, _format_text(target, data), figures)


def find_mix_partners(order: BatchSampler, ids: Tensor, epoch: int) -> Tensor:
    """Return the ids (N,) that examples are mixed with in an epoch: their neighbors in its batches."""
    index = order.indices(epoch)
    positions = torch.argsort(index)[ids]
    batch_start = positions - positions % order.batch_size
    size = (order.examples - batch_start).clamp_max(order.batch_size)  # of the example's batch
    partner = (positions - batch_start) ^ 1
    return index[torch.where(partner < size, batch_start + partner, positions)]


def _interleave(a: Tensor, b: Tensor) -> Tensor:
    """Return a₀ b₀ a₁ b₁ …, (2N,)."""
    return torch.stack([a, b], 1).flatten()


def get_augmentation(target: Target, task: Task) -> tuple[Augmentation, Source, BatchSampler]:
    """Return the augmentation of the run's first stage that has one, the images, and their order in training."""
    if target.recipe is None or target.splits is None:
        raise make_missing_run_error("augmentations", target.spec)
    stage_index = next((n for n, stage in enumerate(target.recipe.stages) if stage.augment), None)
    if stage_index is None or not isinstance(task.inputs, ImageInputs):
        raise UsageError(
            "this run was trained without augmentation",
            expected="a stage with augment in its recipe",
            do=f"train one: layerwise train {target.spec.name} --data SOURCE --set augment.rotate=10 --set "
            "augment.crop_padding=2",
        )
    stage, seed = target.recipe.stages[stage_index], target.recipe.train.seed
    if target.split and target.split not in SPLITS:
        raise make_unknown_name_error("split", target.split, SPLITS)
    source = task.convert_source(target.splits.part(target.split or "train"))
    if target.split in ("", "train"):
        source = draw_subset(source, stage.examples, seed)
    augmentation = Augmentation(task.inputs, msgspec.convert(stage.augment, AugmentOptions), seed, stage_index)
    return augmentation, source, BatchSampler(len(source), stage.batch_size, seed, stage_index)


def list_changes(
    augmentation: Augmentation, batch: Batch, epoch: int, *, mix: Mix | None, partners: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the changes of each image of a batch in an epoch, by name; only changes that the options enable."""
    options = augmentation.options
    draws = augmentation.get_draws(batch, epoch)
    drawn, size = compute_params(draws, options), (batch.input_tensor.shape[2], batch.input_tensor.shape[3])
    policy = trivial_augment.choose_operations(draws[:, [POLICY, LEVEL, SIGN]]).operation
    columns: dict[str, Sequence[str] | Tensor] = {
        "area": compute_crop_boxes(draws, options, size)[:, 2:].prod(1).double() / (size[0] * size[1]),
        "angle": drawn.angle,
        "factor": drawn.factor,
        "right": drawn.shift[:, 0].long(),
        "down": drawn.shift[:, 1].long(),
        "mirrored": drawn.mirrored[:, 0],
        "upside_down": drawn.mirrored[:, 1],
        "brightness": drawn.brightness,
        "contrast": drawn.contrast,
        "saturation": drawn.saturation,
        "hue": drawn.hue,
        "operation": [trivial_augment.OPERATIONS[int(n)] for n in policy],
        "erased": draws[:, ERASE] < options.erase_prob,
        "with": partners,
        "share": torch.ones(len(draws)) if mix is None else mix.share,
    }
    enabled = [name for key, names in CHANGES_OF_OPTION.items() if getattr(options, key) for name in names]
    enabled += [*FLIPS[options.flip]]
    enabled += ["operation"] * (options.policy != "none")

    def to_plain_value(value: str | Tensor) -> str | float | int | bool:
        if isinstance(value, str):
            return value
        return round(float(value), 4) if value.is_floating_point() else value.item()

    enabled_columns = {name: values for name, values in columns.items() if name in enabled}
    changes = []
    for index in range(len(batch)):
        changes.append({name: to_plain_value(values[index]) for name, values in enabled_columns.items()})
    return changes


def _format_label(task: Task, batch: Batch, index: int) -> str:
    """Return the label of a row: the true class, or the example's id without classes."""
    names: tuple[str, ...] = getattr(task, "classes", ())
    return names[int(batch.target_tensor[index])] if names and batch.targets is not None else f"{int(batch.ids[index])}"


def _format_text(target: Target, data: dict[str, Any]) -> str:
    """Return the changes of the first image as a table."""
    first = data["examples"][0]
    keys = [key for key in first["epochs"][0] if key != "epoch"]
    header = [target.translate("epoch", "轮"), *(target.translate(*NAMES[key]) for key in keys)]
    yes, no = target.translate("yes", "是"), target.translate("no", "否")

    def format_cell(key: str, value: str | float | int | bool) -> str:
        if isinstance(value, str):
            return Path(value).name
        if isinstance(value, bool):
            return yes if value else no
        if key in ("area", "share"):
            return f"{value:.0%}"
        if isinstance(value, int):
            return f"{value:+d} px"
        return f"{value:+.1f}°" if key == "angle" else f"{value:+.3f}" if key == "hue" else f"× {value:.3f}"

    rows = [[str(e["epoch"]), *(format_cell(key, e[key]) for key in keys)] for e in first["epochs"]]
    head = target.translate(
        f"{len(data['examples'])} images of the {data['split']} part, as they are and in the first "
        f"{EPOCHS} epochs; {first['name']}:",
        f"{data['split']} 部分的 {len(data['examples'])} 张图像：原图与前 {EPOCHS} 轮中的样子；{first['name']}：",
    )
    return f"{head}\n\n" + format_table(header, rows, right=frozenset(range(1, len(header))))

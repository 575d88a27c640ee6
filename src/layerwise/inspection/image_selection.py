"""The images that a view shows: evenly spaced ones of a part of the data, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.source import SPLITS, Source, fetch
from layerwise.errors import DataError, LayerwiseError, UsageError, make_unknown_name_error
from layerwise.inference.predict import read_inputs
from layerwise.inspection.base import Target, make_missing_run_error, require_data
from layerwise.inspection.predictions import get_device_and_dtype
from layerwise.plotting.images import Floats
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs


@dataclass(frozen=True)
class SelectedImages:
    """``N`` images that a view shows.

    Attributes:
        names: the image's file, or its name in the source.
        inputs: the network's inputs (N, C, H, W).
        images: the same images in [0, 1] (N, C, H, W).
        labels: the true classes, "" if unknown.
        source: the part of the data or the path that the images come from.
        skipped: files that cannot be read as images, with the reason.
    """

    names: list[str]
    inputs: Tensor
    images: Floats
    labels: list[str]
    source: str
    skipped: tuple[str, ...] = ()


def require_network(target: Target, view: str) -> tuple[nn.Module, Task]:
    """Return the model and task of a run or of an untrained network with data. Raises `UsageError` if there are
    none."""
    if target.model is None or target.task is None:
        raise make_missing_run_error(view, target.spec, untrained=True)
    return target.model, target.task


def require_image_inputs(target: Target, task: Task, view: str) -> ImageInputs:
    """Return the task's image inputs. Raises `UsageError` if its inputs are not images."""
    if not isinstance(task.inputs, ImageInputs):
        raise UsageError(
            f"the view '{view}' looks at images, and this {target.spec.name} takes rows of numbers",
            expected="a network over images",
            received=f"{target.spec.name} on a table",
        )
    return task.inputs


def require_classes(target: Target, task: Task, view: str) -> tuple[str, ...]:
    """Return the task's class names. Raises `UsageError` if it has none."""
    names: tuple[str, ...] = getattr(task, "classes", ())
    if not names:
        raise UsageError(
            f"the view '{view}' speaks of classes, and this {target.spec.name} has none",
            expected="a classifier",
            received=f"{target.spec.name}, which learns {task.name}",
        )
    return names


def select_split(target: Target, view: str, *, default: str = "test") -> tuple[Source, str]:
    """Return a part of the data, converted for the task, and the part's name. Raises `DataError` if it is empty."""
    _, task, splits = require_data(target, view)
    split = target.split or default
    if split not in SPLITS:
        raise make_unknown_name_error("split", split, SPLITS)
    source = task.convert_source(splits.part(split))
    if not len(source):
        raise DataError(f"the {split} part has no examples", expected="at least one")
    return source, split


def pick_indices_evenly(total: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced indices of 0 … total − 1, or all of them if there are fewer."""
    return [int(i) for i in np.linspace(0, total - 1, min(total, count)).astype(np.int64)]


def select_images(target: Target, view: str, count: int) -> SelectedImages:
    """Return ``count`` evenly spaced images: the user's if the target names any, else of the test part or ``split``.

    Raises:
        UsageError: if the network's inputs are not images, and for an unknown part of the data.
        DataError: if no file can be read as an image.
    """
    model, task = require_network(target, view)
    inputs = require_image_inputs(target, task, view)
    if target.images:
        return _load_images(target.images, model, task, inputs, count)
    source, split = select_split(target, view)
    batch = task.collate(fetch(source, pick_indices_evenly(len(source), count)))
    classes: Sequence[str] = getattr(task, "classes", ())
    return SelectedImages(
        names=[source.name_of(int(i)) for i in batch.ids],
        inputs=batch.input_tensor.to(*get_device_and_dtype(model)),
        images=np.asarray(inputs.raw(batch.input_tensor).numpy()),
        labels=[classes[int(t)] for t in batch.target_tensor]
        if classes and batch.targets is not None
        else [""] * len(batch),
        source=split,
    )


def _load_images(path: str, model: nn.Module, task: Task, inputs: ImageInputs, count: int) -> SelectedImages:
    """Return evenly spaced images of a file or folder; ``skipped`` names the files that cannot be read."""
    items = [
        (name, raw) for piece in read_inputs([path], task) for name, raw in zip(piece.names, piece.raw, strict=True)
    ]
    names: list[str] = []
    encoded: list[Tensor] = []
    skipped: list[str] = []
    last_error: LayerwiseError | None = None
    for name, raw in (items[i] for i in pick_indices_evenly(len(items), count)):
        try:
            if isinstance(raw, LayerwiseError):
                raise raw
            encoded.append(inputs.encode(raw))
            names.append(name)
        except LayerwiseError as error:
            last_error = error
            skipped.append(f"{name}: {error.what}")
    if not encoded:
        raise last_error or DataError(f"{path} holds no images", expected="an image, or a folder of images")
    stack = torch.stack(encoded)
    return SelectedImages(
        names=names,
        inputs=stack.to(*get_device_and_dtype(model)),
        images=np.asarray(inputs.raw(stack).numpy()),
        labels=[""] * len(names),
        source=path,
        skipped=tuple(skipped),
    )


def format_skipped(target: Target, selected: SelectedImages) -> str:
    """Return the lines about skipped files, or "" if there are none."""
    if not selected.skipped:
        return ""
    return "\n\n" + target.translate("left out:", "略去：") + "".join(f"\n  {line}" for line in selected.skipped)


def describe_source(target: Target, selected: SelectedImages) -> str:
    """Return the part of the data or the path that the images come from, as text."""
    if target.images:
        return target.images
    return target.translate(f"the {selected.source} part", f"{selected.source} 部分")

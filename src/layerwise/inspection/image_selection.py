"""The images that a view looks at: evenly spaced ones of a part of the data, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.source import SPLITS, Source, fetch
from layerwise.errors import DataError, LayerwiseError, UsageError, unknown
from layerwise.inference.predict import named_inputs
from layerwise.inspection.base import Target, needs_run, trained
from layerwise.inspection.predictions import place_of
from layerwise.plotting.images import Floats
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs


@dataclass(frozen=True)
class Shown:
    """``N`` images: names, what the network takes of them (N, C, H, W), how they look in [0, 1], and the true
    classes, "" if unknown.

    ``where``: the part or the path that they are from; ``left_out``: files that are no images, with the reason.
    """

    names: list[str]
    inputs: Tensor
    images: Floats
    true: list[str]
    where: str
    left_out: tuple[str, ...] = ()


def network_of(target: Target, view: str) -> tuple[nn.Module, Task]:
    """Return the model and task of a run, or of an untrained network with data. Raises `UsageError` for a bare
    model."""
    if target.model is None or target.task is None:
        raise needs_run(view, target.spec, untrained=True)
    return target.model, target.task


def image_inputs(target: Target, task: Task, view: str) -> ImageInputs:
    """Return how images are brought to a network. Raises `UsageError` where its inputs are no images."""
    if not isinstance(task.inputs, ImageInputs):
        raise UsageError(
            f"the view '{view}' looks at images, and this {target.spec.name} takes rows of numbers",
            expected="a network over images",
            received=f"{target.spec.name} on a table",
        )
    return task.inputs


def classes_of(target: Target, task: Task, view: str) -> tuple[str, ...]:
    """Return a task's classes. Raises `UsageError` where it has none."""
    names: tuple[str, ...] = getattr(task, "classes", ())
    if not names:
        raise UsageError(
            f"the view '{view}' speaks of classes, and this {target.spec.name} has none",
            expected="a classifier",
            received=f"{target.spec.name}, which learns {task.name}",
        )
    return names


def part_of(target: Target, view: str, *, default: str = "test") -> tuple[Source, str]:
    """Return a part of the data in the task's terms, with its name. Raises `DataError` if it is empty."""
    _, task, splits = trained(target, view)
    split = target.split or default
    if split not in SPLITS:
        raise unknown("part of the data", split, SPLITS)
    source = task.adopt(splits.part(split))
    if not len(source):
        raise DataError(f"the {split} part has no examples", expected="at least one")
    return source, split


def evenly(total: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced numbers of 0 … total − 1, all if there are no more."""
    return [int(i) for i in np.linspace(0, total - 1, min(total, count)).astype(np.int64)]


def images_of(target: Target, view: str, count: int) -> Shown:
    """Return ``count`` evenly spaced images of the user's, if there are any, else of a part of the data (the test
    part).

    Raises `UsageError` where the network takes no images and for an unknown part; `DataError` where no file is an
    image.
    """
    model, task = network_of(target, view)
    inputs = image_inputs(target, task, view)
    if target.images:
        return _of_files(target.images, model, task, inputs, count)
    source, split = part_of(target, view)
    batch = task.collate(fetch(source, evenly(len(source), count)))
    names: Sequence[str] = getattr(task, "classes", ())
    true = [names[int(t)] for t in batch.targets] if names and batch.targets is not None else [""] * len(batch)
    seen = np.asarray(inputs.raw(batch.inputs).numpy())
    return Shown([source.name_of(int(i)) for i in batch.ids], batch.inputs.to(*place_of(model)), seen, true, split)


def _of_files(path: str, model: nn.Module, task: Task, inputs: ImageInputs, count: int) -> Shown:
    """Return evenly spaced images of a file or folder; those that cannot be read are left out, and told."""
    listed = [
        (name, raw) for piece in named_inputs([path], task) for name, raw in zip(piece.names, piece.raw, strict=True)
    ]
    names: list[str] = []
    encoded: list[Tensor] = []
    left_out: list[str] = []
    error: LayerwiseError | None = None
    for name, raw in (listed[i] for i in evenly(len(listed), count)):
        try:
            if isinstance(raw, LayerwiseError):
                raise raw
            encoded.append(inputs.encode(raw))
            names.append(name)
        except LayerwiseError as found:
            error = found
            left_out.append(f"{name}: {found.what}")
    if not encoded:
        raise error or DataError(f"{path} holds no images", expected="an image, or a folder of images")
    stack = torch.stack(encoded)
    seen = np.asarray(inputs.raw(stack).numpy())
    return Shown(names, stack.to(*place_of(model)), seen, [""] * len(names), path, tuple(left_out))


def told(target: Target, shown: Shown) -> str:
    """Return the line about images that were left out, empty if there are none."""
    if not shown.left_out:
        return ""
    return "\n\n" + target.say("left out:", "略去：") + "".join(f"\n  {line}" for line in shown.left_out)


def where(target: Target, shown: Shown) -> str:
    """Return where the images are from, in words."""
    if target.images:
        return target.images
    return target.say(f"the {shown.where} part", f"{shown.where} 部分")

"""The inputs that a source's schema asks for: images or rows; their options, and their saved form."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from layerwise.data.source import Source
from layerwise.errors import UsageError
from layerwise.recipe import NonNegativeInt, PositiveFloat
from layerwise.tasks.column_encoders import Scale, Unseen
from layerwise.tasks.inputs import ImageInputs, Inputs, Statistics
from layerwise.tasks.records import ImageInputsRecord, InputRecord
from layerwise.tasks.row_inputs import RowInputs

# of ImageNet's training images, as torchvision's weights use them
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class InputOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of every task.

    ``size``: side of images in pixels, 0 for their own. ``scale``: standard (mean 0, deviation 1), unit ([0, 1]),
    none, or imagenet (ImageNet's statistics, which most published weights of images were trained with). ``mean`` and
    ``std``: statistics of one's own by channel, of pixels in [0, 1], in place of the training part's; images only.
    Rows: categories with more than ``embed_above`` values are looked up as vectors instead of one-hot, 0 for never;
    ``unseen``: what happens to values that training never had: taken as unknown, or refused.
    """

    size: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    scale: Scale | Literal["imagenet"] = "standard"
    mean: tuple[float, ...] = ()
    std: tuple[PositiveFloat, ...] = ()
    embed_above: NonNegativeInt = 0
    unseen: Unseen = "unknown"


def fit_inputs(source: Source, options: InputOptions) -> Inputs:
    """Fit the inputs that the source's schema asks for."""
    if source.schema.kind == "image":
        return ImageInputs.fit(
            source, size=options.size, scale=options.scale, known=choose_statistics(options, source.schema.shape[2])
        )
    if options.scale == "imagenet" or options.mean or options.std:
        raise UsageError(
            "task.mean, task.std and the scale imagenet are of images, and these data are rows",
            expected="task.scale = standard, unit or none",
            received=f"task.scale = {options.scale}, task.mean = {list(options.mean)}, task.std = {list(options.std)}",
        )
    return RowInputs.fit(source, scale=options.scale, embed_above=options.embed_above, unseen=options.unseen)


def choose_statistics(options: InputOptions, channels: int) -> Statistics | None:
    """Return each channel's mean and standard deviation from the options, for images of so many channels;
    else None.

    Raises `UsageError` unless there are as many of both as channels, and for another scale than ``standard`` with them.
    """
    if options.scale == "imagenet" and not (options.mean or options.std):
        mean, std = IMAGENET
    else:
        mean, std = options.mean, options.std
        if (mean or std) and options.scale != "standard":
            raise UsageError(
                "task.mean and task.std are a scale of their own", received=f"task.scale = {options.scale} beside them"
            )
    if not mean and not std:
        return None
    if len(mean) != channels or len(std) != channels:
        raise UsageError(
            f"images of {channels} channel(s) are scaled by as many means and deviations",
            expected=f"task.mean and task.std with {channels} number(s) each, of pixels in [0, 1]",
            received=f"task.mean = {list(mean)}, task.std = {list(std)}",
            do="set both, or neither",
        )
    return Statistics(mean, std)


def inputs_from_record(saved: InputRecord) -> Inputs:
    """Make inputs again from what their ``to_json`` returned, checked."""
    return ImageInputs.from_record(saved) if isinstance(saved, ImageInputsRecord) else RowInputs.from_record(saved)

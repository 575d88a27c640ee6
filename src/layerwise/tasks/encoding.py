"""The inputs that a source's schema asks for: pictures or rows; their options, and their saved form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from layerwise.data.source import Source
from layerwise.recipe import Amount
from layerwise.tasks.coders import Scale, Unseen
from layerwise.tasks.inputs import ImageInputs, Inputs
from layerwise.tasks.rows import RowInputs


class InputOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of every task. ``size``: side of pictures in pixels, 0 for their own. ``scale``: standard (mean 0, deviation 1), unit
    ([0, 1]) or none. Rows: categories with more than ``embed`` values are looked up as vectors instead of one-hot, 0 for never;
    ``unseen``: what happens to values that training never had: taken as unknown, or refused."""

    size: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    scale: Scale = "standard"
    embed: Amount = 0
    unseen: Unseen = "unknown"


def fit(source: Source, options: InputOptions) -> Inputs:
    """Fit the inputs that the source's schema asks for."""
    if source.schema.kind == "image":
        return ImageInputs.fit(source, size=options.size, scale=options.scale)
    return RowInputs.fit(source, scale=options.scale, embed=options.embed, unseen=options.unseen)


def from_json(saved: Mapping[str, Any]) -> Inputs:
    """Make inputs again from what their ``to_json`` returned."""
    return ImageInputs.from_json(saved) if saved["kind"] == "image" else RowInputs.from_json(saved)

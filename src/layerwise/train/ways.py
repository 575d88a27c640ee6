"""The ways in which a network computes on its device: how its maps lie in memory, and how its 3×3 convolutions are taken."""

from __future__ import annotations

import msgspec
from torch import nn

from layerwise.nn.convolution import by_tiles
from layerwise.runtime import flags
from layerwise.runtime.flags import DIRECT, TILES, Flags


def set_ways(model: nn.Module, settings: Flags, *, tiles: bool) -> Flags:
    """Lay a network out as the flags say, in place, where they leave it open as is fastest; return the flags with what was done.

    ``tiles``: whether convolutions by tiles (`nn.tiled`) may be chosen: on a CPU in float32.
    """
    layout = settings.layout or flags.layout_of(model, settings.precision)
    flags.lay_out(model, layout)
    here = settings.device == "cpu" and settings.precision == "fp32"
    wanted = settings.convolution or (TILES if tiles and here else DIRECT)
    found = wanted == TILES and by_tiles(model) > 0
    return msgspec.structs.replace(settings, layout=layout, convolution=TILES if found else DIRECT)

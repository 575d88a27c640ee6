"""The ways in which a network computes on its device: how its maps lie in memory, and which kernels compute its
convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from layerwise.nn.convolution import by_tiles
from layerwise.runtime import compute_settings
from layerwise.runtime.compute_settings import DIRECT, TILES, Flags
from layerwise.runtime.distributed import World

if TYPE_CHECKING:
    from layerwise.nn.kernel_choice import Layer


def set_ways(model: nn.Module, settings: Flags, *, tiles: bool) -> Flags:
    """Lay a network out as the flags say, in place, where they leave it open as is fastest; return the flags with what
    was done.

    ``tiles``: whether convolutions by tiles (`nn.tiled`) may be chosen: on a CPU in float32.
    """
    layout = settings.layout or compute_settings.layout_of(model, settings.precision)
    compute_settings.lay_out(model, layout)
    here = settings.device == "cpu" and settings.precision == "fp32"
    wanted = settings.convolution or (TILES if tiles and here else DIRECT)
    found = wanted == TILES and by_tiles(model, kernels=settings.kernels) > 0
    return msgspec.structs.replace(settings, layout=layout, convolution=TILES if found else DIRECT)


def choose_kernels(model: nn.Module, settings: Flags, run: Callable[[], object], *, most: int, world: World) -> Flags:
    """Choose a kernel for every class of convolutions that batches of up to ``most`` examples can meet; return the
    flags with them all.

    To be called before the first step of a stage: afterwards a class without a choice is torch's, so that a run
    computes with the kernels in its flags and no others. What the flags know already stands, whatever machine this is.
    Of several processes the first one measures, and all compute as it says. ``run`` runs the network on one example,
    without gradients.
    """
    if settings.convolution != TILES:
        return settings
    from layerwise.nn.kernel_choice import choose  # with the compiler of kernels, which other networks are spared
    from layerwise.nn.kernel_timing import time_kernels

    classes, known = _classes(model, run, most=most), dict(settings.kernels)
    left = [layer for name, layer in sorted(classes.items()) if name not in known]
    votes = torch.zeros(len(left), device=world.device)
    if world.first:
        for place, layer in enumerate(left):
            votes[place] = layer.kernels.index(choose(layer, time_kernels))
    world.reduce([votes])
    known |= {layer.name: layer.kernels[int(vote)] for layer, vote in zip(left, votes.tolist(), strict=True)}
    fixed = msgspec.structs.replace(settings, kernels=known)
    fix_kernels(model, fixed)
    return fixed


def fix_kernels(model: nn.Module, settings: Flags) -> None:
    """Have a network compute with the kernels in the flags, and every other class of convolutions by torch."""
    if settings.convolution == TILES:
        from layerwise.nn.tiled import PointwiseConv2d, TiledConv2d

        for module in model.modules():
            if isinstance(module, TiledConv2d | PointwiseConv2d):
                module.choices.fix(settings.kernels)


def _classes(model: nn.Module, run: Callable[[], object], *, most: int) -> dict[str, Layer]:
    """Return the classes, by name, that a network's convolutions meet in batches of 1 to ``most`` examples."""
    from layerwise.nn.tiled import PointwiseConv2d, TiledConv2d, class_of

    found: dict[str, Layer] = {}

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, TiledConv2d | PointwiseConv2d)
        shape = given[0].shape[1:]
        uses: Any = ("train", "evaluate") if isinstance(module, TiledConv2d) else ("train",)
        counts = {min(most, 2**power) for power in range(most.bit_length() + 1)}
        met = (class_of(module, (count, *shape), use) for count in counts for use in uses)
        found.update({layer.name: layer for layer in met if layer is not None})

    handles = [
        m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, TiledConv2d | PointwiseConv2d)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found

"""How a network computes on its device: its memory layout, and the kernels of its convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import nn

from layerwise.nn.convolution import use_fast_kernels
from layerwise.nn.tracing import ModuleCall, trace_modules
from layerwise.runtime import compute_settings
from layerwise.runtime.compute_settings import DIRECT, WINOGRAD, ComputeSettings
from layerwise.runtime.distributed import World

if TYPE_CHECKING:
    from layerwise.nn.kernel_choice import ConvSignature


def configure_execution(model: nn.Module, settings: ComputeSettings, *, winograd: bool) -> ComputeSettings:
    """Set a network's memory layout and convolutions in place, by the flags or, where these are open, the fastest.

    Return the flags with what was set. ``winograd``: whether Winograd convolutions (`nn.winograd_convolution`) are
    allowed; they run on a CPU in float32.
    """
    layout = settings.layout or compute_settings.choose_layout(model, settings.precision)
    compute_settings.apply_layout(model, layout)
    supported = settings.device == "cpu" and settings.precision == "fp32"
    wanted = settings.convolution or (WINOGRAD if winograd and supported else DIRECT)
    replaced = wanted == WINOGRAD and use_fast_kernels(model, kernels=settings.kernels) > 0
    return msgspec.structs.replace(settings, layout=layout, convolution=WINOGRAD if replaced else DIRECT)


def choose_kernels(
    model: nn.Module, settings: ComputeSettings, run: Callable[[], object], *, most: int, world: World
) -> ComputeSettings:
    """Choose a kernel for every class of convolutions that batches of up to ``most`` examples can meet.

    Return the flags with all choices. To be called before the first step of a stage: afterwards torch computes a class
    without a choice, so that a run uses the kernels in its flags and no others. Choices that the flags hold already
    stay, on any machine. Of several processes the first one measures for all. ``run`` runs the network on one example,
    without gradients.
    """
    if settings.convolution != WINOGRAD:
        return settings
    # these import the compiler of kernels, which other networks do not need
    from layerwise.nn.kernel_choice import choose_kernel
    from layerwise.nn.kernel_timing import time_kernels

    classes, known = _find_classes(model, run, most=most), dict(settings.kernels)
    open_classes = [layer for name, layer in sorted(classes.items()) if name not in known]
    choices = torch.zeros(len(open_classes), device=world.device)
    if world.is_first:
        for index, layer in enumerate(open_classes):
            choices[index] = layer.kernels.index(choose_kernel(layer, time_kernels))
    world.reduce([choices])
    known |= {
        layer.name: layer.kernels[int(choice)] for layer, choice in zip(open_classes, choices.tolist(), strict=True)
    }
    fixed = msgspec.structs.replace(settings, kernels=known)
    fix_kernels(model, fixed)
    return fixed


def fix_kernels(model: nn.Module, settings: ComputeSettings) -> None:
    """Make a network use the kernels in the flags, and torch for every other class of convolutions."""
    if settings.convolution == WINOGRAD:
        from layerwise.nn.winograd_convolution import PointwiseConv2d, WinogradConv2d

        for module in model.modules():
            if isinstance(module, WinogradConv2d | PointwiseConv2d):
                module.selector.freeze(settings.kernels)


def _find_classes(model: nn.Module, run: Callable[[], object], *, most: int) -> dict[str, ConvSignature]:
    """Return the classes, by name, that a network's convolutions meet in batches of 1 to ``most`` examples."""
    from layerwise.nn.winograd_convolution import PointwiseConv2d, WinogradConv2d, make_signature

    classes: dict[str, ConvSignature] = {}

    def has_kernels(module: nn.Module) -> bool:
        return isinstance(module, WinogradConv2d | PointwiseConv2d)

    def add_classes(traced: ModuleCall) -> None:
        module, shape = traced.module, traced.inputs[0].shape[1:]
        assert isinstance(module, WinogradConv2d | PointwiseConv2d)
        uses: Any = ("train", "evaluate") if isinstance(module, WinogradConv2d) else ("train",)
        counts = {min(most, 2**power) for power in range(most.bit_length() + 1)}
        layers = (make_signature(module, (count, *shape), use) for count in counts for use in uses)
        classes.update({layer.name: layer for layer in layers if layer is not None})

    with trace_modules(model, add_classes, select=has_kernels):
        run()
    return classes

"""The time of each kernel for a class of convolutions, on this machine, now."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from layerwise.kernels.convolution import winograd
from layerwise.nn.kernel_choice import LEAST, WINOGRAD, Layer, Timing, fastest, multiplications
from layerwise.nn.tiled import convolve

ROUNDS, LEAST_ROUNDS, SECONDS = (
    8,
    4,
    0.06,
)  # turns of all kernels: at most, at least, and the time after which no other begins
LARGEST = 64 * LEAST  # multiplications of a measured call, about


def time_kernels(layer: Layer) -> Timing:
    """Time the kernels of a class in turn, about a tenth of a second; the shortest time of each counts, as others' work
    only adds to it.

    The first turn compiles and warms up, and does not count. torch's random state stays.
    """
    calls = {kernel: _call(layer, kernel) for kernel in layer.kernels}
    times: dict[str, list[float]] = {kernel: [] for kernel in calls}
    with torch.inference_mode(mode=False), torch.set_grad_enabled(layer.use == "train"):
        for call in calls.values():
            call()
        began = time.perf_counter()
        for turn in range(ROUNDS):
            if turn >= LEAST_ROUNDS and time.perf_counter() - began > SECONDS:
                break
            for kernel, call in list(calls.items())[:: 1 if turn % 2 == 0 else -1]:
                start = time.perf_counter()
                call()
                times[kernel].append(time.perf_counter() - start)
    seconds = {kernel: float(f"{min(taken):.4g}") for kernel, taken in times.items()}
    return Timing(layer, seconds, fastest(seconds))


def _call(layer: Layer, kernel: str) -> Callable[[], object]:
    """Return a call of this class by a kernel."""
    with torch.inference_mode(mode=False):
        x, weight = _tensors(layer)
        if layer.use == "infer":
            points = winograd.filters(weight) if kernel == WINOGRAD else None
            return lambda: convolve(x, weight, None, kernel=kernel, points=points, stride=layer.stride)
        if layer.use == "evaluate":
            return lambda: convolve(x, weight, None, kernel=kernel, stride=layer.stride)
        x.requires_grad_()
        weight.requires_grad_()

    def train() -> object:
        y = convolve(x, weight, None, kernel=kernel, stride=layer.stride)
        return torch.autograd.grad(y, (x, weight), y.detach())

    return train


def _tensors(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return maps (N, C, H, W) and filters (K, C, s, s) of a class, channels last; large maps are cut to fewer rows."""
    draw = torch.Generator().manual_seed(0)
    row = multiplications(layer.size, layer.stride, layer.inputs, layer.outputs, layer.stride, layer.width)
    height = min(layer.height, max(16, LARGEST // (row * layer.batch) * layer.stride))
    x = torch.randn(layer.batch, layer.inputs, height, layer.width, generator=draw)
    weight = torch.randn(layer.outputs, layer.inputs, layer.size, layer.size, generator=draw) / (
        layer.inputs**0.5 * layer.size
    )
    return x.contiguous(memory_format=torch.channels_last), weight.contiguous(memory_format=torch.channels_last)

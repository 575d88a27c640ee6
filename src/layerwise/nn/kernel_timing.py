"""The time of each kernel for a class of convolutions, on this machine, now."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from layerwise.kernels.convolution import winograd
from layerwise.nn.kernel_choice import (
    MIN_MULTIPLICATIONS,
    WINOGRAD,
    ConvSignature,
    Timing,
    choose_by_times,
    count_multiplications,
)
from layerwise.nn.winograd_convolution import convolve

ROUNDS, MIN_ROUNDS = 8, 4  # rounds over all kernels: at most, at least
MAX_SECONDS = 0.06  # no new round starts after this time
MAX_MULTIPLICATIONS = 64 * MIN_MULTIPLICATIONS  # of a measured call, approximately


def time_kernels(signature: ConvSignature) -> Timing:
    """Time the kernels of a class in rounds, for about a tenth of a second; the shortest time of each counts, because
    other load only adds to it.

    A first round compiles and warms up, and does not count. torch's random state does not change.
    """
    calls = {kernel: _make_call(signature, kernel) for kernel in signature.kernels}
    times: dict[str, list[float]] = {kernel: [] for kernel in calls}
    with torch.inference_mode(mode=False), torch.set_grad_enabled(signature.use == "train"):
        for call in calls.values():
            call()
        began = time.perf_counter()
        for round_index in range(ROUNDS):
            if round_index >= MIN_ROUNDS and time.perf_counter() - began > MAX_SECONDS:
                break
            for kernel, call in list(calls.items())[:: 1 if round_index % 2 == 0 else -1]:
                start = time.perf_counter()
                call()
                times[kernel].append(time.perf_counter() - start)
    seconds = {kernel: float(f"{min(taken):.4g}") for kernel, taken in times.items()}
    return Timing(signature, seconds, choose_by_times(seconds))


def _make_call(signature: ConvSignature, kernel: str) -> Callable[[], object]:
    """Return a function that calls a kernel for this class."""
    with torch.inference_mode(mode=False):
        x, weight = _make_tensors(signature)
        if signature.use == "infer":
            points = winograd.transform_filters(weight) if kernel == WINOGRAD else None
            return lambda: convolve(x, weight, None, kernel=kernel, points=points, stride=signature.stride)
        if signature.use == "evaluate":
            return lambda: convolve(x, weight, None, kernel=kernel, stride=signature.stride)
        x.requires_grad_()
        weight.requires_grad_()

    def train() -> object:
        y = convolve(x, weight, None, kernel=kernel, stride=signature.stride)
        return torch.autograd.grad(y, (x, weight), y.detach())

    return train


def _make_tensors(signature: ConvSignature) -> tuple[Tensor, Tensor]:
    """Return maps (N, C, H, W) and filters (K, C, s, s) of a class, channels last; large maps are cut to fewer rows."""
    draw = torch.Generator().manual_seed(0)
    row = count_multiplications(
        signature.size, signature.stride, signature.inputs, signature.outputs, signature.stride, signature.width
    )
    height = min(signature.height, max(16, MAX_MULTIPLICATIONS // (row * signature.batch) * signature.stride))
    x = torch.randn(signature.batch, signature.inputs, height, signature.width, generator=draw)
    weight = torch.randn(signature.outputs, signature.inputs, signature.size, signature.size, generator=draw) / (
        signature.inputs**0.5 * signature.size
    )
    return x.contiguous(memory_format=torch.channels_last), weight.contiguous(memory_format=torch.channels_last)

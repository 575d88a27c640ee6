"""The choices of kernels in words, for ``doctor``, in English and Chinese."""

from __future__ import annotations

from typing import Any

import msgspec

from layerwise.nn.kernel_choice import MIXED, PRODUCT, TORCH, WINOGRAD, Layer, Timing

KERNELS_ZH = {TORCH: "torch", WINOGRAD: "Winograd", MIXED: "混合", PRODUCT: "矩阵乘"}
USES_ZH = {"train": "训练", "evaluate": "训练中评估", "infer": "推理"}


def describe_timing(threads: int, timing: Timing) -> dict[str, Any]:
    """Return every fact of a measurement: the class of layers, threads, examples in a call, seconds of each kernel, the
    choice."""
    facts: dict[str, Any] = msgspec.to_builtins(timing)
    return {"name": timing.layer.name, "threads": threads, "batch": timing.layer.batch, **facts}


def timing_columns(*, chinese: bool) -> tuple[str, ...]:
    """Return the headings of the table."""
    if chinese:
        return "卷积", "用途", "批量", "线程", "选用", "torch 毫秒", "本软件包毫秒"
    return "convolution", "use", "batch", "threads", "kernel", "torch, ms", "ours, ms"


def timing_row(threads: int, timing: Timing, *, chinese: bool) -> tuple[str, ...]:
    """Return one measurement: torch's time beside that of the fastest of our kernels."""
    layer, seconds = timing.layer, timing.seconds
    ours = min(value for name, value in seconds.items() if name != TORCH)
    use, kernel = (USES_ZH[layer.use], KERNELS_ZH[timing.chosen]) if chinese else (layer.use, timing.chosen)
    times = (f"{1000 * value:.3g}" for value in (seconds[TORCH], ours))
    return shape_of(layer, chinese=chinese), use, str(layer.batch), str(threads), kernel, *times


def shape_of(layer: Layer, *, chinese: bool) -> str:
    """Return a layer's geometry in words."""
    size, sides = f"{layer.size}×{layer.size}", f"{layer.height}×{layer.width}"
    if chinese:
        stride = f"，步长 {layer.stride}" if layer.stride > 1 else ""
        return f"{size}{stride}，{layer.inputs} → {layer.outputs} 个 {sides} 的特征图"
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    return f"{size}{stride}, {layer.inputs} → {layer.outputs} maps of {sides}"

"""The view ``filters``: the first layer's kernels as images with a common scale.

``K`` kernels (C, k, k), with C = 1 (gray) or 3 (RGB). The view draws a kernel w as ½ + ½ w / max |w|, the maximum over
*all* kernels, so mid-gray is 0 and a weak kernel looks weak. The weights apply to the network's inputs: images in
[0, 1], standardized by channel if the task does so. A model without a run shows its initialization.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from layerwise.errors import UsageError
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.inspection.views.weights import FirstLayer, build_untrained_model, get_first_layer_weights, sort_by_norm
from layerwise.plotting.images import draw_image_sheet, enlarge, split_into_rows

COLUMNS, MAX_FILTERS, TABLE_ROWS = 8, 96, 12


def view(target: Target, *, out: Path | None) -> View:
    """Return each kernel's norm, mean and largest magnitude, in order of decreasing norm.

    If the first layer is dense over images, its rows are the kernels. Writes ``filters.svg`` with up to 96 kernels.
    Raises `UsageError` if the first layer's inputs are not images of 1 or 3 channels.
    """
    model = target.model if target.model is not None else build_untrained_model(target)
    first = get_first_layer_weights(target, model)
    if first is None:
        raise UsageError(
            f"the first layer of {target.spec.name} does not look at images of 1 or 3 channels",
            expected="a network over images",
            received=target.spec.name,
            do="for a network without convolutions, name its images: --data SOURCE, or give a run",
        )
    order = sort_by_norm(first.weights)
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "layer": first.name,
        "convolution": first.convolution,
        "shape": list(first.weights.shape),
        "scale": float(first.weights.abs().max()),
        "filters": [describe_filter(int(index), first.weights[index]) for index in order],
    }
    figures = save(out, "filters.svg", draw_figure(target, data, first, order[: target.examples or MAX_FILTERS]))
    return View("filters", data, _format_text(target, data), figures)


def describe_filter(index: int, kernel: Tensor) -> Json:
    """Return statistics of a kernel (C, k, k); ``mean`` is by channel, and near 0 for edge detectors."""
    return {
        "number": index,
        "norm": float(kernel.norm()),
        "largest": float(kernel.abs().max()),
        "mean": kernel.mean((1, 2)).tolist(),
    }


def draw_figure(target: Target, data: Json, first: FirstLayer, order: Tensor) -> str:
    """Draw the kernels in ``order``, each with its index and norm."""
    shades = 0.5 + 0.5 * first.weights / max(data["scale"], 1e-12)
    tiles = [enlarge(np.asarray(shades[index])) for index in order]
    captions = [f"#{kernel['number']} · {kernel['norm']:.2f}" for kernel in data["filters"][: len(tiles)]]
    rows = split_into_rows(tiles, COLUMNS)
    texts = [captions[start : start + COLUMNS] for start in range(0, len(captions), COLUMNS)]
    title = target.translate(
        f"{data['model']}: {_format_kernels(target, data)}; number, norm · one scale: gray 0, ±{data['scale']:.2f}",
        f"{data['model']}：{_format_kernels(target, data)}；编号、范数 · 同一标尺：灰为 0，±{data['scale']:.2f}",
    )
    return draw_image_sheet(rows, captions=texts, labels=[title] + [""] * (len(rows) - 1))


def _format_kernels(target: Target, data: Json) -> str:
    """Return the number and size of the kernels, as text."""
    count, channels, height, width = data["shape"]
    colors = target.translate("RGB" if channels == 3 else "gray", "RGB" if channels == 3 else "灰度")
    if data["convolution"]:
        return target.translate(
            f"{count} kernels of {height}×{width}, {colors}", f"{count} 个 {height}×{width} 卷积核，{colors}"
        )
    return target.translate(
        f"{count} units over {height}×{width}, {colors}", f"{count} 个单元，输入 {height}×{width}，{colors}"
    )


def _format_text(target: Target, data: Json) -> str:
    """Return the strongest and weakest kernels as a table."""
    translate = target.translate
    filters = data["filters"]
    listed = filters if len(filters) <= TABLE_ROWS else [*filters[: TABLE_ROWS - 3], *filters[-3:]]
    head = [
        translate("filter", "滤波器"),
        translate("norm", "范数"),
        translate("largest", "最大"),
    ]
    head.append(translate("mean by channel", "各通道均值"))
    rows = []
    for kernel in listed:
        means = "  ".join(f"{mean:+.3f}" for mean in kernel["mean"])
        rows.append([f"#{kernel['number']}", f"{kernel['norm']:.3f}", f"{kernel['largest']:.3f}", means])
    if len(filters) > TABLE_ROWS:
        rows.insert(TABLE_ROWS - 3, ["…", "", "", ""])
    state = "" if data["trained"] else translate(", untrained", "（未训练）")
    layer = f" ({data['layer']})" if data["layer"] else ""
    return "\n".join(
        [
            f"{data['model']}{state}{translate(': ', '：')}{_format_kernels(target, data)}{layer}",
            "",
            format_table(head, rows, right=frozenset({1, 2})),
            "",
            translate(
                f"all filters have one scale: mid-gray is 0, white (of a channel) +{data['scale']:.3g}, "
                f"black −{data['scale']:.3g}.\n"
                "the weights apply to the network's inputs, after scaling of the pixels.",
                f"所有滤波器用同一标尺绘制：中灰为 0，（某通道）白为 +{data['scale']:.3g}，黑为 "
                f"−{data['scale']:.3g}。\n"
                "权重针对网络自身的输入，即像素缩放之后的值。",
            ),
        ]
    )

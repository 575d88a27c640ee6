"""The view ``filters``: the first layer's kernels as images, all on one scale.

``K`` kernels (C, k, k), C 1 (gray) or 3 (RGB). A kernel w is drawn as ½ + ½ w / max |w| over *all* kernels, so that
mid-gray is 0 and a weak kernel looks weak. The weights are those for the network's own inputs: images in [0, 1], (x −
mean) / std by channel if so scaled. A bare model shows its initialization.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from layerwise.errors import UsageError
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.views.weights import First, first_weights, strongest, untrained
from layerwise.plotting.images import enlarged, in_rows, sheet

COLUMNS, MOST, LISTED = 8, 96, 12


def view(target: Target, *, out: Path | None) -> View:
    """Return every kernel's norm, mean and largest magnitude, the strongest first. Writes ``filters.svg`` with up to 96
    kernels.

    Of a first dense layer over images the rows are shown. Raises `UsageError` where the first layer does not see 1 or
    3 channels.
    """
    model = target.model if target.model is not None else untrained(target)
    found = first_weights(target, model)
    if found is None:
        raise UsageError(
            f"the first layer of {target.spec.name} does not look at images of 1 or 3 channels",
            expected="a network over images",
            received=target.spec.name,
            do="for a network without convolutions, name its images: --data SOURCE, or give a run",
        )
    order = strongest(found.weights)
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "layer": found.name,
        "convolution": found.convolution,
        "shape": list(found.weights.shape),
        "scale": float(found.weights.abs().max()),
        "filters": [described(int(number), found.weights[number]) for number in order],
    }
    figures = save(out, "filters.svg", figure(target, data, found, order[: target.examples or MOST]))
    return View("filters", data, _written(target, data), figures)


def described(number: int, kernel: Tensor) -> Json:
    """Return a kernel (C, k, k) in numbers. ``mean`` by channel: near 0 for what looks for edges and not for brightness
    or color."""
    return {
        "number": number,
        "norm": float(kernel.norm()),
        "largest": float(kernel.abs().max()),
        "mean": kernel.mean((1, 2)).tolist(),
    }


def figure(target: Target, data: Json, found: First, order: Tensor) -> str:
    """Draw kernels, strongest first, each with its number and norm."""
    shades = 0.5 + 0.5 * found.weights / max(data["scale"], 1e-12)
    tiles = [enlarged(np.asarray(shades[number])) for number in order]
    captions = [f"#{one['number']} · {one['norm']:.2f}" for one in data["filters"][: len(tiles)]]
    rows = in_rows(tiles, COLUMNS)
    texts = [captions[start : start + COLUMNS] for start in range(0, len(captions), COLUMNS)]
    title = target.say(
        f"{data['model']}: {_kernels(target, data)}; number, norm · one scale: gray 0, ±{data['scale']:.2f}",
        f"{data['model']}：{_kernels(target, data)}；编号、范数 · 同一标尺：灰为 0，±{data['scale']:.2f}",
    )
    return sheet(rows, captions=texts, labels=[title] + [""] * (len(rows) - 1))


def _kernels(target: Target, data: Json) -> str:
    """Return how many kernels there are, and of which size."""
    count, channels, height, width = data["shape"]
    colors = target.say("RGB" if channels == 3 else "gray", "RGB" if channels == 3 else "灰度")
    if data["convolution"]:
        return target.say(
            f"{count} kernels of {height}×{width}, {colors}", f"{count} 个 {height}×{width} 卷积核，{colors}"
        )
    return target.say(
        f"{count} units over {height}×{width}, {colors}", f"{count} 个单元，输入 {height}×{width}，{colors}"
    )


def _written(target: Target, data: Json) -> str:
    """Return the strongest and weakest kernels as a table."""
    say = target.say
    listed = data["filters"]
    picked = listed if len(listed) <= LISTED else [*listed[: LISTED - 3], *listed[-3:]]
    head = [say("filter", "滤波器"), say("norm", "范数"), say("largest", "最大"), say("mean by channel", "各通道均值")]
    rows = [
        [
            f"#{one['number']}",
            f"{one['norm']:.3f}",
            f"{one['largest']:.3f}",
            "  ".join(f"{m:+.3f}" for m in one["mean"]),
        ]
        for one in picked
    ]
    if len(listed) > LISTED:
        rows.insert(LISTED - 3, ["…", "", "", ""])
    state = "" if data["trained"] else say(", untrained", "（未训练）")
    layer = f" ({data['layer']})" if data["layer"] else ""
    return "\n".join(
        [
            f"{data['model']}{state}{say(': ', '：')}{_kernels(target, data)}{layer}",
            "",
            table(head, rows, right=frozenset({1, 2})),
            "",
            say(
                f"drawn on one scale for all: mid-gray is 0, white (of a channel) +{data['scale']:.3g}, "
                f"black −{data['scale']:.3g}.\n"
                "the weights are those for the network's own inputs, after its scaling of the pixels.",
                f"所有滤波器用同一标尺绘制：中灰为 0，（某通道）白为 +{data['scale']:.3g}，黑为 "
                f"−{data['scale']:.3g}。\n"
                "权重针对网络自身的输入，即像素缩放之后的值。",
            ),
        ]
    )

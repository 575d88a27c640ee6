"""The view ``receptive-field``: which pixels the units of each layer can depend on (S12, E16), in numbers and a figure.

With images, those of a run's data or the user's, also which pixels they do depend on (`inspect.effective`), drawn on
an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.inspection import effective
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.fields import Seen, follow
from layerwise.inspection.image_selection import images_of, told, where
from layerwise.inspection.views.summary import input_shape
from layerwise.plotting.charts import drawn
from layerwise.plotting.svg import INK, MUTED, SERIES

HEADER = (
    ("layer", "层"),
    ("type", "类型"),
    ("output", "输出"),
    ("field", "感受野"),
    ("jump", "步距"),
    ("start", "起点"),
)
IMAGES = 8
SHOWN = ("Conv", "Pool", "Linear", "Cells")  # what changes a field, by type


def view(target: Target, *, out: Path | None) -> View:
    """Return each layer's receptive field, jump (stride in the image) and start; with images also the effective
    side of convolutions, over eight images or ``target.examples``. Writes ``receptive-field.svg``.

    Raises `UsageError` for a network without convolutions, and for a transposed convolution.
    """
    arguments = dict(target.arguments) or dict(target.spec.size)
    if target.run is not None:
        arguments = dict(target.run.info()["model"]["arguments"])
    model = target.model if target.model is not None else _built(target, arguments)
    shape = input_shape(target, arguments)
    rows = [row for row in follow(model, shape) if any(kind in row.type for kind in SHOWN)] if len(shape) == 3 else []
    if not any(len(row.output) == 4 for row in rows):
        raise UsageError(
            f"{target.spec.name} has no convolutions, so each of its units sees the whole input",
            expected="a convolutional network",
            received=target.spec.name,
            do="try layerwise inspect lenet5 --what receptive-field",
        )
    data: Json = {"model": target.spec.name, "input": list(shape), "layers": [_json(row, shape) for row in rows]}
    if target.model is None or (target.splits is None and not target.images):
        return View(
            "receptive-field", data, _written(target, data), save(out, "receptive-field.svg", figure(target, data))
        )
    shown = images_of(target, "receptive-field", target.examples or IMAGES)
    names = [row.name for row in rows if row.type == "Conv2d" and row.output[2] * row.output[3] > 1]
    fields = effective.measured(model, shown.inputs, names)
    sides = {field.layer: field.side for field in fields}
    data["images"] = {"from": shown.where, "names": shown.names}
    for layer in data["layers"]:
        layer["effective"] = sides.get(layer["name"])
    drawing = effective.figure(target, data, shown, fields)
    text = (
        _written(target, data) + "\n" + _of_images(target, len(shown.names), where(target, shown)) + told(target, shown)
    )
    return View("receptive-field", data, text, save(out, "receptive-field.svg", drawing))


def _of_images(target: Target, count: int, source: str) -> str:
    """Return what the effective side is, and over which images."""
    return target.say(
        f"effective: side in pixels of what counts for the middle unit, by the gradient; {count} images of "
        f"{source}.\n"
        "in the figure brightness is the gradient's magnitude, each layer by its own largest.",
        f"有效：由梯度得出的、对中央单元真正起作用的区域的边长（像素），取 {source}的 {count} 张图像。\n"
        "图中亮度为梯度大小，各层按自身最大值。",
    )


def _built(target: Target, arguments: Json) -> nn.Module:
    """Build a model's model without memory."""
    with torch.device("meta"):
        model: nn.Module = registry.builder(target.spec)(**arguments)
    return model


def _json(row: Seen, shape: tuple[int, ...]) -> Json:
    """Return a layer's field down and across: size, jump (0 for a dense layer), start, and what its middle unit
    sees."""
    sides = row.output[2:] if len(row.output) == 4 else (1, 1)
    middle = [f.at(n // 2, side) for f, n, side in zip(row.fields, sides, shape[1:], strict=True)]
    return {
        "name": row.name,
        "type": row.type,
        "output": list(row.output[1:]),
        "field": [f.size for f in row.fields],
        "jump": [f.jump for f in row.fields],
        "start": [f.start for f in row.fields],
        "first": [f.first for f in row.fields],
        "middle": [list(ends) for ends in middle],
    }


def _written(target: Target, data: Json) -> str:
    """Return the table for people: squares as one number."""

    def short(pair: list[Any]) -> str:
        down, across = (f"{v:g}" for v in pair)
        return down if down == across else f"{down}×{across}"

    say, height, width = target.say, data["input"][1], data["input"][2]
    rows = [
        [
            la["name"],
            la["type"],
            "×".join(map(str, la["output"])),
            short(la["field"]),
            short(la["jump"]),
            short(la["start"]),
        ]
        for la in data["layers"]
    ]
    head = [say(*pair) for pair in HEADER]
    if "images" in data:
        head.append(say("effective", "有效"))
        for row, la in zip(rows, data["layers"], strict=True):
            row.append("–" if la["effective"] is None else f"{la['effective']:.1f}")
    return "\n".join(
        [
            say(
                f"{data['model']}: pixels of a {height}×{width} image that one unit can depend on",
                f"{data['model']}：单个单元所能依赖的像素范围，图片为 {height}×{width}",
            ),
            "",
            table(head, rows, right=frozenset({3, 4, 5, 6})),
            "",
            say(
                "field: side in pixels, border included. jump: pixels between neighboring units' fields (0: "
                "a dense layer).\n"
                "start: center of the first unit's field; the first pixel is 0.",
                "感受野：边长（像素，含边框填充）。步距：相邻单元感受野之间相隔的像素数（全连接层为 0）。\n"
                "起点：首个单元感受野的中心，首个像素为 0。",
            ),
        ]
    )


def figure(target: Target, data: Json) -> str:
    """Draw the field of every layer's middle unit in the image, one square in the other, and its side by layer."""
    layers = [la for la in data["layers"] if la["jump"] != [0, 0]]
    _, height, width = data["input"]

    def draw(axes: Any) -> None:
        axes.add_patch(_square(0, 0, width, height, color=MUTED, fill=True))
        for number, la in enumerate(layers):
            (top, bottom), (left, right) = la["middle"]
            color = SERIES[number % len(SERIES)]
            axes.add_patch(_square(left, top, right - left + 1, bottom - top + 1, color=color, fill=False))
        shown = layers if len(layers) <= 8 else [layers[i * (len(layers) - 1) // 7] for i in range(8)]
        for la in shown:
            number = layers.index(la)
            name = f"{la['name']}  {la['field'][0]}×{la['field'][1]}"
            axes.plot([], [], color=SERIES[number % len(SERIES)], linewidth=2.4, label=name)
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title=target.say("one unit sees", "单个单元所见"))
        axes.set(xlim=(-1.5, width + 0.5), ylim=(height + 0.5, -1.5), aspect="equal")
        axes.grid(False)
        axes.set_xlabel(target.say("column, in pixels", "列（像素）"), color=INK)
        axes.set_ylabel(target.say("row, in pixels", "行（像素）"), color=INK)
        axes.set_title(target.say(f"{data['model']}: receptive fields", f"{data['model']}：感受野"), loc="left")

    return drawn(draw, size=(7.2, 4.2))


def _square(left: float, top: float, width: float, height: float, *, color: str, fill: bool) -> Any:
    """Return a frame around pixels: the pixel i covers [i − ½, i + ½]."""
    from matplotlib.patches import Rectangle

    paint: dict[str, Any] = (
        {"facecolor": color, "alpha": 0.15, "edgecolor": "none"} if fill else {"fill": False, "edgecolor": color}
    )
    paint["linewidth"] = 0 if fill else 2.2
    return Rectangle((left - 0.5, top - 0.5), width, height, **paint)

"""The view ``receptive-field``: the theoretical receptive field of each layer (E16), as numbers and a figure.

With images, of a run's data or the user's, also the effective field (`layerwise.inspection.effective_receptive_field`)
over an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.inspection import effective_receptive_field
from layerwise.inspection.base import Json, Target, View, format_table, get_model_arguments, save
from layerwise.inspection.image_selection import describe_source, format_skipped, select_images
from layerwise.inspection.theoretical_receptive_field import LayerField, compute_theoretical_fields
from layerwise.inspection.views.summary import get_input_shape
from layerwise.plotting.charts import render_axes
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
LAYER_TYPES = ("Conv", "Pool", "Linear", "Cells")  # parts of the class names of layers that change a field


def view(target: Target, *, out: Path | None) -> View:
    """Return each layer's receptive field, jump (stride in the image) and start.

    With images, also the effective side of convolutions over eight images or ``target.examples``. Writes
    ``receptive-field.svg``. Raises `UsageError` for a network without convolutions or with a transposed convolution.
    """
    arguments = get_model_arguments(target)
    if target.run is not None:
        arguments = dict(target.run.info()["model"]["arguments"])
    model = target.model if target.model is not None else _build_on_meta_device(target, arguments)
    shape = get_input_shape(target, arguments)
    rows = compute_theoretical_fields(model, shape) if len(shape) == 3 else []
    rows = [row for row in rows if any(part in row.type for part in LAYER_TYPES)]
    if not any(len(row.output) == 4 for row in rows):
        raise UsageError(
            f"{target.spec.name} has no convolutions, so each of its units sees the whole input",
            expected="a convolutional network",
            received=target.spec.name,
            do="try layerwise inspect lenet5 --view receptive-field",
        )
    layers = [_describe_layer(row, shape) for row in rows]
    data: Json = {"model": target.spec.name, "input": list(shape), "layers": layers}
    if target.model is None or (target.splits is None and not target.images):
        figures = save(out, "receptive-field.svg", draw_figure(target, data))
        return View("receptive-field", data, _format_text(target, data), figures)
    selected = select_images(target, "receptive-field", target.examples or IMAGES)
    names = [row.name for row in rows if row.type == "Conv2d" and row.output[2] * row.output[3] > 1]
    fields = effective_receptive_field.measure_effective_fields(model, selected.inputs, names)
    sides = {field.layer: field.side for field in fields}
    data["images"] = {"from": selected.source, "names": selected.names}
    for layer in layers:
        layer["effective"] = sides.get(layer["name"])
    note = _format_image_note(target, len(selected.names), describe_source(target, selected))
    text = f"{_format_text(target, data)}\n{note}{format_skipped(target, selected)}"
    figures = save(out, "receptive-field.svg", effective_receptive_field.draw_figure(target, data, selected, fields))
    return View("receptive-field", data, text, figures)


def _format_image_note(target: Target, count: int, source: str) -> str:
    """Return a note that defines the effective side and names the images."""
    return target.translate(
        f"effective: side in pixels of the middle unit's effective field, from the gradient over {count} images of "
        f"{source}.\n"
        "in the figure, brightness is the gradient's magnitude; each layer has its own scale.",
        f"有效：由梯度得出的、对中央单元真正起作用的区域的边长（像素），取 {source}的 {count} 张图像。\n"
        "图中亮度为梯度大小，各层按自身最大值。",
    )


def _build_on_meta_device(target: Target, arguments: Json) -> nn.Module:
    """Build a model of the registry on the meta device, without memory for weights."""
    with torch.device("meta"):
        model: nn.Module = registry.get_builder(target.spec)(**arguments)
    return model


def _describe_layer(row: LayerField, shape: tuple[int, ...]) -> Json:
    """Return a layer's field down and across: size, jump (0 for a dense layer), start, and the range of pixels of its
    middle unit."""
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


def _format_text(target: Target, data: Json) -> str:
    """Return the table as text, with one number for squares."""

    def format_pair(pair: list[Any]) -> str:
        down, across = (f"{v:g}" for v in pair)
        return down if down == across else f"{down}×{across}"

    translate, height, width = target.translate, data["input"][1], data["input"][2]
    rows = [
        [
            layer["name"],
            layer["type"],
            "×".join(map(str, layer["output"])),
            format_pair(layer["field"]),
            format_pair(layer["jump"]),
            format_pair(layer["start"]),
        ]
        for layer in data["layers"]
    ]
    head = [translate(*pair) for pair in HEADER]
    if "images" in data:
        head.append(translate("effective", "有效"))
        for row, layer in zip(rows, data["layers"], strict=True):
            row.append("–" if layer["effective"] is None else f"{layer['effective']:.1f}")
    return "\n".join(
        [
            translate(
                f"{data['model']}: pixels of a {height}×{width} image that one unit can depend on",
                f"{data['model']}：单个单元所能依赖的像素范围，图像为 {height}×{width}",
            ),
            "",
            format_table(head, rows, right=frozenset({3, 4, 5, 6})),
            "",
            translate(
                "field: side in pixels, border included. jump: pixels between neighboring units' fields (0: "
                "a dense layer).\n"
                "start: center of the first unit's field; the first pixel is 0.",
                "感受野：边长（像素，含边框填充）。步距：相邻单元感受野之间相隔的像素数（全连接层为 0）。\n"
                "起点：首个单元感受野的中心，首个像素为 0。",
            ),
        ]
    )


def draw_figure(target: Target, data: Json) -> str:
    """Draw the field of every layer's middle unit as nested frames in the image, with its size in the legend."""
    layers = [layer for layer in data["layers"] if layer["jump"] != [0, 0]]
    _, height, width = data["input"]

    def draw(axes: Any) -> None:
        axes.add_patch(_make_rectangle(0, 0, width, height, color=MUTED, fill=True))
        for index, layer in enumerate(layers):
            (top, bottom), (left, right) = layer["middle"]
            color = SERIES[index % len(SERIES)]
            axes.add_patch(_make_rectangle(left, top, right - left + 1, bottom - top + 1, color=color, fill=False))
        legend_layers = layers if len(layers) <= 8 else [layers[i * (len(layers) - 1) // 7] for i in range(8)]
        for layer in legend_layers:
            index = layers.index(layer)
            name = f"{layer['name']}  {layer['field'][0]}×{layer['field'][1]}"
            axes.plot([], [], color=SERIES[index % len(SERIES)], linewidth=2.4, label=name)
        title = target.translate("one unit sees", "单个单元所见")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title=title)
        axes.set(xlim=(-1.5, width + 0.5), ylim=(height + 0.5, -1.5), aspect="equal")
        axes.grid(False)
        axes.set_xlabel(target.translate("column, in pixels", "列（像素）"), color=INK)
        axes.set_ylabel(target.translate("row, in pixels", "行（像素）"), color=INK)
        axes.set_title(target.translate(f"{data['model']}: receptive fields", f"{data['model']}：感受野"), loc="left")

    return render_axes(draw, size=(7.2, 4.2))


def _make_rectangle(left: float, top: float, width: float, height: float, *, color: str, fill: bool) -> Any:
    """Return a rectangle around pixels; the pixel i covers [i − ½, i + ½]."""
    from matplotlib.patches import Rectangle

    style: dict[str, Any] = (
        {"facecolor": color, "alpha": 0.15, "edgecolor": "none"} if fill else {"fill": False, "edgecolor": color}
    )
    style["linewidth"] = 0 if fill else 2.2
    return Rectangle((left - 0.5, top - 0.5), width, height, **style)

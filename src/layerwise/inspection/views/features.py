"""The view ``features``: the feature maps of an image, layer by layer.

``C`` maps of ``H`` × ``W`` positions. A stage is a convolution or pooling with the layers of the same output size that
follow it (`layerwise.inspection.feature_maps`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.inference.predict import inference_context
from layerwise.inspection.base import Json, Target, View, format_table, save
from layerwise.inspection.feature_maps import (
    FeatureLayer,
    capture_maps,
    find_feature_layers,
    find_layer,
    group_stages,
    make_no_convolution_error,
)
from layerwise.inspection.image_selection import (
    SelectedImages,
    format_skipped,
    pick_indices_evenly,
    require_network,
    select_images,
)
from layerwise.plotting.images import Floats, draw_image_sheet, enlarge, split_into_rows

COLUMNS, MAX_LAYERS, MAX_MAPS = 8, 8, 64  # maps in a row, layers in a figure, maps of one layer in a figure


def view(target: Target, *, out: Path | None) -> View:
    """Return the strongest feature maps of up to eight stages, or up to 64 maps of ``target.layer``.

    Uses the first image of the test part or the user's first image; with ``target.examples``, that many evenly spaced
    images. Writes ``features.svg``, or a file for each image.

    Raises `UsageError` if the network has no convolution or its inputs are not images, and for an unknown layer.
    """
    model, _ = require_network(target, "features")
    selected = select_images(target, "features", target.examples or 1)
    with inference_context(model, selected.inputs.device):
        chosen = select_layers(target, model, selected.inputs[:1])
        maps_by_layer = compute_maps(model, selected.inputs, chosen)
    images = []
    for index, name in enumerate(selected.names):
        layers = [describe_layer(stage, maps_by_layer[stage.name][index]) for stage in chosen]
        images.append({"name": name, "true": selected.labels[index] or None, "layers": layers})
    data = {"model": target.spec.name, "trained": target.run is not None, "from": selected.source, "images": images}
    figures: list[Path] = []
    for index, image in enumerate(images):
        name = "features.svg" if len(images) == 1 else f"features-{index + 1}.svg"
        maps = [maps_by_layer[stage.name][index] for stage in chosen]
        figures += save(out, name, draw_figure(target, image, selected.images[index], maps))
    return View("features", data, _format_text(target, data, selected), figures)


def select_layers(target: Target, model: nn.Module, inputs: Tensor) -> list[FeatureLayer]:
    """Return ``target.layer``, or up to eight evenly spaced stages with the first and the last."""
    calls = find_feature_layers(model, inputs)
    if target.layer:
        return [find_layer(calls, target.layer)]
    stages = group_stages(calls)
    if not any(stage.has_convolution for stage in stages):
        raise make_no_convolution_error(target.spec.name, "features")
    return [stages[i] for i in pick_indices_evenly(len(stages), MAX_LAYERS)]


def compute_maps(model: nn.Module, inputs: Tensor, chosen: list[FeatureLayer]) -> dict[str, Tensor]:
    """Return the layers' outputs for inputs (N, C, H, W), by name."""
    with torch.no_grad(), capture_maps(model, chosen) as outputs:
        model(inputs)
        return {name: tensor.cpu() for name, tensor in outputs.items()}


def sort_by_strength(maps: Tensor) -> list[int]:
    """Return the indices of maps (C, H, W) in order of decreasing mean magnitude."""
    return [int(i) for i in maps.double().abs().mean((1, 2)).argsort(descending=True, stable=True)]


def describe_layer(stage: FeatureLayer, maps: Tensor) -> Json:
    """Return statistics of a stage and its maps (C, H, W); ``silent`` counts the maps that are 0 everywhere."""
    values = maps.double()
    return {
        "name": stage.name,
        "began": stage.first_type or stage.type,
        "maps": list(stage.shape),
        "mean": float(values.mean()),
        "least": float(values.min()),
        "largest": float(values.max()),
        "zeros": float((values == 0).double().mean()),
        "silent": int((values == 0).all(2).all(1).sum()),
        "strongest": sort_by_strength(maps)[:COLUMNS],
    }


def scale_maps(maps: Tensor) -> tuple[Floats, bool]:
    """Scale maps (C, H, W) jointly to [0, 1], and return whether any value is negative.

    Then 0 becomes 0.5 (mid-gray), otherwise 0 (black).
    """
    values = maps.double()
    largest = values.abs().max().clamp_min(1e-12)
    signed = bool((values < 0).any())
    return np.asarray((0.5 + 0.5 * values / largest) if signed else values / largest), signed


def draw_figure(target: Target, image: Json, pixels: Floats, maps_by_layer: list[Tensor]) -> str:
    """Draw the image and each layer's strongest maps in order, with one scale for each layer."""
    rows: list[list[Floats]] = [[pixels]]
    labels = [image["true"] or Path(image["name"]).name]
    for layer, maps in zip(image["layers"], maps_by_layer, strict=True):
        shades, signed = scale_maps(maps)
        limit = MAX_MAPS if target.layer else COLUMNS
        tiles = [enlarge(shades[index : index + 1]) for index in sort_by_strength(maps)[:limit]]
        tile_rows = split_into_rows(tiles, COLUMNS)
        rows += tile_rows
        labels += [_format_title(target, layer, len(tiles), signed=signed)] + [""] * (len(tile_rows) - 1)
    return draw_image_sheet(rows, labels=labels)


def _format_title(target: Target, layer: Json, drawn: int, *, signed: bool) -> str:
    """Return the title of a layer's maps: its name, first module, number and size of maps, and the scale."""
    translate, (count, height, width) = target.translate, layer["maps"]
    largest = max(abs(layer["least"]), layer["largest"])
    scale = translate("gray 0, ", "灰 0，") * signed + translate(f"white {largest:.3g}", f"白 {largest:.3g}")
    of = (
        translate(f"{drawn} of {count} maps", f"{count} 张特征图中的 {drawn} 张")
        if drawn < count
        else translate(f"{count} maps", f"{count} 张特征图")
    )
    return f"{layer['name']} · {layer['began']} · {of} · {height}×{width} · {scale}"


def _format_text(target: Target, data: Json, selected: SelectedImages) -> str:
    """Return a table for each image."""
    translate = target.translate
    head = [
        translate("layer", "层"),
        translate("from", "起于"),
        translate("maps", "特征图"),
        translate("mean", "均值"),
        translate("least", "最小"),
        translate("largest", "最大"),
        translate("zeros", "零值"),
        translate("silent", "全零图"),
        translate("strongest", "最强"),
    ]
    state = "" if data["trained"] else translate(", untrained", "（未训练）")
    parts = []
    for image in data["images"]:
        rows = [
            [
                layer["name"],
                layer["began"],
                "×".join(map(str, layer["maps"])),
                f"{layer['mean']:.3g}",
                f"{layer['least']:.3g}",
                f"{layer['largest']:.3g}",
                f"{layer['zeros']:.0%}",
                str(layer["silent"]),
                " ".join(map(str, layer["strongest"][:5])),
            ]
            for layer in image["layers"]
        ]
        true = f" ({image['true']})" if image["true"] else ""
        name = f"{image['name']}{true}"
        title = translate(f"{data['model']}{state}: {name}", f"{data['model']}{state}：{name}")
        parts.append(f"{title}\n\n{format_table(head, rows, right=frozenset(range(3, 8)))}")
    notes = translate(
        "each layer includes the operations of the same size that follow it: batch norm, activation, a residual sum.\n"
        "silent: maps that are 0 everywhere. "
        "strongest: indices of the maps, the largest mean magnitude first. In the figure the maps of a layer "
        "share one scale.",
        "一层连同其后尺寸不变的运算一起显示：批归一化、激活、残差相加。全零图：处处为 0 的特征图。\n"
        "最强：特征图的编号，按平均绝对值从大到小。图中同一层的特征图用同一灰度标尺。",
    )
    return "\n\n".join([*parts, notes]) + format_skipped(target, selected)

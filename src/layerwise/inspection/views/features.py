"""The view ``features``: what each layer makes of an image, map by map.

``C`` maps of ``H W`` places. A stage is a convolution or pooling with what follows it at the same size
(`inspect.maps`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.inference.predict import evaluating
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.image_selection import Shown, evenly, images_of, network_of, told
from layerwise.inspection.maps import Maps, calls, kept, named, no_convolution, stages
from layerwise.plotting.images import Floats, enlarged, in_rows, sheet

COLUMNS, STAGES, MOST = 8, 8, 64  # maps in a row, layers in a figure, maps of one layer in a figure


def view(target: Target, *, out: Path | None) -> View:
    """Return the maps that an image's layers give: of up to eight stages the strongest, or of ``target.layer`` up to
    64.

    The first image of the test part is looked at, or the user's; with more (``target.examples``), evenly spaced ones.
    Writes ``features.svg``, or one for each image.

    Raises `UsageError` for networks without convolution or images, and for an unknown layer.
    """
    model, _ = network_of(target, "features")
    shown = images_of(target, "features", target.examples or 1)
    with evaluating(model, shown.inputs.device):
        chosen = chosen_stages(target, model, shown.inputs[:1])
        given = maps_of(model, shown.inputs, chosen)
    images = [
        {
            "name": name,
            "true": shown.true[at] or None,
            "layers": [described(stage, given[stage.name][at]) for stage in chosen],
        }
        for at, name in enumerate(shown.names)
    ]
    data = {"model": target.spec.name, "trained": target.run is not None, "from": shown.where, "images": images}
    figures: list[Path] = []
    for at, image in enumerate(images):
        name = "features.svg" if len(images) == 1 else f"features-{at + 1}.svg"
        drawing = figure(target, image, shown.images[at], [given[stage.name][at] for stage in chosen])
        figures += save(out, name, drawing)
    return View("features", data, _written(target, data, shown), figures)


def chosen_stages(target: Target, model: nn.Module, inputs: Tensor) -> list[Maps]:
    """Return the layer asked for, or up to eight stages, evenly spaced, the first and the last among them."""
    found = calls(model, inputs)
    if target.layer:
        return [named(found, target.layer)]
    listed = stages(found)
    if not any(stage.convolution for stage in listed):
        raise no_convolution(target.spec.name, "features")
    return [listed[i] for i in evenly(len(listed), STAGES)]


def maps_of(model: nn.Module, inputs: Tensor, chosen: list[Maps]) -> dict[str, Tensor]:
    """Return what layers give for inputs (N, C, H, W), by name."""
    with torch.no_grad(), kept(model, chosen) as outputs:
        model(inputs)
        return {name: tensor.cpu() for name, tensor in outputs.items()}


def order_of(maps: Tensor) -> list[int]:
    """Return the numbers of maps (C, H, W), that of the largest mean magnitude first."""
    return [int(i) for i in maps.double().abs().mean((1, 2)).argsort(descending=True, stable=True)]


def described(stage: Maps, maps: Tensor) -> Json:
    """Return a stage and its maps (C, H, W) in numbers; ``silent``: maps that are 0 everywhere."""
    wide = maps.double()
    return {
        "name": stage.name,
        "began": stage.began or stage.type,
        "maps": list(stage.shape),
        "mean": float(wide.mean()),
        "least": float(wide.min()),
        "largest": float(wide.max()),
        "zeros": float((wide == 0).double().mean()),
        "silent": int((wide == 0).all(2).all(1).sum()),
        "strongest": order_of(maps)[:COLUMNS],
    }


def scaled(maps: Tensor) -> tuple[Floats, bool]:
    """Return maps (C, H, W) in [0, 1] on one scale, and whether 0 is mid-gray: so where there are negative values, else
    it is black."""
    wide = maps.double()
    largest = wide.abs().max().clamp_min(1e-12)
    signed = bool((wide < 0).any())
    return np.asarray((0.5 + 0.5 * wide / largest) if signed else wide / largest), signed


def figure(target: Target, image: Json, pixels: Floats, given: list[Tensor]) -> str:
    """Draw the image, and for each layer its strongest maps, strongest first, on the layer's own scale."""
    rows: list[list[Floats]] = [[pixels]]
    labels = [image["true"] or Path(image["name"]).name]
    for layer, maps in zip(image["layers"], given, strict=True):
        shades, signed = scaled(maps)
        most = MOST if target.layer else COLUMNS
        tiles = [enlarged(shades[number : number + 1]) for number in order_of(maps)[:most]]
        listed = in_rows(tiles, COLUMNS)
        rows += listed
        labels += [_title(target, layer, len(tiles), signed=signed)] + [""] * (len(listed) - 1)
    return sheet(rows, labels=labels)


def _title(target: Target, layer: Json, shown: int, *, signed: bool) -> str:
    """Return what stands above a layer's maps: its name, what began it, how many maps of which size, and the scale."""
    say, (count, height, width) = target.say, layer["maps"]
    largest = max(abs(layer["least"]), layer["largest"])
    scale = say("gray 0, ", "灰 0，") * signed + say(f"white {largest:.3g}", f"白 {largest:.3g}")
    of = (
        say(f"{shown} of {count} maps", f"{count} 张特征图中的 {shown} 张")
        if shown < count
        else say(f"{count} maps", f"{count} 张特征图")
    )
    return f"{layer['name']} · {layer['began']} · {of} · {height}×{width} · {scale}"


def _written(target: Target, data: Json, shown: Shown) -> str:
    """Return a table for each image."""
    say = target.say
    head = [
        say("layer", "层"),
        say("from", "起于"),
        say("maps", "特征图"),
        say("mean", "均值"),
        say("least", "最小"),
        say("largest", "最大"),
        say("zeros", "零值"),
        say("silent", "全零图"),
        say("strongest", "最强"),
    ]
    state = "" if data["trained"] else say(", untrained", "（未训练）")
    parts = []
    for image in data["images"]:
        rows = [
            [
                la["name"],
                la["began"],
                "×".join(map(str, la["maps"])),
                f"{la['mean']:.3g}",
                f"{la['least']:.3g}",
                f"{la['largest']:.3g}",
                f"{la['zeros']:.0%}",
                str(la["silent"]),
                " ".join(map(str, la["strongest"][:5])),
            ]
            for la in image["layers"]
        ]
        true = f" ({image['true']})" if image["true"] else ""
        title = say(f"{data['model']}{state}: {image['name']}{true}", f"{data['model']}{state}：{image['name']}{true}")
        parts.append(f"{title}\n\n{table(head, rows, right=frozenset(range(3, 8)))}")
    notes = say(
        "a layer stands with what follows it at the same size: batch norm, activation, a residual sum.\n"
        "silent: maps that are 0 everywhere. "
        "strongest: maps by number, the largest mean magnitude first. In the figure the maps of a layer "
        "share one scale.",
        "一层连同其后尺寸不变的运算一起显示：批归一化、激活、残差相加。全零图：处处为 0 的特征图。\n"
        "最强：特征图的编号，按平均绝对值从大到小。图中同一层的特征图用同一灰度标尺。",
    )
    return "\n\n".join([*parts, notes]) + told(target, shown)

"""The view ``grad-cam``: image regions that support a class (R. R. Selvaraju et al., Grad-CAM, ICCV 2017).

``N`` images, ``M`` explained classes for each, ``C`` maps Aᵏ of ``H`` × ``W`` positions. With y the logit of a class,

    αₖ = mean over positions of ∂y/∂Aᵏ        map = ReLU(Σₖ αₖ Aᵏ)

Under a head of global average pooling and one linear layer, αₖ is the weight of the class divided by HW, and the map
before the ReLU is the class activation map of B. Zhou et al. (CVPR 2016) divided by HW.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.errors import make_unknown_name_error
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
    describe_source,
    format_skipped,
    require_classes,
    require_network,
    select_images,
)
from layerwise.plotting.images import Floats, draw_image_sheet, overlay_heatmap
from layerwise.tasks.base import Task
from layerwise.tasks.classification import ClassPrediction
from layerwise.tasks.objectives import to_class_logits

COUNT = 8


class GradCAM(NamedTuple):
    """Outputs (N, K or 1), the explained classes (N, M), and their maps (N, M, H, W) ≥ 0 at the layer's size."""

    outputs: Tensor
    classes: Tensor
    maps: Tensor


def view(target: Target, *, out: Path | None) -> View:
    """Return Grad-CAM of images for the two most probable classes, or for ``target.class_name``.

    The maps A are those of the last convolutional stage, or of ``target.layer``. Writes ``grad-cam.svg`` and
    ``grad-cam.safetensors`` (``maps`` (N, M, H, W), ``classes`` (N, M)).

    Raises `UsageError` without convolutions, image inputs or classes, and for an unknown layer or class.
    """
    model, task = require_network(target, "grad-cam")
    names = require_classes(target, task, "grad-cam")
    if target.class_name and target.class_name not in names:
        raise make_unknown_name_error("class", target.class_name, names)
    selected = select_images(target, "grad-cam", target.examples or COUNT)
    with inference_context(model, selected.inputs.device), torch.inference_mode(False):
        layer = choose_layer(target, model, selected.inputs[:1])
        pick = _pick_class(names.index(target.class_name)) if target.class_name else pick_top_two
        result = compute_grad_cam(model, selected.inputs.clone(), layer, pick)
    scores = _compute_scores(task, result.outputs)
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "from": selected.source,
        "layer": layer.name,
        "maps": list(layer.shape),
        "images": [_describe_image(selected, result, scores, names, index) for index in range(len(selected.names))],
    }
    figures = save(out, "grad-cam.svg", draw_figure(target, data, selected, result.maps))
    arrays = {"maps": result.maps.float().cpu().contiguous(), "classes": result.classes.cpu().contiguous()}
    figures += save(out, "grad-cam.safetensors", safetensors.torch.save(arrays))
    return View("grad-cam", data, _format_text(target, data, selected), figures)


def choose_layer(target: Target, model: nn.Module, inputs: Tensor) -> FeatureLayer:
    """Return ``target.layer``, or the last stage that begins with a convolution."""
    calls = find_feature_layers(model, inputs)
    convolutions = [stage for stage in group_stages(calls) if stage.has_convolution]
    if not convolutions:
        raise make_no_convolution_error(target.spec.name, "grad-cam")
    return find_layer(calls, target.layer) if target.layer else convolutions[-1]


def pick_top_two(logits: Tensor) -> Tensor:
    """Return the classes (N, 2) of the two largest logits."""
    return logits.topk(min(2, logits.shape[1]), dim=1).indices


def _pick_class(label: int) -> Callable[[Tensor], Tensor]:
    """Return a function that picks the same class for every image."""
    return lambda logits: torch.full((len(logits), 1), label, device=logits.device)


def compute_grad_cam(
    model: nn.Module, inputs: Tensor, layer: FeatureLayer, pick: Callable[[Tensor], Tensor]
) -> GradCAM:
    """Return Grad-CAM of inputs (N, C, H, W) for the classes (N, M) that ``pick`` selects from the logits (N, K).

    Put the network in evaluation mode first: then the images of a batch are independent, and one gradient of Σₙ yₙ is
    enough.
    """
    with torch.enable_grad(), capture_maps(model, [layer]) as outputs:
        predictions = model(inputs.requires_grad_())
        logits, maps = to_class_logits(predictions), outputs[layer.name]
        classes = pick(logits.detach())
        heatmaps = []
        for column in classes.T:
            chosen = logits.gather(1, column[:, None]).sum()
            (slopes,) = torch.autograd.grad(chosen, maps, retain_graph=True)
            alpha = slopes.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
            heatmaps.append(torch.relu((alpha * maps).sum(1)))  # (N, H, W)
    return GradCAM(predictions.detach(), classes, torch.stack(heatmaps, 1).detach())


def _compute_scores(task: Task, outputs: Tensor) -> list[dict[str, float]]:
    """Return each image's class probabilities by name."""
    predictions = task.decode(outputs.cpu(), Batch(outputs.cpu(), None, torch.arange(len(outputs))))
    return [prediction.scores for prediction in predictions if isinstance(prediction, ClassPrediction)]


def _describe_image(
    selected: SelectedImages, result: GradCAM, scores: list[dict[str, float]], names: tuple[str, ...], index: int
) -> Json:
    """Return an image's classes, each with its score and the maximum of its map, in value and pixel."""
    classes = []
    height, width = selected.images.shape[2:]
    for label, heat in zip(result.classes[index].tolist(), result.maps[index], strict=True):
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        peak = [
            round((row + 0.5) * height / heat.shape[0] - 0.5, 1),
            round((column + 0.5) * width / heat.shape[1] - 0.5, 1),
        ]
        largest = float(heat.max())
        classes.append(
            {
                "class": names[label],
                "score": scores[index][names[label]],
                "largest": largest,
                "peak": peak if largest else None,
            }
        )
    return {"name": selected.names[index], "true": selected.labels[index] or None, "classes": classes}


def upsample(heat: Tensor, size: tuple[int, int]) -> Floats:
    """Resize a map (H, W) to ``size`` (bilinear) and divide it by its maximum; a map of zeros stays zero."""
    resized = F.interpolate(heat[None, None].double(), size, mode="bilinear", align_corners=False)[0, 0]
    return np.asarray((resized / resized.max().clamp_min(1e-12)).cpu())


def draw_figure(target: Target, data: Json, selected: SelectedImages, maps: Tensor) -> str:
    """Draw the images, and below each its overlays with the classes' maps; each map has its own scale."""
    translate, size = target.translate, (selected.images.shape[2], selected.images.shape[3])
    images = data["images"]
    source = describe_source(target, selected)
    titles = [translate(f"images of {source}", f"{source}的图像")]
    if target.class_name:
        titles.append(translate(f"evidence for {target.class_name}", f"支持“{target.class_name}”的区域"))
    else:
        titles += [
            translate("evidence for the predicted class", "支持预测类别的区域"),
            translate("evidence for the second class", "支持第二位类别的区域"),
        ]
    titles[1] += translate(
        f" at {data['layer']}; brightest: the maximum of each map", f"（{data['layer']}；越亮越强，各图按自身最大值）"
    )
    rows = [list(selected.images)]
    captions = [[p["true"] or Path(p["name"]).name for p in images]]
    for column in range(maps.shape[1]):
        heatmaps = [upsample(heat, size) for heat in maps[:, column]]
        rows.append([overlay_heatmap(*pair) for pair in zip(selected.images, heatmaps, strict=True)])
        captions.append([_format_caption(target, p["classes"][column]) for p in images])
    return draw_image_sheet(rows, captions=captions, labels=titles[: len(rows)])


def _format_caption(target: Target, entry: Json) -> str:
    """Return a class and its score, with a note if no region supports the class."""
    line = f"{entry['class']}\n{entry['score']:.1%}"
    return line if entry["largest"] else line + target.translate("\nno evidence", "\n无支持区域")


def _format_text(target: Target, data: Json, selected: SelectedImages) -> str:
    """Return the table as text."""
    translate = target.translate
    head = [
        translate("example", "样本"),
        translate("true", "真实"),
        translate("class", "类别"),
        translate("score", "得分"),
        translate("largest", "最大值"),
        translate("peak", "峰值处"),
    ]
    rows = []
    for image in data["images"]:
        for number, entry in enumerate(image["classes"]):
            peak = "–" if entry["peak"] is None else "{:g}, {:g}".format(*entry["peak"])
            first = [image["name"], image["true"] or ""] if number == 0 else ["", ""]
            rows.append([*first, entry["class"], f"{entry['score']:.3f}", f"{entry['largest']:.3g}", peak])
    state = "" if data["trained"] else translate(", untrained", "（未训练）")
    count, height, width = data["maps"]
    keep = [i for i in range(6) if i != 1 or any(row[1] for row in rows)]
    flush = frozenset(index for index, i in enumerate(keep) if i > 2)
    body = format_table([head[i] for i in keep], [[row[i] for i in keep] for row in rows], right=flush)
    notes = translate(
        "map = ReLU(Σ αₖ Aᵏ), αₖ the mean of ∂y/∂Aᵏ over the map, y the class's logit. largest: 0 means no "
        "position supports the class.\n"
        "peak: row and column of the maximum, in pixels at the network's input size. In the figure each "
        "map has its own scale.",
        "图 = ReLU(Σ αₖ Aᵏ)，αₖ 是 ∂y/∂Aᵏ 在整张特征图上的均值，y 是该类的 logit。最大值为 0 "
        "表示没有任何位置支持该类。\n"
        "峰值处：峰值中心的行与列，以网络所见图像的像素计。图中各图按自身最大值显示。",
    )
    source = describe_source(target, selected)
    return "\n".join(
        [
            translate(
                f"{data['model']}{state}: {len(data['images'])} images of {source}; "
                f"maps of {data['layer']}, {count} of {height}×{width}",
                f"{data['model']}{state}：{source}的 {len(data['images'])} 张图像；"
                f"取 {data['layer']} 的特征图，{count} 张 {height}×{width}",
            ),
            "",
            body,
            "",
            notes + format_skipped(target, selected),
        ]
    )

"""The view ``grad-cam``: where in an image the evidence for a class lies (R. R. Selvaraju et al., Grad-CAM, ICCV
2017).

``N`` images, ``M`` classes explained for each, ``C`` maps Aᵏ of ``H W`` places. With y the logit of a class,

    αₖ = mean over places of ∂y/∂Aᵏ        map = ReLU(Σₖ αₖ Aᵏ)

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

from layerwise.data.loader import Batch
from layerwise.errors import unknown
from layerwise.inference.predict import evaluating
from layerwise.inspection.base import Json, Target, View, save, table
from layerwise.inspection.image_selection import Shown, classes_of, images_of, network_of, told, where
from layerwise.inspection.maps import Maps, calls, kept, named, no_convolution, stages
from layerwise.plotting.images import Floats, heated, sheet
from layerwise.tasks.base import Task
from layerwise.tasks.classification import ClassPrediction
from layerwise.tasks.objectives import class_logits

COUNT = 8


class Explained(NamedTuple):
    """Outputs (N, K or 1), the classes that are explained (N, M), and their maps (N, M, H, W) ≥ 0 at the layer's own
    size."""

    outputs: Tensor
    classes: Tensor
    maps: Tensor


def view(target: Target, *, out: Path | None) -> View:
    """Return Grad-CAM of images for the predicted class and the second, or for the class that ``target.of_class``
    names.

    The maps A are those of the last convolution with what follows it at the same size, unless ``target.layer`` names
    another. Writes ``grad-cam.svg`` and ``grad-cam.safetensors`` (``maps`` (N, M, H, W), ``classes`` (N, M)).

    Raises `UsageError` for networks without convolution, images or classes, and for an unknown layer or class.
    """
    model, task = network_of(target, "grad-cam")
    names = classes_of(target, task, "grad-cam")
    if target.of_class and target.of_class not in names:
        raise unknown("class", target.of_class, names)
    shown = images_of(target, "grad-cam", target.examples or COUNT)
    with evaluating(model, shown.inputs.device), torch.inference_mode(False):
        layer = layer_of(target, model, shown.inputs[:1])
        pick = _the_class(names.index(target.of_class)) if target.of_class else two_best
        found = explained(model, shown.inputs.clone(), layer, pick)
    scores = _scores(task, found.outputs)
    data = {
        "model": target.spec.name,
        "trained": target.run is not None,
        "from": shown.where,
        "layer": layer.name,
        "maps": list(layer.shape),
        "images": [_json(shown, found, scores, names, at) for at in range(len(shown.names))],
    }
    figures = save(out, "grad-cam.svg", figure(target, data, shown, found.maps))
    arrays = {"maps": found.maps.float().cpu().contiguous(), "classes": found.classes.cpu().contiguous()}
    figures += save(out, "grad-cam.safetensors", safetensors.torch.save(arrays))
    return View("grad-cam", data, _written(target, data, shown), figures)


def layer_of(target: Target, model: nn.Module, inputs: Tensor) -> Maps:
    """Return the layer whose maps are weighted: the one asked for, or the last stage that began with a convolution."""
    found = calls(model, inputs)
    convolutions = [stage for stage in stages(found) if stage.convolution]
    if not convolutions:
        raise no_convolution(target.spec.name, "grad-cam")
    return named(found, target.layer) if target.layer else convolutions[-1]


def two_best(logits: Tensor) -> Tensor:
    """Return the classes of the largest and the second logit, (N, 2)."""
    return logits.topk(min(2, logits.shape[1]), dim=1).indices


def _the_class(label: int) -> Callable[[Tensor], Tensor]:
    """Return a choice of one class for every image."""
    return lambda logits: torch.full((len(logits), 1), label, device=logits.device)


def explained(model: nn.Module, inputs: Tensor, layer: Maps, pick: Callable[[Tensor], Tensor]) -> Explained:
    """Return Grad-CAM of inputs (N, C, H, W) for the classes (N, M) that ``pick`` chooses by the logits (N, K).

    The network is to be in evaluation mode: then the images of a batch do not touch each other, and one gradient of
        Σₙ yₙ serves all.
    """
    with torch.enable_grad(), kept(model, [layer]) as outputs:
        said = model(inputs.requires_grad_())
        logits, maps = class_logits(said), outputs[layer.name]
        classes = pick(logits.detach())
        found = []
        for column in classes.T:
            chosen = logits.gather(1, column[:, None]).sum()
            (slopes,) = torch.autograd.grad(chosen, maps, retain_graph=True)
            alpha = slopes.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
            found.append(torch.relu((alpha * maps).sum(1)))  # (N, H, W)
    return Explained(said.detach(), classes, torch.stack(found, 1).detach())


def _scores(task: Task, outputs: Tensor) -> list[dict[str, float]]:
    """Return each image's probability of every class, by name."""
    answers = task.decode(outputs.cpu(), Batch(outputs.cpu(), None, torch.arange(len(outputs))))
    return [answer.scores for answer in answers if isinstance(answer, ClassPrediction)]


def _json(shown: Shown, found: Explained, scores: list[dict[str, float]], names: tuple[str, ...], at: int) -> Json:
    """Return an image's classes, with the largest value of each map and the pixel at its middle."""
    listed = []
    height, width = shown.images.shape[2:]
    for label, heat in zip(found.classes[at].tolist(), found.maps[at], strict=True):
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        peak = [
            round((row + 0.5) * height / heat.shape[0] - 0.5, 1),
            round((column + 0.5) * width / heat.shape[1] - 0.5, 1),
        ]
        largest = float(heat.max())
        listed.append(
            {
                "class": names[label],
                "score": scores[at][names[label]],
                "largest": largest,
                "peak": peak if largest else None,
            }
        )
    return {"name": shown.names[at], "true": shown.true[at] or None, "classes": listed}


def upsampled(heat: Tensor, size: tuple[int, int]) -> Floats:
    """Return a map (H, W) at an image's size (bilinear), divided by its largest value; zeros stay zeros."""
    grown = F.interpolate(heat[None, None].double(), size, mode="bilinear", align_corners=False)[0, 0]
    return np.asarray((grown / grown.max().clamp_min(1e-12)).cpu())


def figure(target: Target, data: Json, shown: Shown, maps: Tensor) -> str:
    """Draw the images, and beneath each the map of every class over it; each map by its own largest value."""
    say, size = target.say, (shown.images.shape[2], shown.images.shape[3])
    listed = data["images"]
    titles = [say(f"images of {where(target, shown)}", f"{where(target, shown)}的图像")]
    if target.of_class:
        titles.append(say(f"evidence for {target.of_class}", f"支持“{target.of_class}”的区域"))
    else:
        titles += [
            say("evidence for the predicted class", "支持预测类别的区域"),
            say("evidence for the second", "支持第二位类别的区域"),
        ]
    titles[1] += say(
        f" at {data['layer']}; bright: most of its own map", f"（{data['layer']}；越亮越强，各图按自身最大值）"
    )
    rows = [list(shown.images)]
    captions = [[p["true"] or Path(p["name"]).name for p in listed]]
    for column in range(maps.shape[1]):
        rows.append([heated(image, upsampled(maps[at, column], size)) for at, image in enumerate(shown.images)])
        captions.append([_caption(target, p["classes"][column]) for p in listed])
    return sheet(rows, captions=captions, labels=titles[: len(rows)])


def _caption(target: Target, explained: Json) -> str:
    """Return a class, its score, and whether there is any evidence at all."""
    line = f"{explained['class']}\n{explained['score']:.1%}"
    return line if explained["largest"] else line + target.say("\nno evidence", "\n无支持区域")


def _written(target: Target, data: Json, shown: Shown) -> str:
    """Return the table for people."""
    say = target.say
    head = [
        say("example", "样本"),
        say("true", "真实"),
        say("class", "类别"),
        say("score", "得分"),
        say("largest", "最大值"),
        say("peak", "峰值处"),
    ]
    rows = []
    for image in data["images"]:
        for number, one in enumerate(image["classes"]):
            peak = "–" if one["peak"] is None else "{:g}, {:g}".format(*one["peak"])
            first = [image["name"], image["true"] or ""] if number == 0 else ["", ""]
            rows.append([*first, one["class"], f"{one['score']:.3f}", f"{one['largest']:.3g}", peak])
    state = "" if data["trained"] else say(", untrained", "（未训练）")
    count, height, width = data["maps"]
    keep = [i for i in range(6) if i != 1 or any(row[1] for row in rows)]
    flush = frozenset(at for at, i in enumerate(keep) if i > 2)
    body = table([head[i] for i in keep], [[row[i] for i in keep] for row in rows], right=flush)
    notes = say(
        "map = ReLU(Σ αₖ Aᵏ), αₖ the mean of ∂y/∂Aᵏ over the map, y the class's logit. largest: 0 means no "
        "place speaks for the class.\n"
        "peak: row and column of its middle, in pixels as the network sees the image. In the figure each "
        "map has its own scale.",
        "图 = ReLU(Σ αₖ Aᵏ)，αₖ 是 ∂y/∂Aᵏ 在整张特征图上的均值，y 是该类的 logit。最大值为 0 "
        "表示没有任何位置支持该类。\n"
        "峰值处：峰值中心的行与列，以网络所见图像的像素计。图中各图按自身最大值显示。",
    )
    return "\n".join(
        [
            say(
                f"{data['model']}{state}: {len(data['images'])} images of {where(target, shown)}; "
                f"maps of {data['layer']}, {count} of {height}×{width}",
                f"{data['model']}{state}：{where(target, shown)}的 {len(data['images'])} 张图像；"
                f"取 {data['layer']} 的特征图，{count} 张 {height}×{width}",
            ),
            "",
            body,
            "",
            notes + told(target, shown),
        ]
    )

"""The view ``gradients``: the four steps of backpropagation over one batch, as numbers, arrays and a figure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from layerwise.data.batch import Batch
from layerwise.data.source import SPLITS, fetch
from layerwise.errors import DataError, make_unknown_name_error
from layerwise.inspection.backprop_steps import BackpropSteps, LayerRecord, run_backprop
from layerwise.inspection.base import Json, Target, View, format_table, require_data, save
from layerwise.inspection.predictions import get_device_and_dtype
from layerwise.plotting.charts import plot_by_layer
from layerwise.runtime.checksums import copy_contiguous

EXAMPLES = 64
QUANTITIES = ("z", "a", "delta", "dW", "db")
SYMBOLS = {"z": "z", "a": "a", "delta": "δ", "dW": "∂W", "db": "∂b"}


def view(target: Target, *, out: Path | None) -> View:
    """Return each layer's z, a, δ = ∂L/∂z, ∂L/∂W and ∂L/∂b, for the mean loss L of the first validation examples.

    The network is in evaluation mode, so the numbers are reproducible. Writes ``gradients.svg``, and
    ``gradients.safetensors`` with all arrays (``LAYER.z`` …, W, b, inputs and targets).
    """
    model, task, splits = require_data(target, "gradients")
    split = target.split or "val"
    if split not in SPLITS:
        raise make_unknown_name_error("split", split, SPLITS)
    source = task.convert_source(splits.part(split))
    count = min(len(source), target.examples or EXAMPLES)
    if not count:
        raise DataError(f"the {split} part has no examples", expected="at least one")
    batch = task.collate(fetch(source, np.arange(count))).to(*get_device_and_dtype(model))
    steps = run_backprop(model, task, batch, lr=get_learning_rate(target))
    data = to_json(steps, split=split, count=count)
    figures = save(out, "gradients.svg", draw_figure(steps))
    figures += save(out, "gradients.safetensors", safetensors.torch.save(collect_arrays(steps, batch)))
    return View("gradients", data, _format_text(target, data), figures)


def get_learning_rate(target: Target) -> float:
    """Return the learning rate of the run's last stage, or 0.01 if its rule has none."""
    rule = target.recipe.stages[-1].rule if target.recipe is not None and target.recipe.stages else {}
    return float(rule.get("lr", 0.01))


def get_quantities(layer: LayerRecord) -> dict[str, Tensor | None]:
    """Return a layer's five quantities by name."""
    values = (layer.z, layer.a, layer.delta, layer.grad_weight, layer.grad_bias)
    return dict(zip(QUANTITIES, values, strict=True))


def describe_array(tensor: Tensor | None) -> Json | None:
    """Return an array's shape, Euclidean norm, mean, minimum, maximum and fraction of zeros; None for None."""
    if tensor is None:
        return None
    t = tensor.double()
    return {
        "shape": list(t.shape),
        "norm": to_json_number(t.norm()),
        "mean": to_json_number(t.mean()),
        "min": to_json_number(t.min()),
        "max": to_json_number(t.max()),
        "zeros": float((t == 0).double().mean()),
    }


def to_json_number(value: Tensor) -> float | str:
    """Return a number for JSON: NaN and infinity become strings."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def to_json(steps: BackpropSteps, *, split: str, count: int) -> Json:
    """Return the four steps as JSON."""
    layers = []
    for layer in steps.layers:
        weight, step = float(layer.weight.double().norm()), steps.lr * float(layer.grad_weight.double().norm())
        layers.append(
            {
                "name": layer.name,
                "type": layer.type,
                "activation": layer.activation,
                **{name: describe_array(value) for name, value in get_quantities(layer).items()},
                "update": {"norm": step, "weight_norm": weight, "relative": step / weight if weight else None},
            }
        )
    after = steps.loss_after if math.isfinite(steps.loss_after) else str(steps.loss_after)
    return {
        "split": split,
        "examples": count,
        "by": steps.method,
        "loss": steps.loss,
        "layers": layers,
        "update": {"rule": "θ ← θ − η ∇L", "lr": steps.lr, "loss_before": steps.loss, "loss_after": after},
    }


def draw_figure(steps: BackpropSteps) -> str:
    """Draw the root mean square of each quantity by layer, which shows vanishing and exploding gradients."""
    series = {}
    for name in QUANTITIES:
        values = [get_quantities(layer)[name] for layer in steps.layers]
        series[SYMBOLS[name]] = [0.0 if v is None else float(v.double().square().mean().sqrt()) for v in values]
    return plot_by_layer(series, [layer.name for layer in steps.layers], y="root mean square")


def collect_arrays(steps: BackpropSteps, batch: Batch) -> dict[str, Tensor]:
    """Return all arrays by name, contiguous for safetensors."""
    out = {"inputs": batch.input_tensor} | ({} if batch.targets is None else {"targets": batch.target_tensor})
    for layer in steps.layers:
        arrays = {**get_quantities(layer), "W": layer.weight, "b": layer.bias}
        arrays |= {f"d_{name}": gradient for name, (_, gradient) in layer.extra_parameters.items()}
        out |= {f"{layer.name}.{name}": value for name, value in arrays.items() if value is not None}
    return copy_contiguous(out)


def _format_text(target: Target, data: Json) -> str:
    """Return the four steps as text."""
    translate, layers, update = target.translate, data["layers"], data["update"]
    loss, after, header = data["loss"], float(update["loss_after"]), translate("layer", "层")
    forward_rows, backward_rows = list[list[str]](), list[list[str]]()
    for layer in layers:
        forward_rows.append([layer["name"], layer["type"], layer["activation"]])
        forward_rows[-1] += [_format_norm(layer[q]) for q in ("z", "a")]
        backward_rows.insert(0, [layer["name"], *(_format_norm(layer[q]) for q in ("delta", "dW", "db"))])
    return "\n".join(
        [
            translate(
                f"one batch: the first {data['examples']} examples of the {data['split']} part; norms "
                "(fraction of zeros)",
                f"一个批次：{data['split']} 部分的前 {data['examples']} 个样本；表中为范数（括号内为零的比例）",
            ),
            "",
            translate("1 forward: z = Wa + b, a = f(z)", "1 前向：z = Wa + b，a = f(z)"),
            format_table(
                [header, translate("type", "类型"), "f", "z", "a"],
                forward_rows,
                right=frozenset({3, 4}),
            ),
            "",
            translate(f"2 loss: L = {loss:.6g} (mean over the batch)", f"2 损失：L = {loss:.6g}（批次平均）"),
            "",
            translate(f"3 backward, last layer first: {data['by']}", f"3 反向，从最后一层开始：{data['by']}"),
            format_table(
                [header, "δ = ∂L/∂z", "∂L/∂W", "∂L/∂b"],
                backward_rows,
                right=frozenset({1, 2, 3}),
            ),
            "",
            translate(
                f"4 update: θ ← θ − {update['lr']:g} ∇L takes the loss of this batch from {loss:.6g} to {after:.6g}",
                f"4 更新：θ ← θ − {update['lr']:g} ∇L 使这个批次的损失从 {loss:.6g} 变为 {after:.6g}",
            ),
            format_table(
                [header, "‖η ∂W‖", "‖W‖", translate("relative", "相对值")],
                [
                    [
                        layer["name"],
                        f"{layer['update']['norm']:.3g}",
                        f"{layer['update']['weight_norm']:.3g}",
                        "–" if layer["update"]["relative"] is None else f"{layer['update']['relative']:.2e}",
                    ]
                    for layer in layers
                ],
                right=frozenset({1, 2, 3}),
            ),
        ]
    )


def _format_norm(value: Json | None) -> str:
    """Return a norm, with the fraction of zeros if there are any, as text."""
    if value is None:
        return "–"
    zeros = f" ({value['zeros']:.0%} 0)" if value["zeros"] else ""
    return f"{float(value['norm']):.4g}{zeros}"

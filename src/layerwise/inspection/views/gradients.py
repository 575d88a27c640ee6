"""The view ``gradients``: the four steps of backpropagation over one batch of a run, in numbers, arrays and a figure
(S06)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from layerwise.data.loader import Batch
from layerwise.data.source import SPLITS, fetch
from layerwise.errors import DataError, unknown
from layerwise.inspection.base import Json, Target, View, save, table, trained
from layerwise.inspection.predictions import place_of
from layerwise.inspection.procedure import Layer, Procedure, run
from layerwise.plotting.charts import by_layer
from layerwise.runtime.checksums import contiguous

EXAMPLES = 64
QUANTITIES = ("z", "a", "delta", "dW", "db")
SYMBOLS = {"z": "z", "a": "a", "delta": "δ", "dW": "∂W", "db": "∂b"}


def view(target: Target, *, out: Path | None) -> View:
    """Return each layer's z, a, δ = ∂L/∂z, ∂L/∂W and ∂L/∂b over the first examples of the validation part, L the mean
    loss.

    Dropout is off and batch norm uses its running statistics, so that the numbers repeat. Writes ``gradients.svg`` and
    ``gradients.safetensors`` with all arrays (``LAYER.z`` …, with W, b, inputs and targets).
    """
    model, task, splits = trained(target, "gradients")
    split = target.split or "val"
    if split not in SPLITS:
        raise unknown("part of the data", split, SPLITS)
    source = task.adopt(splits.part(split))
    count = min(len(source), target.examples or EXAMPLES)
    if not count:
        raise DataError(f"the {split} part has no examples", expected="at least one")
    batch = task.collate(fetch(source, np.arange(count))).to(*place_of(model))
    found = run(model, task, batch, lr=rate_of(target))
    data = as_json(found, split=split, count=count)
    figures = save(out, "gradients.svg", figure(found))
    figures += save(out, "gradients.safetensors", safetensors.torch.save(arrays(found, batch)))
    return View("gradients", data, _written(target, data), figures)


def rate_of(target: Target) -> float:
    """Return the learning rate of the run's last stage; 0.01 where its rule has none."""
    rule = target.recipe.stages[-1].rule if target.recipe is not None and target.recipe.stages else {}
    return float(rule.get("lr", 0.01))


def quantities(layer: Layer) -> dict[str, Tensor | None]:
    """Return a layer's five quantities by name."""
    values = (layer.z, layer.a, layer.delta, layer.grad_weight, layer.grad_bias)
    return dict(zip(QUANTITIES, values, strict=True))


def measured(tensor: Tensor | None) -> Json | None:
    """Return what is told of an array: shape, Euclidean norm, mean, smallest, largest, the fraction of exact zeros."""
    if tensor is None:
        return None
    t = tensor.double()
    return {
        "shape": list(t.shape),
        "norm": finite(t.norm()),
        "mean": finite(t.mean()),
        "min": finite(t.min()),
        "max": finite(t.max()),
        "zeros": float((t == 0).double().mean()),
    }


def finite(value: Tensor) -> float | str:
    """Return a number as JSON holds it: NaN and infinity become text."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def as_json(found: Procedure, *, split: str, count: int) -> Json:
    """Return the four steps as JSON."""
    layers = []
    for layer in found.layers:
        weight, step = float(layer.weight.double().norm()), found.lr * float(layer.grad_weight.double().norm())
        layers.append(
            {
                "name": layer.name,
                "type": layer.type,
                "activation": layer.activation,
                **{name: measured(value) for name, value in quantities(layer).items()},
                "update": {"norm": step, "weight_norm": weight, "relative": step / weight if weight else None},
            }
        )
    after = found.loss_after if math.isfinite(found.loss_after) else str(found.loss_after)
    return {
        "split": split,
        "examples": count,
        "by": found.by,
        "loss": found.loss,
        "layers": layers,
        "update": {"rule": "θ ← θ − η ∇L", "lr": found.lr, "loss_before": found.loss, "loss_after": after},
    }


def figure(found: Procedure) -> str:
    """Draw the root mean square of each quantity by layer: where gradients vanish or explode shows at once."""
    series = {}
    for name in QUANTITIES:
        values = [quantities(layer)[name] for layer in found.layers]
        series[SYMBOLS[name]] = [0.0 if v is None else float(v.double().square().mean().sqrt()) for v in values]
    return by_layer(series, [layer.name for layer in found.layers], y="root mean square")


def arrays(found: Procedure, batch: Batch) -> dict[str, Tensor]:
    """Return all arrays by name, as safetensors wants them."""
    out = {"inputs": batch.inputs} | ({} if batch.targets is None else {"targets": batch.targets})
    for layer in found.layers:
        named = {**quantities(layer), "W": layer.weight, "b": layer.bias}
        named |= {f"d_{name}": gradient for name, (_, gradient) in layer.more.items()}
        out |= {f"{layer.name}.{name}": value for name, value in named.items() if value is not None}
    return contiguous(out)


def _written(target: Target, data: Json) -> str:
    """Return the four steps for people."""
    say, update = target.say, data["update"]
    loss, after, layer = data["loss"], float(update["loss_after"]), say("layer", "层")
    return "\n".join(
        [
            say(
                f"one batch: the first {data['examples']} examples of the {data['split']} part; norms "
                "(fraction of zeros)",
                f"一个批次：{data['split']} 部分的前 {data['examples']} 个样本；表中为范数（括号内为零的比例）",
            ),
            "",
            say("1 forward: z = Wa + b, a = f(z)", "1 前向：z = Wa + b，a = f(z)"),
            table(
                [layer, say("type", "类型"), "f", "z", "a"],
                [[la["name"], la["type"], la["activation"], _norm(la["z"]), _norm(la["a"])] for la in data["layers"]],
                right=frozenset({3, 4}),
            ),
            "",
            say(f"2 loss: L = {loss:.6g} (mean over the batch)", f"2 损失：L = {loss:.6g}（批次平均）"),
            "",
            say(f"3 backward, last layer first: {data['by']}", f"3 反向，从最后一层开始：{data['by']}"),
            table(
                [layer, "δ = ∂L/∂z", "∂L/∂W", "∂L/∂b"],
                [[la["name"], *(_norm(la[q]) for q in ("delta", "dW", "db"))] for la in reversed(data["layers"])],
                right=frozenset({1, 2, 3}),
            ),
            "",
            say(
                f"4 update: θ ← θ − {update['lr']:g} ∇L takes the loss of this batch from {loss:.6g} to {after:.6g}",
                f"4 更新：θ ← θ − {update['lr']:g} ∇L 使这个批次的损失从 {loss:.6g} 变为 {after:.6g}",
            ),
            table(
                [layer, "‖η ∂W‖", "‖W‖", say("relative", "相对值")],
                [
                    [
                        la["name"],
                        f"{la['update']['norm']:.3g}",
                        f"{la['update']['weight_norm']:.3g}",
                        "–" if la["update"]["relative"] is None else f"{la['update']['relative']:.2e}",
                    ]
                    for la in data["layers"]
                ],
                right=frozenset({1, 2, 3}),
            ),
        ]
    )


def _norm(value: Json | None) -> str:
    """Return a norm with the fraction of zeros, if there are any."""
    if value is None:
        return "–"
    zeros = f" ({value['zeros']:.0%} 0)" if value["zeros"] else ""
    return f"{float(value['norm']):.4g}{zeros}"

"""The view ``summary``: a network's layers in the order of their calls, with output shapes, parameters and work.

A bare model is built on the meta device, so the largest network costs nothing.
"""

from __future__ import annotations

import inspect as signatures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerwise import registry
from layerwise.inference.predict import evaluating
from layerwise.inspection.base import Json, Target, View, table
from layerwise.inspection.predictions import place_of
from layerwise.models.orientation import SimpleCells
from layerwise.nn.rbm import RBM, Recognition
from layerwise.nn.word_vectors import WordVectors

HEADER = (("layer", "层"), ("type", "类型"), ("output", "输出"), ("parameters", "参数"), ("multiply-adds", "乘加"))
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Row:
    """One layer: its own parameters, the shape it gave first, multiply-adds for one example."""

    name: str
    type: str
    parameters: int
    trainable: int
    output: tuple[int, ...] | None = None
    work: int = 0

    def to_json(self) -> Json:
        """Return the row; ``output`` is None for a layer that was not called as a whole."""
        return {
            "name": self.name,
            "type": self.type,
            "output": None if self.output is None else list(self.output),
            "parameters": self.parameters,
            "trainable": self.trainable,
            "multiply_adds": self.work,
        }


def view(target: Target, *, out: Path | None) -> View:
    """Return the table of layers and its totals. Writes no files."""
    del out
    arguments = dict(target.arguments)
    if target.model is None:
        arguments = arguments or dict(target.spec.size)
        with torch.device("meta"):
            model: nn.Module = registry.builder(target.spec)(**arguments)
    else:
        model = target.model
    if target.run is not None:
        arguments = dict(target.run.info()["model"]["arguments"])
    shape = input_shape(target, arguments)
    rows = layers(model, shape)
    data = {
        "model": target.spec.name,
        "arguments": arguments,
        "input": list(shape),
        "layers": [row.to_json() for row in rows],
        "totals": totals(model, rows),
    }
    return View("summary", data, written(target, data))


def input_shape(target: Target, arguments: Json) -> tuple[int, ...]:
    """Return the shape of one input: as the run's task makes it, else as the builder's signature says."""
    known: Json = {}
    for name, parameter in signatures.signature(registry.builder(target.spec)).parameters.items():
        if parameter.default is not signatures.Parameter.empty:
            known[name] = parameter.default
    known |= arguments
    if target.task is not None:
        known |= target.task.inputs.model_args()
    if "size" in known and "channels" in known:
        return (int(known["channels"]), *(int(side) for side in known["size"]))
    if "words" in known:  # one word, by its number
        return ()
    return (int(known["features"] if "features" in known else known["inputs"]),)


def layers(model: nn.Module, shape: tuple[int, ...]) -> list[Row]:
    """Run one zero input of ``shape`` through the model and return its layers in the order of their calls.

    A layer is a module without children, or one that holds parameters itself.
    """
    rows: dict[str, Row] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own or not list(module.children()):
            count, free = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
            rows[name] = Row(name or "(the model)", type(module).__name__, count, free)
    order: list[str] = []

    def called(name: str, module: nn.Module, output: object) -> None:
        if name not in order and isinstance(output, Tensor):
            order.append(name)
            rows[name].output = tuple(output.shape)
            rows[name].work = work(module, output)

    handles = [
        module.register_forward_hook(lambda m, _i, output, name=name: called(name, m, output))
        for name, module in model.named_modules()
        if name in rows
    ]
    device, dtype = place_of(model)
    kind = torch.long if isinstance(model, WordVectors) else dtype
    try:
        with evaluating(model, device):
            model(torch.zeros(1, *shape, device=device, dtype=kind))
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name in rows if name not in order]
    return [rows[name] for name in ([*silent, *order] if _first(silent, rows) else [*order, *silent])]


def _first(silent: list[str], rows: dict[str, Row]) -> bool:
    """Whether the layers that were not called as wholes come before all others in the model."""
    return bool(silent) and next(iter(rows)) == silent[0]


def work(module: nn.Module, output: Tensor) -> int:
    """Return a layer's multiply-adds for one example: each weight once per place of the output; 0 for layers without
    products."""
    if isinstance(module, CONVOLUTIONS):
        return module.weight.numel() * int(output[0, 0].numel())
    if isinstance(module, nn.Linear):
        return module.weight.numel() * int(output[0].numel() // module.out_features)
    if isinstance(module, SimpleCells):
        return module.filters.numel() * int(output[0, 0].numel())
    if isinstance(module, Recognition):
        return module.weight.numel()
    if isinstance(module, RBM):  # up and down again
        return 2 * module.weight.numel()
    return 0


def totals(model: nn.Module, rows: list[Row]) -> Json:
    """Return the sums; a tensor shared by several layers counts once."""
    parameters = list(model.parameters())
    return {
        "layers": len(rows),
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "bytes": sum(t.numel() * t.element_size() for t in [*parameters, *model.buffers()]),
        "multiply_adds": sum(row.work for row in rows),
    }


def written(target: Target, data: dict[str, Any]) -> str:
    """Return the view as a plain table."""
    rows = []
    for row in data["layers"]:
        shape = "" if row["output"] is None else "×".join(["N", *map(str, row["output"][1:])])
        rows.append([row["name"], row["type"], shape, f"{row['parameters']:,}", f"{row['multiply_adds']:,}"])
    head = [target.say(*pair) for pair in HEADER]
    total = data["totals"]
    shape = "×".join(["N", *map(str, data["input"])])
    return "\n".join(
        [
            f"{data['model']}  {target.say('input', '输入')} {shape}",
            "",
            table(head, rows, right=frozenset({3, 4})),
            "",
            target.say(
                f"{total['parameters']:,} parameters ({total['trainable']:,} trainable), "
                f"{total['bytes'] / 2**20:.2f} MiB, "
                f"{total['multiply_adds']:,} multiply-adds per example",
                f"参数 {total['parameters']:,} 个（可训练 {total['trainable']:,} 个），"
                f"{total['bytes'] / 2**20:.2f} MiB，"
                f"每个样本 {total['multiply_adds']:,} 次乘加",
            ),
        ]
    )

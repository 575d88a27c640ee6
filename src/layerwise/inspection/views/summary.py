"""The view ``summary``: a network's layers in the order of calls, with output shapes, parameters and multiply-adds.

A model without a run is built on the meta device, which allocates no memory for weights.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerwise import registry
from layerwise.inference.predict import inference_context
from layerwise.inspection.base import Json, Target, View, format_table, get_model_arguments
from layerwise.inspection.predictions import get_device_and_dtype
from layerwise.models.orientation import SimpleCells
from layerwise.nn.rbm import RBM, RecognitionDelta
from layerwise.nn.tracing import ModuleCall, trace_modules
from layerwise.nn.word_vectors import WordVectors

HEADER = (("layer", "层"), ("type", "类型"), ("output", "输出"), ("parameters", "参数"), ("multiply-adds", "乘加"))
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class LayerSummary:
    """One layer: its own parameters, the output shape of its first call, and multiply-adds for one example."""

    name: str
    type: str
    parameters: int
    trainable: int
    output: tuple[int, ...] | None = None
    multiply_adds: int = 0

    def to_json(self) -> Json:
        """Return the row as JSON; ``output`` is None if the module's own forward was not called."""
        return {
            "name": self.name,
            "type": self.type,
            "output": None if self.output is None else list(self.output),
            "parameters": self.parameters,
            "trainable": self.trainable,
            "multiply_adds": self.multiply_adds,
        }


def view(target: Target, *, out: Path | None) -> View:
    """Return the table of layers and the totals. Writes no files."""
    del out
    arguments = dict(target.arguments)
    if target.model is None:
        arguments = get_model_arguments(target)
        with torch.device("meta"):
            model: nn.Module = registry.get_builder(target.spec)(**arguments)
    else:
        model = target.model
    if target.run is not None:
        arguments = dict(target.run.info()["model"]["arguments"])
    shape = get_input_shape(target, arguments)
    rows = summarize_layers(model, shape)
    data = {
        "model": target.spec.name,
        "arguments": arguments,
        "input": list(shape),
        "layers": [row.to_json() for row in rows],
        "totals": compute_totals(model, rows),
    }
    return View("summary", data, format_text(target, data))


def get_input_shape(target: Target, arguments: Json) -> tuple[int, ...]:
    """Return the shape of one input, from the run's task or else from the arguments and defaults of the builder."""
    known: Json = {}
    for name, parameter in inspect.signature(registry.get_builder(target.spec)).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            known[name] = parameter.default
    known |= arguments
    if target.task is not None:
        known |= target.task.inputs.model_args()
    if "size" in known and "channels" in known:
        return (int(known["channels"]), *(int(side) for side in known["size"]))
    if "words" in known:  # one word, as an index
        return ()
    return (int(known["features"] if "features" in known else known["inputs"]),)


def summarize_layers(model: nn.Module, shape: tuple[int, ...]) -> list[LayerSummary]:
    """Run one zero input of ``shape`` through the model and return its layers in the order of calls.

    A layer is a module without children, or one with parameters of its own.
    """
    rows: dict[str, LayerSummary] = {}
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own or not list(module.children()):
            count, trainable = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
            rows[name] = LayerSummary(name or "(the model)", type(module).__name__, count, trainable)
    order: list[str] = []

    def record_call(traced: ModuleCall) -> None:
        if traced.name in rows and traced.name not in order and traced.outputs:
            order.append(traced.name)
            rows[traced.name].output = tuple(traced.outputs[0].shape)
            rows[traced.name].multiply_adds = count_multiply_adds(traced.module, traced.outputs[0])

    device, dtype = get_device_and_dtype(model)
    input_dtype = torch.long if isinstance(model, WordVectors) else dtype
    with inference_context(model, device), trace_modules(model, record_call, select=lambda _: True):
        model(torch.zeros(1, *shape, device=device, dtype=input_dtype))
    uncalled = [name for name in rows if name not in order]
    return [rows[name] for name in ([*uncalled, *order] if _comes_first(uncalled, rows) else [*order, *uncalled])]


def _comes_first(uncalled: list[str], rows: dict[str, LayerSummary]) -> bool:
    """Return whether the uncalled layers come before all others in the model."""
    return bool(uncalled) and next(iter(rows)) == uncalled[0]


def count_multiply_adds(module: nn.Module, output: Tensor) -> int:
    """Return a layer's multiply-adds for one example: one for each weight and output position.

    Returns 0 for layers without matrix products.
    """
    if isinstance(module, CONVOLUTIONS):
        return module.weight.numel() * int(output[0, 0].numel())
    if isinstance(module, nn.Linear):
        return module.weight.numel() * int(output[0].numel() // module.out_features)
    if isinstance(module, SimpleCells):
        return module.filters.numel() * int(output[0, 0].numel())
    if isinstance(module, RecognitionDelta):
        return module.weight.numel()
    if isinstance(module, RBM):  # up and down again
        return 2 * module.weight.numel()
    return 0


def compute_totals(model: nn.Module, rows: list[LayerSummary]) -> Json:
    """Return the totals; a tensor that several layers share counts once."""
    parameters = list(model.parameters())
    return {
        "layers": len(rows),
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "bytes": sum(t.numel() * t.element_size() for t in [*parameters, *model.buffers()]),
        "multiply_adds": sum(row.multiply_adds for row in rows),
    }


def format_text(target: Target, data: dict[str, Any]) -> str:
    """Return the table as text."""
    rows = []
    for row in data["layers"]:
        shape = "" if row["output"] is None else "×".join(["N", *map(str, row["output"][1:])])
        rows.append([row["name"], row["type"], shape, f"{row['parameters']:,}", f"{row['multiply_adds']:,}"])
    head = [target.translate(*pair) for pair in HEADER]
    total = data["totals"]
    shape = "×".join(["N", *map(str, data["input"])])
    return "\n".join(
        [
            f"{data['model']}  {target.translate('input', '输入')} {shape}",
            "",
            format_table(head, rows, right=frozenset({3, 4})),
            "",
            target.translate(
                f"{total['parameters']:,} parameters ({total['trainable']:,} trainable), "
                f"{total['bytes'] / 2**20:.2f} MiB, "
                f"{total['multiply_adds']:,} multiply-adds per example",
                f"参数 {total['parameters']:,} 个（可训练 {total['trainable']:,} 个），"
                f"{total['bytes'] / 2**20:.2f} MiB，"
                f"每个样本 {total['multiply_adds']:,} 次乘加",
            ),
        ]
    )

"""The view ``truth-table``: the output of a McCulloch–Pitts neuron or net for every combination of inputs (E01)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.inspection.base import Json, Target, View, format_table
from layerwise.models.mcculloch_pitts import MCPNet, MCPNeuron

GATES = {"and": 2, "or": 2, "not": 1, "nand": 2, "nor": 2, "xor": 2}
MAX_INPUTS = 10  # for 1,024 rows


def view(target: Target, *, out: Path | None) -> View:
    """Return the truth table of a run's model, of the gate in ``target.arguments``, or of every gate. Writes no files.

    Raises `UsageError` for a network other than a McCulloch–Pitts neuron, and for more than ten inputs.
    """
    del out
    if target.spec.name != "mcp":
        raise UsageError(
            f"{target.spec.name} has no truth table", expected="the model mcp, with inputs and outputs of 0 or 1"
        )
    if target.model is not None:
        models = {str(target.arguments.get("gate", "mcp")): target.model}
    elif target.arguments:
        models = {str(target.arguments.get("gate", "and")): _build_model(target, target.arguments)}
    else:
        models = {gate: _build_model(target, {"gate": gate, "inputs": inputs}) for gate, inputs in GATES.items()}
    gates = [
        {"gate": gate, "neurons": describe_neurons(model), "table": compute_truth_table(model)}
        for gate, model in models.items()
    ]
    return View("truth-table", {"gates": gates}, "\n\n".join(_format_text(target, gate) for gate in gates))


def _build_model(target: Target, arguments: Json) -> nn.Module:
    """Build a model of the registry."""
    model: nn.Module = registry.get_builder(target.spec)(**arguments)
    return model


def get_layers(model: nn.Module) -> list[list[MCPNeuron]]:
    """Return a net's neurons by layer. Raises `UsageError` for another type of model."""
    if isinstance(model, MCPNeuron):
        return [[model]]
    if isinstance(model, MCPNet):
        return [[neuron for neuron in model.first if isinstance(neuron, MCPNeuron)], [model.second]]
    raise UsageError("this is no McCulloch–Pitts neuron", expected="the model mcp", received=type(model).__name__)


def describe_neurons(model: nn.Module) -> list[Json]:
    """Return the layer, weights and threshold of each neuron."""
    return [
        {"layer": index, "weights": neuron.weights.tolist(), "threshold": float(neuron.threshold)}
        for index, layer in enumerate(get_layers(model), start=1)
        for neuron in layer
    ]


@torch.no_grad()
def compute_truth_table(model: nn.Module) -> list[Json]:
    """Return each combination of inputs with its output, in counting order."""
    width = get_layers(model)[0][0].weights.numel()
    if width > MAX_INPUTS:
        raise UsageError(
            f"a truth table of {width} inputs has {2**width:,} lines", expected=f"at most {MAX_INPUTS} inputs"
        )
    rows = list(itertools.product((0, 1), repeat=width))
    outputs = model(torch.tensor(rows, dtype=torch.float32))[:, 0].tolist()
    return [{"inputs": list(row), "output": int(output)} for row, output in zip(rows, outputs, strict=True)]


def _format_text(target: Target, gate: dict[str, Any]) -> str:
    """Return a gate's formulas and truth table as text."""
    lines = [f"{gate['gate'].upper()}"]
    for neuron in gate["neurons"]:
        name = "x" if neuron["layer"] == 1 else "h"
        terms = " ".join(f"{w:+g}·{name}{i}" for i, w in enumerate(neuron["weights"], start=1))
        index, threshold = neuron["layer"], neuron["threshold"]
        lines.append(
            target.translate(
                f"  layer {index}: 1 if {terms} ≥ {threshold:g} else 0",
                f"  第 {index} 层：若 {terms} ≥ {threshold:g} 则为 1，否则为 0",
            )
        )
    width = len(gate["table"][0]["inputs"])
    rows = [[*map(str, row["inputs"]), str(row["output"])] for row in gate["table"]]
    return "\n".join([*lines, format_table([*(f"x{i + 1}" for i in range(width)), "y"], rows)])

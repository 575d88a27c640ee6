"""The view ``truth-table``: what a McCulloch–Pitts neuron or net answers to every combination of its inputs (S01,
E01)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerwise import registry
from layerwise.errors import UsageError
from layerwise.inspection.base import Json, Target, View, table
from layerwise.models.mcculloch_pitts import MCPNet, MCPNeuron

GATES = {"and": 2, "or": 2, "not": 1, "nand": 2, "nor": 2, "xor": 2}
MOST = 10  # inputs: a table of 1,024 lines


def view(target: Target, *, out: Path | None) -> View:
    """Return the table of the model, of the gate that ``target.arguments`` describe, or of every gate for the bare
    model.

    Raises `UsageError` for a network that is no McCulloch–Pitts neuron, and for more than ten inputs.
    """
    del out
    if target.spec.name != "mcp":
        raise UsageError(
            "a truth table needs inputs and outputs of 0 and 1", expected="the model mcp", received=target.spec.name
        )
    if target.model is not None:
        shown = {str(target.arguments.get("gate", "mcp")): target.model}
    elif target.arguments:
        shown = {str(target.arguments.get("gate", "and")): _built(target, target.arguments)}
    else:
        shown = {gate: _built(target, {"gate": gate, "inputs": inputs}) for gate, inputs in GATES.items()}
    gates = [{"gate": gate, "neurons": neurons(model), "table": truth(model)} for gate, model in shown.items()]
    return View("truth-table", {"gates": gates}, "\n\n".join(_written(target, gate) for gate in gates))


def _built(target: Target, arguments: Json) -> nn.Module:
    """Build the model's model."""
    model: nn.Module = registry.builder(target.spec)(**arguments)
    return model


def layers(model: nn.Module) -> list[list[MCPNeuron]]:
    """Return a net's neurons, layer by layer. Raises `UsageError` for another kind of model."""
    if isinstance(model, MCPNeuron):
        return [[model]]
    if isinstance(model, MCPNet):
        return [[neuron for neuron in model.first if isinstance(neuron, MCPNeuron)], [model.second]]
    raise UsageError("this is no McCulloch–Pitts neuron", expected="the model mcp", received=type(model).__name__)


def neurons(model: nn.Module) -> list[Json]:
    """Return every neuron's layer, weights and threshold."""
    return [
        {"layer": number, "weights": neuron.weights.tolist(), "threshold": float(neuron.threshold)}
        for number, layer in enumerate(layers(model), start=1)
        for neuron in layer
    ]


@torch.no_grad()
def truth(model: nn.Module) -> list[Json]:
    """Return each combination of inputs, in counting order, with the output."""
    width = layers(model)[0][0].weights.numel()
    if width > MOST:
        raise UsageError(f"a truth table of {width} inputs has {2**width:,} lines", expected=f"at most {MOST} inputs")
    rows = list(itertools.product((0, 1), repeat=width))
    outputs = model(torch.tensor(rows, dtype=torch.float32))[:, 0].tolist()
    return [{"inputs": list(row), "output": int(out)} for row, out in zip(rows, outputs, strict=True)]


def _written(target: Target, gate: dict[str, Any]) -> str:
    """Return a gate as its formula and table."""
    lines = [f"{gate['gate'].upper()}"]
    for neuron in gate["neurons"]:
        name = "x" if neuron["layer"] == 1 else "h"
        terms = " ".join(f"{w:+g}·{name}{i}" for i, w in enumerate(neuron["weights"], start=1))
        number, threshold = neuron["layer"], neuron["threshold"]
        lines.append(
            target.say(
                f"  layer {number}: 1 if {terms} ≥ {threshold:g} else 0",
                f"  第 {number} 层：若 {terms} ≥ {threshold:g} 则为 1，否则为 0",
            )
        )
    width = len(gate["table"][0]["inputs"])
    rows = [[*map(str, row["inputs"]), str(row["output"])] for row in gate["table"]]
    return "\n".join([*lines, table([*(f"x{i + 1}" for i in range(width)), "y"], rows)])

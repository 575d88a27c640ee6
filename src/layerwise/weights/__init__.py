"""Other people's weights: read from files (reading.py), matched to a network (fitting.py), put into it whole or not at
all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from layerwise import registry
from layerwise.planning.head import head_of
from layerwise.planning.resolve import Plan
from layerwise.tasks import registry as tasks
from layerwise.weights.fitting import Fit, check, fit
from layerwise.weights.reading import Weights, read

__all__ = ["Fit", "Weights", "check", "fit", "load", "planned", "put", "read"]


def load(model: nn.Module, path: Path, *, head: Sequence[str] = ()) -> Fit:
    """Put a file's weights into a model, and return what went where.

    ``head`` are the tensors that may have other rows than the file's, and then keep their own weights. Raises
    `UsageError` listing every other key that differs; nothing is half-loaded (F31).
    """
    found = fit(model, read(path), str(path), head=head)
    put(model, found)
    return found


def put(model: nn.Module, found: Fit) -> None:
    """Put tensors that were found to fit into a model. What a file may lack (the head, counters) stays as it is."""
    model.load_state_dict(found.tensors, strict=False)


def planned(plan: Plan) -> Fit:
    """Read the weights that a plan's recipe names and match them to its network, without building either in memory.

    The head of a run that told other classes apart, or did another task, stays fresh, however many outputs it has.
    """
    path, builder = Path(plan.recipe.weights), registry.builder(plan.spec)
    weights = read(path)
    with torch.device("meta"):
        model: nn.Module = builder(**plan.model_args)
    others = False
    if "task" in weights.assets:
        task = tasks.from_json(weights.assets["task"], path / "task.json")
        others = (task.name, getattr(task, "classes", ())) != (plan.task.name, getattr(plan.task, "classes", ()))
    return fit(model, weights, str(path), head=head_of(builder, plan.model_args), new_head=others)

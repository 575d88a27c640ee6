"""Loading of pretrained weights into a network: read from files, matched by name, and copied completely or not at
all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from layerwise import registry
from layerwise.planning.resolve import Plan
from layerwise.planning.transfer import find_head
from layerwise.tasks import registry as tasks
from layerwise.weights.matching import WeightMatch, match_weights
from layerwise.weights.weight_files import read_weights


def load_weights(model: nn.Module, path: Path, *, head: Sequence[str] = ()) -> WeightMatch:
    """Load a file's weights into a model, and return the match.

    ``head`` names the tensors that may have another number of rows than the file's; they then keep their own weights.
    Raises `UsageError` listing every other key that differs; the model is then unchanged.
    """
    match = match_weights(model, read_weights(path), str(path), head=head)
    apply_weights(model, match)
    return match


def apply_weights(model: nn.Module, match: WeightMatch) -> None:
    """Copy matched tensors into a model. Tensors that a file may lack (the head, counters) stay as they are."""
    model.load_state_dict(match.tensors, strict=False)


def match_plan_weights(plan: Plan) -> WeightMatch:
    """Read the weights named in a plan's recipe and match them to its network on the meta device.

    The head stays fresh if the weights are of a run with other classes or another task, even if its shape fits.
    """
    path, builder = Path(plan.recipe.weights), registry.get_builder(plan.spec)
    weights = read_weights(path)
    with torch.device("meta"):
        model: nn.Module = builder(**plan.model_args)
    other_classes = False
    if "task" in weights.assets:
        task = tasks.load_task(weights.assets["task"], path / "task.json")
        other_classes = (task.name, getattr(task, "classes", ())) != (plan.task.name, getattr(plan.task, "classes", ()))
    return match_weights(model, weights, str(path), head=find_head(builder, plan.model_args), new_head=other_classes)

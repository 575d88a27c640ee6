"""Memory that runs out (F20): the error that names the setting, and pieces of a batch that keep their size on
resume."""

from __future__ import annotations

import dataclasses

import msgspec
import torch

from layerwise.errors import TrainingError
from layerwise.planning.resolve import Plan
from layerwise.recipe import Recipe, Stage


def out_of_memory(made: Plan, device: torch.device) -> TrainingError:
    """Return the error whose advice names the settings: a smaller --batch and, where a rule has it, accumulation."""
    stages = made.recipe.stages
    pieces = [s.rule["accumulate"] for s in stages if "accumulate" in s.rule]
    advice = "use a smaller --batch"
    if pieces:
        key = "rule.accumulate" if len(stages) == 1 else f"stages.{stages[-1].name}.rule.accumulate"
        advice += f", or --set {key}={4 * max(pieces)} for the same result in smaller pieces"
    return TrainingError(
        f"{device} has no memory left for batches of {', '.join(str(s.batch) for s in stages)}",
        expected="memory for one batch's activations and gradients beside the weights",
        do=f"{advice}; with --resume --allow-changes the run goes on from its last checkpoint",
    )


def rescaled(made: Plan, before: Recipe) -> tuple[Plan, list[str]]:
    """Return the plan of a resume whose pieces of a batch are no larger than the run's were, and what was changed.

    ``batch`` is the global batch, ``accumulate`` the pieces it is cut into. A stage resumed with another batch B′ and
    the same number of pieces k gets k′ = ⌈B′ / ⌈B / k⌉⌉; one that never accumulated, or was given another k, is left
    alone.
    """
    stages, told = list(made.recipe.stages), []
    for i, (new, old) in enumerate(zip(stages, before.stages, strict=False)):
        k = old.rule.get("accumulate", 1)
        if new.name != old.name or new.batch == old.batch or k == 1 or new.rule.get("accumulate") != k:
            continue
        pieces = -(-new.batch // -(-old.batch // k))
        if pieces == k:
            continue
        stages[i] = _cut(new, pieces)
        told.append(
            f"batch {old.batch} → {new.batch}: rule.accumulate of stage '{new.name}' is rescaled, {k} → {pieces}"
        )
    recipe = msgspec.structs.replace(made.recipe, stages=tuple(stages))
    return dataclasses.replace(made, recipe=recipe), told


def _cut(stage: Stage, pieces: int) -> Stage:
    """Return a stage whose batches are cut into so many pieces."""
    return msgspec.structs.replace(stage, rule={**stage.rule, "accumulate": pieces})

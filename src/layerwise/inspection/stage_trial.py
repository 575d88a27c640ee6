"""Short trainings inside a view: pick the stage, build its network and rule, feed it batches. Writes no files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from layerwise.data.batch import Batch
from layerwise.data.loader import Batches
from layerwise.errors import UsageError
from layerwise.inspection.base import Target, make_missing_run_error
from layerwise.inspection.load_target import build_initial_model
from layerwise.nn.modes import train_mode
from layerwise.planning.build import build_rule, get_part
from layerwise.planning.resolve import Plan
from layerwise.recipe import Stage
from layerwise.rules.base import Rule
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task


class StageTrial(NamedTuple):
    """A stage of a plan to train inside a view: the plan, the index of the stage, and the device."""

    plan: Plan
    stage_index: int
    world: World

    @property
    def stage(self) -> Stage:
        """The stage of the recipe."""
        return self.plan.recipe.stages[self.stage_index]

    @property
    def task(self) -> Task:
        """The stage's task."""
        return self.plan.stage_tasks[self.stage_index]


def create_trial(target: Target, view: str) -> StageTrial:
    """Return a trial of the last stage that learns by backpropagation.

    Raises `UsageError` without a plan, and if no stage uses backpropagation: other rules minimize no loss.
    """
    if target.plan is None:
        raise make_missing_run_error(view, target.spec, untrained=True)
    names = [str(stage.rule["name"]) for stage in target.plan.recipe.stages]
    if "backprop" not in names:
        raise UsageError(
            f"the view '{view}' watches a loss that gradient descent makes smaller",
            expected="a recipe with the rule backprop",
            received=f"{target.spec.name}, which learns by {', '.join(dict.fromkeys(names))}",
        )
    stage_index = max(i for i, name in enumerate(names) if name == "backprop")
    return StageTrial(
        target.plan, stage_index, World(device=compute_settings.pick_device(target.plan.recipe.train.device))
    )


def build_model_and_rule(trial: StageTrial, stage: Stage, task: Task) -> tuple[nn.Module, Rule]:
    """Return the stage's part of a new network, in training mode, and the learning rule over it."""
    model = build_initial_model(trial.plan, trial.world.device)
    part = get_part(model, stage)
    source = trial.plan.get_training_source(stage)
    rule = build_rule(
        trial.plan, trial.stage_index, model, part, stage=stage, task=task, source=source, world=trial.world
    )
    train_mode(part)
    return part, rule


def repeat_epochs(batches: Batches) -> Iterator[Batch]:
    """Yield batches epoch after epoch, without end.

    Skips a last batch of one example, which has no variance for batch norm, unless it is all the data.
    """
    epoch = 0
    while True:
        yield from (batch for batch in batches.iterate(epoch) if len(batch) > 1 or batches.examples == 1)
        epoch += 1


def copy_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of the model's trainable parameters, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def format_stage_note(target: Target, trial: StageTrial) -> str:
    """Return a note that names the stage, for recipes with several stages; else ""."""
    if len(trial.plan.recipe.stages) == 1:
        return ""
    return target.translate(
        f" (stage {trial.stage.name}; those before it were not run)", f"（阶段 {trial.stage.name}；此前的阶段没有运行）"
    )

"""What the views that train a network of their own share: which stage, on which device, from which weights. Nothing is
written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from layerwise.data.loader import Batch, Batches
from layerwise.errors import UsageError
from layerwise.inspection.base import Target, needs_run
from layerwise.inspection.load_target import fresh
from layerwise.nn.modes import learning
from layerwise.planning.build import part_of, rule_of
from layerwise.planning.resolve import Plan
from layerwise.recipe import Stage
from layerwise.rules.base import Rule
from layerwise.runtime import compute_settings
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task


class Bench(NamedTuple):
    """A stage to be tried: the plan, the stage's number, and where to compute."""

    plan: Plan
    number: int
    world: World

    @property
    def stage(self) -> Stage:
        """The stage as the recipe has it."""
        return self.plan.recipe.stages[self.number]

    @property
    def task(self) -> Task:
        """The stage's task."""
        return self.plan.stage_tasks[self.number]


def bench(target: Target, view: str) -> Bench:
    """Return the last stage that learns by backpropagation.

    Raises `UsageError` for a bare model, and where no stage does: other rules have no loss that a rate or a single
    batch could bring to 0.
    """
    if target.plan is None:
        raise needs_run(view, target.spec, untrained=True)
    names = [str(stage.rule["name"]) for stage in target.plan.recipe.stages]
    if "backprop" not in names:
        raise UsageError(
            f"the view '{view}' watches a loss that gradient descent makes smaller",
            expected="a recipe with the rule backprop",
            received=f"{target.spec.name}, which learns by {', '.join(dict.fromkeys(names))}",
        )
    number = max(i for i, name in enumerate(names) if name == "backprop")
    return Bench(target.plan, number, World(device=compute_settings.pick_device(target.plan.recipe.train.device)))


def made(bench: Bench, stage: Stage, task: Task) -> tuple[nn.Module, Rule]:
    """Return a fresh network in training mode, and a stage's rule over it."""
    model = fresh(bench.plan, bench.world.device)
    part = part_of(model, stage)
    source = bench.plan.training(stage)
    rule = rule_of(bench.plan, bench.number, model, part, stage=stage, task=task, source=source, world=bench.world)
    learning(part)
    return part, rule


def endless(batches: Batches) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other; a last batch of one, over which batch norm has no variance, is
    left out."""
    epoch = 0
    while True:
        yield from (batch for batch in batches.epoch(epoch) if len(batch) > 1 or batches.examples == 1)
        epoch += 1


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a model's trainable parameters by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def remark(target: Target, tried: Bench) -> str:
    """Return what has to be said of a recipe with several stages."""
    if len(tried.plan.recipe.stages) == 1:
        return ""
    return target.say(
        f" (stage {tried.stage.name}; those before it were not run)", f"（阶段 {tried.stage.name}；此前的阶段没有运行）"
    )

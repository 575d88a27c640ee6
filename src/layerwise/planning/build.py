"""From a plan to what learns: the network with fresh weights, the part and the rule of a stage, its batches without a
copy in memory."""

from __future__ import annotations

import fnmatch
from typing import cast

import torch
from torch import nn

from layerwise import registry
from layerwise.data.loader import Batches, Order, StreamedBatches
from layerwise.data.source import Source
from layerwise.errors import unknown
from layerwise.nn.rbm import Staged
from layerwise.planning.resolve import Plan
from layerwise.recipe import Stage
from layerwise.rules import registry as rules
from layerwise.rules.base import Context, Rule
from layerwise.runtime import compute_settings, rng
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import augmented, collating, paired
from layerwise.tasks.base import Task


def network(plan: Plan, device: torch.device) -> nn.Module:
    """Build a plan's network on a device with weights drawn from its seed, whatever was drawn before."""
    options = plan.recipe.train
    with rng.seeded(rng.key(options.seed, "weights")):
        model: nn.Module = registry.builder(plan.spec)(**plan.model_args)
    return model.to(device, compute_settings.dtype(options.precision))


def part_of(model: nn.Module, stage: Stage) -> nn.Module:
    """Return the part of a model that a stage trains: the whole, or the one it names."""
    return cast(Staged, model).part(stage.part) if stage.part else model


def rule_of(
    plan: Plan,
    number: int,
    model: nn.Module,
    part: nn.Module,
    *,
    stage: Stage,
    task: Task,
    source: Source,
    world: World,
) -> Rule:
    """Make a stage's rule over the parameters that its patterns choose; all others of the model are held still.

    ``stage`` and ``task`` are the plan's own of that number, or changed ones. Raises `UsageError` for patterns that
    choose nothing.
    """
    named = dict(part.named_parameters())
    chosen = {n: p for n, p in named.items() if any(fnmatch.fnmatchcase(n, pattern) for pattern in stage.parameters)}
    if not chosen:
        raise unknown("parameter", ", ".join(stage.parameters), named, where=f"stage '{stage.name}'")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    options = plan.recipe.train
    seed, batch = rng.key(options.seed, "rule", number), min(stage.batch, len(source))
    return rules.make(stage.rule, Context(part, task, chosen, world, seed, options.precision, batch, len(source)))


def batches_of(plan: Plan, number: int, *, world: World) -> Batches:
    """Return a stage's training batches, those of its run, read as they are asked for: for a few steps, not for
    epochs."""
    stage, task, options = plan.recipe.stages[number], plan.stage_tasks[number], plan.recipe.train
    source = plan.training(stage)
    order = Order(len(source), stage.batch, options.seed, number, world, paired(stage.augment))
    dtype = compute_settings.dtype(options.precision)
    streamed = StreamedBatches(source, collating(task, stage.augment), order, world.device, dtype, workers=0)
    return augmented(streamed, task.inputs, stage.augment, seed=options.seed, stage=number, dtype=dtype)

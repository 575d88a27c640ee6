"""Build what a plan describes: the network with fresh weights, the part and the rule of a stage, its batches without a
copy in memory."""

from __future__ import annotations

import fnmatch
from typing import cast

import torch
from torch import nn

from layerwise import registry
from layerwise.data.loader import Batches, BatchSampler, StreamedBatches
from layerwise.data.source import Source
from layerwise.errors import make_unknown_name_error
from layerwise.nn.rbm import HasParts
from layerwise.planning.resolve import Plan
from layerwise.recipe import Stage
from layerwise.rules import registry as rules
from layerwise.rules.base import Context, Rule
from layerwise.runtime import compute_settings, rng
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import augment_batches, choose_collate, has_mixing
from layerwise.tasks.base import Task


def build_model(plan: Plan, device: torch.device) -> nn.Module:
    """Build a plan's network on a device with weights drawn from its seed, whatever was drawn before."""
    options = plan.recipe.train
    with rng.use_seed(rng.derive_seed(options.seed, "weights")):
        model: nn.Module = registry.get_builder(plan.spec)(**plan.model_args)
    return model.to(device, compute_settings.get_dtype(options.precision))


def get_part(model: nn.Module, stage: Stage) -> nn.Module:
    """Return the part of a model that a stage trains: the model itself, or the part it names."""
    return cast(HasParts, model).part(stage.part) if stage.part else model


def build_rule(
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
    """Build a stage's rule over the parameters that its patterns choose; freeze all others of the model.

    ``stage`` and ``task`` are the plan's own of that number, or changed ones. Raises `UsageError` for patterns that
    choose nothing.
    """
    named = dict(part.named_parameters())

    def is_chosen(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in stage.parameters)

    chosen = {name: parameter for name, parameter in named.items() if is_chosen(name)}
    if not chosen:
        raise make_unknown_name_error("parameter", ", ".join(stage.parameters), named, where=f"stage '{stage.name}'")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    options = plan.recipe.train
    seed, batch = rng.derive_seed(options.seed, "rule", number), min(stage.batch_size, len(source))
    return rules.build_rule(stage.rule, Context(part, task, chosen, world, seed, options.precision, batch, len(source)))


def build_batches(plan: Plan, number: int, *, world: World) -> Batches:
    """Return a stage's training batches, the same as in its run, read one by one: for a few steps, not for epochs."""
    stage, task, options = plan.recipe.stages[number], plan.stage_tasks[number], plan.recipe.train
    source = plan.get_training_source(stage)
    order = BatchSampler(len(source), stage.batch_size, options.seed, number, world, has_mixing(stage.augment))
    dtype = compute_settings.get_dtype(options.precision)
    streamed = StreamedBatches(source, choose_collate(task, stage.augment), order, world.device, dtype, workers=0)
    return augment_batches(streamed, task.inputs, stage.augment, seed=options.seed, stage=number, dtype=dtype)

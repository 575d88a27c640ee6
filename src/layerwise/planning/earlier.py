"""A recipe that an earlier version of Layerwise kept, with the options that have come since."""

from __future__ import annotations

import msgspec

from layerwise import recipe, registry
from layerwise.data import load as data_
from layerwise.functional.augmentation.transforms import AugmentOptions
from layerwise.recipe import Recipe, Stage, Table
from layerwise.registry import ModelSpec
from layerwise.rules import registry as rules
from layerwise.tasks import registry as tasks

BEGUN = "the recipe it was begun with"


def completed(kept: Recipe, now: Recipe, spec: ModelSpec) -> Recipe:
    """Return a resolved recipe with each option that only the one resolved today has at its default, so that they can
    be compared.

    An option that came after the run had begun was not there to be chosen, and its default does what was done before it
    came. Raises `UsageError` where the recipe has an option that is no more.
    """
    stages = tuple(_stage(stage) for stage in kept.stages)
    added = {key: value for key, value in _defaults(spec).items() if key in now.model}
    data = _options(data_.Options, kept.data)
    return msgspec.structs.replace(
        kept, model={**added, **kept.model}, data=data, task=tasks.resolved(kept.task, BEGUN), stages=stages
    )


def _stage(stage: Stage) -> Stage:
    """Complete a stage's rule, task and augmentation."""
    augment = _options(AugmentOptions, stage.augment) if stage.augment else {}
    rule = rules.resolved(stage.rule, BEGUN)
    return msgspec.structs.replace(stage, rule=rule, task=tasks.resolved(stage.task, BEGUN), augment=augment)


def _options(kind: type[msgspec.Struct], table: Table) -> Table:
    """Complete a table whose options a struct declares."""
    return dict(msgspec.to_builtins(recipe.checked(kind, table, where=BEGUN)))


def _defaults(spec: ModelSpec) -> Table:
    """Return the defaults of a network's arguments."""
    fields = msgspec.structs.fields(recipe.struct_of(registry.builder(spec)))
    return dict(msgspec.to_builtins({field.name: field.default for field in fields if not field.required}))

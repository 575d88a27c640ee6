"""A recipe that an earlier version of Layerwise kept, with the options that have come since."""

from __future__ import annotations

import inspect

import msgspec

from layerwise import catalog, recipe
from layerwise.catalog import Card
from layerwise.data import open as data_
from layerwise.functional.augmentation import AugmentOptions
from layerwise.recipe import Recipe, Stage, Table
from layerwise.rules import registry as rules
from layerwise.tasks import registry as tasks


def completed(kept: Recipe, now: Recipe, card: Card) -> Recipe:
    """Return a resolved recipe with each option that only the one resolved today has at its default, so that they can be compared.

    An option that came after the run had begun was not there to be chosen, and its default does what was done before it came.
    Raises `UsageError` where the recipe has an option that is no more.
    """
    stages = tuple(_stage(stage) for stage in kept.stages)
    added = {key: value for key, value in _defaults(card).items() if key in now.model}
    data = _options(data_.Options, kept.data)
    return msgspec.structs.replace(kept, model={**added, **kept.model}, data=data, task=_task(kept.task), stages=stages)


def _stage(stage: Stage) -> Stage:
    """Complete a stage's rule, task and augmentation."""
    augment = _options(AugmentOptions, stage.augment) if stage.augment else {}
    rule = rules.resolved(stage.rule, f"the rule of stage '{stage.name}'")
    return msgspec.structs.replace(stage, rule=rule, task=_task(stage.task), augment=augment)


def _task(table: Table) -> Table:
    """Complete a task's table."""
    name = str(table["name"])
    return {"name": name, **_options(tasks.find(name).Options, {key: value for key, value in table.items() if key != "name"})}


def _options(kind: type[msgspec.Struct], table: Table) -> Table:
    """Complete a table whose options a struct declares."""
    return dict(msgspec.to_builtins(recipe.checked(kind, table, where="the recipe it was begun with")))


def _defaults(card: Card) -> Table:
    """Return the defaults of a network's arguments."""
    parameters = inspect.signature(catalog.builder(card)).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return dict(msgspec.to_builtins(given))

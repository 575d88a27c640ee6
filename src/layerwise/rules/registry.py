"""The learning rules by name, and how a stage's table becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from layerwise.errors import unknown
from layerwise.recipe import Table, checked
from layerwise.rules import hebb, hogwild
from layerwise.rules.backprop import Backprop
from layerwise.rules.base import Context, Rule
from layerwise.rules.contrastive import Contrastive
from layerwise.rules.perceptron import Perceptron


class Entry(NamedTuple):
    """A rule's class and the struct of its options."""

    make: Callable[[Context, Any], Rule]
    options: type[msgspec.Struct]


RULES: dict[str, Entry] = {
    "backprop": Entry(Backprop, Backprop.Options),
    "perceptron": Entry(Perceptron, Perceptron.Options),
    "contrastive": Entry(Contrastive, Contrastive.Options),
    "hebb": Entry(hebb.make, hebb.HebbOptions),
    "hogwild": Entry(hogwild.make, hogwild.HogwildOptions),
}


def find(name: str) -> Entry:
    """Return the rule of this name, or raise `UsageError` with the nearest."""
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return RULES[name]


def resolved(table: Mapping[str, Any], where: str) -> Table:
    """Return a rule's table with every option spelled out."""
    name = str(table.get("name", "backprop"))
    options = checked(find(name).options, {k: v for k, v in table.items() if k != "name"}, where=where)
    return {"name": name, **msgspec.to_builtins(options)}


def make(table: Mapping[str, Any], context: Context) -> Rule:
    """Return the rule of a resolved table, ready to work on a context."""
    entry = find(str(table["name"]))
    options = checked(entry.options, {k: v for k, v in table.items() if k != "name"}, where="the rule")
    return entry.make(context, options)

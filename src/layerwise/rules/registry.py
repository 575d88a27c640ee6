"""The learning rules by name, and how a stage's table becomes one. A rule is imported when it is used: some compile
their loops."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from layerwise.errors import unknown
from layerwise.recipe import Table, checked
from layerwise.rules.base import Context, Entry, Rule

RULES = (
    "backprop",
    "perceptron",
    "contrastive",
    "hebb",
    "hogwild",
)  # each a module of this room, loaded where it is used


def find(name: str) -> Entry:
    """Return the rule of this name, or raise `UsageError` with the nearest."""
    if name not in RULES:
        raise unknown("rule", name, RULES)
    entry: Entry = importlib.import_module(f"layerwise.rules.{name}").RULE
    return entry


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

"""The learning rules by name, and how a stage's table becomes one.

A rule's module is imported on first use: some compile their loops.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from layerwise.errors import make_unknown_name_error
from layerwise.recipe import Table, check_table
from layerwise.rules.base import Context, Entry, Rule

RULES = ("backprop", "perceptron", "contrastive", "hebb", "hogwild")  # each a module of this package


def find_rule(name: str) -> Entry:
    """Return the rule of this name. Raises `UsageError` with the nearest name if there is none."""
    if name not in RULES:
        raise make_unknown_name_error("rule", name, RULES)
    entry: Entry = importlib.import_module(f"layerwise.rules.{name}").RULE
    return entry


def resolve_rule(table: Mapping[str, Any], where: str) -> Table:
    """Return a rule's table with every option spelled out."""
    name = str(table.get("name", "backprop"))
    options = check_table(find_rule(name).options, {k: v for k, v in table.items() if k != "name"}, where=where)
    return {"name": name, **msgspec.to_builtins(options)}


def build_rule(table: Mapping[str, Any], context: Context) -> Rule:
    """Return the rule of a resolved table, ready to train on a context."""
    entry = find_rule(str(table["name"]))
    options = check_table(entry.options, {k: v for k, v in table.items() if k != "name"}, where="the rule")
    return entry.build(context, options)

"""The tasks by name, and which one a schema asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerwise.data.source import TASKS_FOR, Schema
from layerwise.errors import UsageError, unknown
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification, Regression, Reconstruction)}


def find(name: str) -> type[Task]:
    """Return the task of this name, or raise `UsageError` with the nearest."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def from_json(saved: dict[str, Any]) -> Task:
    """Make a task again from its saved form."""
    return find(saved["name"]).from_json(saved)


def choose(schema: Schema, offered: Sequence[str], *, model: str, wanted: str = "") -> str:
    """Return the task for these data among those a card offers. Raises `UsageError` where that is open or impossible."""
    if wanted:
        find(wanted)
        if wanted not in offered:
            raise UsageError(
                f"{model} cannot do {wanted}", expected=f"one of {', '.join(offered)}", received=f"--task {wanted}"
            )
        return wanted
    found = [task for task in offered if task in TASKS_FOR[schema.target]] or [t for t in offered if t == "reconstruction"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{model} does {', '.join(offered)}, for which these data have no fitting target",
            received=f"a target of kind '{schema.target}'",
            do="choose another model (layerwise models) or another target (--set data.target=…)",
        )
    raise UsageError(
        f"the target '{schema.target_name}' holds whole numbers, which may be classes or amounts",
        expected="--task to say which",
        do=" or ".join(f"--task {task}" for task in found),
    )

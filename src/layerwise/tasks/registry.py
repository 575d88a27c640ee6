"""The tasks by name, and which one a schema asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from layerwise.data.source import TASKS_FOR, Kind, Schema
from layerwise.errors import UsageError, make_unknown_name_error
from layerwise.recipe import Table, check_table
from layerwise.runtime.checksums import make_damaged_error
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.cooccurrence import CoOccurrence
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression
from layerwise.tasks.words import Words

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Regression, Reconstruction, Words, CoOccurrence)
}
TASKS_OF_KIND: dict[Kind, tuple[str, ...]] = {
    "text": ("words", "co-occurrence")
}  # what is done with text; with images and rows all others
INPUT_NAMES: dict[Kind, str] = {
    "text": "text",
    "counts": "counts of pairs of words",
    "image": "images or rows of a table",
    "row": "rows of a table",
}


def find_task(name: str) -> type[Task]:
    """Return the task of this name, or raise `UsageError` with the nearest."""
    if name not in TASKS:
        raise make_unknown_name_error("task", name, TASKS)
    return TASKS[name]


def resolve_task(table: Mapping[str, Any], where: str) -> Table:
    """Return a task's table with every option spelled out."""
    if not isinstance(table.get("name"), str):
        raise UsageError(
            f"{where} has no name", expected=f"one of {', '.join(TASKS)}", received=f"{table.get('name')!r:.60}"
        )
    name = table["name"]
    options = check_table(find_task(name).Options, {k: v for k, v in table.items() if k != "name"}, where=where)
    return {"name": name, **msgspec.to_builtins(options)}


def load_task(saved: dict[str, Any], path: Path) -> Task:
    """Make a task again from its saved form, which ``path`` holds. Raises `DamagedError` naming the file and the
    field."""
    name = saved.get("name")
    if not isinstance(name, str) or name not in TASKS:
        raise make_damaged_error(
            path, f"it does not describe a task: $.name is {str(name)[:60]!r}, none of {', '.join(TASKS)}"
        )
    try:
        return TASKS[name].from_json(saved)
    except msgspec.ValidationError as error:
        raise make_damaged_error(path, f"it does not describe a task: {error}") from error


def choose_task(schema: Schema, offered: Sequence[str], *, model: str, wanted: str = "") -> str:
    """Return the task for these data among those a model offers. Raises `UsageError` where that is open or
    impossible."""
    if wanted:
        find_task(wanted)
        if wanted not in offered:
            raise UsageError(
                f"{model} cannot do {wanted}", expected=f"one of {', '.join(offered)}", received=f"--task {wanted}"
            )
        return wanted
    possible = TASKS_OF_KIND.get(
        schema.kind, tuple(name for name in TASKS if not any(name in names for names in TASKS_OF_KIND.values()))
    )
    if not set(offered) & set(possible):
        raise UsageError(
            f"{model} does not learn from these data",
            expected=INPUT_NAMES["text" if set(offered) & set(TASKS_OF_KIND["text"]) else "image"],
            received=INPUT_NAMES[schema.kind],
            do="choose another model (layerwise models) or other data",
        )
    fitting = (*TASKS_FOR[schema.target], *TASKS_OF_KIND.get(schema.kind, ()))
    candidates = [task for task in offered if task in fitting] or [t for t in offered if t == "reconstruction"]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UsageError(
            f"{model} does {', '.join(offered)}, for which these data have no fitting target",
            received=f"a target of kind '{schema.target}'",
            do="choose another model (layerwise models) or another target (--set data.target=…)",
        )
    raise UsageError(
        f"the target '{schema.target_name}' holds whole numbers, which may be classes or amounts",
        expected="--task to say which",
        do=" or ".join(f"--task {task}" for task in candidates),
    )

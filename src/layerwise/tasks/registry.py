"""The tasks by name, and which one a schema asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from layerwise.data.source import TASKS_FOR, Kind, Schema
from layerwise.errors import UsageError, unknown
from layerwise.recipe import Table, checked
from layerwise.runtime.checksums import damaged
from layerwise.tasks.base import Task
from layerwise.tasks.classification import Classification
from layerwise.tasks.cooccurrence import CoOccurrence
from layerwise.tasks.reconstruction import Reconstruction
from layerwise.tasks.regression import Regression
from layerwise.tasks.words import Words

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, Regression, Reconstruction, Words, CoOccurrence)
}
OF_KIND: dict[Kind, tuple[str, ...]] = {
    "text": ("words", "co-occurrence")
}  # what is done with text; with images and rows all others
WANTS: dict[Kind, str] = {
    "text": "text",
    "counts": "counts of pairs of words",
    "image": "images or rows of a table",
    "row": "rows of a table",
}


def find(name: str) -> type[Task]:
    """Return the task of this name, or raise `UsageError` with the nearest."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def resolved(table: Mapping[str, Any], where: str) -> Table:
    """Return a task's table with every option spelled out."""
    if not isinstance(table.get("name"), str):
        raise UsageError(
            f"{where} has no name", expected=f"one of {', '.join(TASKS)}", received=f"{table.get('name')!r:.60}"
        )
    name = table["name"]
    options = checked(find(name).Options, {k: v for k, v in table.items() if k != "name"}, where=where)
    return {"name": name, **msgspec.to_builtins(options)}


def from_json(saved: dict[str, Any], path: Path) -> Task:
    """Make a task again from its saved form, which ``path`` holds. Raises `DamagedError` naming the file and the
    field."""
    name = saved.get("name")
    if not isinstance(name, str) or name not in TASKS:
        raise damaged(path, f"it does not describe a task: $.name is {str(name)[:60]!r}, none of {', '.join(TASKS)}")
    try:
        return TASKS[name].from_json(saved)
    except msgspec.ValidationError as error:
        raise damaged(path, f"it does not describe a task: {error}") from error


def choose(schema: Schema, offered: Sequence[str], *, model: str, wanted: str = "") -> str:
    """Return the task for these data among those a model offers. Raises `UsageError` where that is open or
    impossible."""
    if wanted:
        find(wanted)
        if wanted not in offered:
            raise UsageError(
                f"{model} cannot do {wanted}", expected=f"one of {', '.join(offered)}", received=f"--task {wanted}"
            )
        return wanted
    able = OF_KIND.get(
        schema.kind, tuple(name for name in TASKS if not any(name in names for names in OF_KIND.values()))
    )
    if not set(offered) & set(able):
        raise UsageError(
            f"{model} does not learn from these data",
            expected=WANTS["text" if set(offered) & set(OF_KIND["text"]) else "image"],
            received=WANTS[schema.kind],
            do="choose another model (layerwise models) or other data",
        )
    aimed = (*TASKS_FOR[schema.target], *OF_KIND.get(schema.kind, ()))
    found = [task for task in offered if task in aimed] or [t for t in offered if t == "reconstruction"]
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

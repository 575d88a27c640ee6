"""What the page shows of a table's columns: what was found in them, and what each becomes for the network."""

from __future__ import annotations

from typing import Any

from layerwise.report.texts import TEXTS, Texts
from layerwise.tasks.base import Task
from layerwise.tasks.coders import CategoryCoder, Coder, NumberCoder
from layerwise.tasks.rows import RowInputs

Json = dict[str, Any]


def table(task: Task, columns: list[Json], text: Texts) -> list[Json]:
    """Return a line for each column, as the file has them; none for runs on images and for runs that noted no
    columns."""
    if not isinstance(task.inputs, RowInputs):
        return []
    coders = {coder.name: coder for coder in task.inputs.coders}
    return [
        {
            "name": column["name"],
            "kind": text(f"k {column['kind']}") if f"k {column['kind']}" in TEXTS else column["kind"],
            "gaps": column["gaps"] or "",
            "distinct": f"{column['distinct']:,}",
            "example": column["example"],
            "becomes": becomes(coders[column["name"]], text)
            if column["name"] in coders
            else role(column["role"], text),
            "used": column["name"] in coders,
        }
        for column in columns
    ]


def role(name: str, text: Texts) -> str:
    """Return in words what a column that is no feature is for, or why it is left out."""
    return text(name) if name in TEXTS else text(f"r {name}") if f"r {name}" in TEXTS else name


def becomes(coder: Coder, text: Texts) -> str:
    """Return in words what a column becomes."""
    if isinstance(coder, CategoryCoder):
        what = text("c vector" if coder.embed else "c category", count=len(coder.values))
    elif isinstance(coder, NumberCoder):
        what = text("c number")
    else:
        what = text("c date", count=coder.width - coder.gaps)
    return text("c gap", what=what) if coder.gaps else what

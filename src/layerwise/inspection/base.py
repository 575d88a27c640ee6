"""The contract of a view: its input `Target`, its result `View`, and helpers to write both. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from layerwise import recipe, registry
from layerwise.errors import UsageError
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.text_display import escape_control

if TYPE_CHECKING:
    from torch import nn

    from layerwise.data.source import Splits
    from layerwise.planning.resolve import Plan
    from layerwise.recipe import Recipe
    from layerwise.registry import ModelSpec
    from layerwise.run_directory import RunDirectory
    from layerwise.tasks.base import Task

Json = dict[str, Any]
Lang = Literal["en", "zh"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a view inspects: a finished run, an untrained network with data, or a model of the registry by itself.

    Attributes:
        spec: the model's entry in the registry.
        model, task, splits: the network, its task and its data; None for a model by itself.
        run: the run's directory; None for an untrained network.
        recipe: the recipe that the run was trained with, or that the network would be trained with.
        plan: the resolved training plan, for an untrained network and for views that train one.
        arguments: keyword arguments of the model's builder; empty means its full size.
        split: the part of the data (train, val or test); "" means the view's default.
        examples: the number of examples; 0 means the view's default.
        images: an image or folder of the user, instead of the run's data.
        layer, class_name, words: the layer, the class and the words that the user asks for.
        lang: the language of the view's text and figures.
    """

    spec: ModelSpec
    model: nn.Module | None = None
    task: Task | None = None
    splits: Splits | None = None
    run: RunDirectory | None = None
    recipe: Recipe | None = None
    plan: Plan | None = None
    arguments: Json = field(default_factory=dict)
    split: str = ""
    examples: int = 0
    images: str = ""
    layer: str = ""
    class_name: str = ""
    words: tuple[str, ...] = ()
    lang: Lang = "en"

    def translate(self, english: str, chinese: str) -> str:
        """Return the text in the language ``lang``."""
        return chinese if self.lang == "zh" else english


@dataclass(frozen=True)
class View:
    """A view's result: ``data`` for programs (JSON), ``text`` for people, ``figures`` the files that it wrote."""

    name: str
    data: Json
    text: str
    figures: list[Path] = field(default_factory=list)


def get_model_arguments(target: Target) -> Json:
    """Return the builder arguments of a target: its own, else those of the model's full size.

    Raises `UsageError` for a user's model that states no size.
    """
    if target.arguments:
        return dict(target.arguments)
    fields = msgspec.structs.fields(recipe.make_options_struct(registry.get_builder(target.spec)))
    missing = [field.name for field in fields if field.required and field.name not in target.spec.size]
    if missing:
        raise UsageError(
            f"{target.spec.name} states no size to build it in: {', '.join(missing)}",
            expected="size={…} in @register, or data",
            do=f"layerwise inspect {target.spec.name} --data SOURCE",
        )
    return dict(target.spec.size)


def make_missing_run_error(view: str, spec: ModelSpec, *, untrained: bool = False) -> UsageError:
    """Return the error for a view that needs a run but got only a model's name.

    ``untrained``: an untrained network with data is enough for the view.
    """
    train = f"train one: layerwise train {spec.name} --data SOURCE, then layerwise inspect RUN --view {view}"
    return UsageError(
        f"the view '{view}' needs a run, and {spec.name} is the name of a model",
        expected="a run directory, or --data SOURCE for an untrained network" if untrained else "a run directory",
        received=spec.name,
        do=f"layerwise inspect {spec.name} --view {view} --data SOURCE; or {train}" if untrained else train,
    )


def require_data(target: Target, view: str) -> tuple[nn.Module, Task, Splits]:
    """Return the model, task and data of a target. Raises `UsageError` if it has none."""
    if target.model is None or target.task is None or target.splits is None:
        raise make_missing_run_error(view, target.spec)
    return target.model, target.task, target.splits


def save(out: Path | None, name: str, data: str | bytes) -> list[Path]:
    """Write a file into the folder ``out`` and return its path in a list; without ``out`` return an empty list."""
    if out is None:
        return []
    make_folder(out)
    write_file(out / name, data.encode("utf-8", "replace") if isinstance(data, str) else data)
    return [out / name]


def format_table(header: list[str], rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return a plain-text table; ``right`` holds the indices of right-aligned columns.

    East Asian characters count as two columns of the terminal. Control characters in cells are escaped.
    """
    import unicodedata

    def display_width(text: str) -> int:
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

    header, *rows = ([escape_control(cell, single_line=True) for cell in row] for row in (header, *rows))
    widths = [max(display_width(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def format_line(row: list[str]) -> str:
        cells = []
        for i, cell in enumerate(row):
            padding = " " * (widths[i] - display_width(cell))
            cells.append(padding + cell if i in right else cell + padding)
        return "  ".join(cells).rstrip()

    return "\n".join([format_line(header), "  ".join("-" * w for w in widths), *map(format_line, rows)])

"""The contract of a view: what it is shown, what it gives. Imports nothing heavy, so that names are known at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    """What is looked at: a bare model, a run with its model, task and data, or a model with data and an untrained
    model.

    ``plan`` is how such a network would be trained: for a model with data, and where a view trains one of its own.
    ``arguments`` are the builder's, for a bare model (empty: those of the model's full size). ``split`` names the part
    of the data, empty for the view's own choice; ``examples`` how many to show, 0 for the view's own; ``images`` an
    image or folder of the user's to look at in its place; ``layer`` and ``of_class`` the layer and the class to look
    at, ``words`` the words; ``lang`` the language of the view's text.
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
    of_class: str = ""
    words: tuple[str, ...] = ()
    lang: Lang = "en"

    def say(self, english: str, chinese: str) -> str:
        """Return the one of two sentences that is in the target's language."""
        return chinese if self.lang == "zh" else english


@dataclass(frozen=True)
class View:
    """What a view found: ``data`` for programs (JSON), ``text`` for people, ``figures`` the files it wrote."""

    name: str
    data: Json
    text: str
    figures: list[Path] = field(default_factory=list)


def needs_run(view: str, spec: ModelSpec, *, untrained: bool = False) -> UsageError:
    """Make the error for a view that wants a run, or data at least, where a bare model was given; ``untrained``: data
    are enough."""
    train = f"train one: layerwise train {spec.name} --data SOURCE, then layerwise inspect RUN --what {view}"
    return UsageError(
        f"the view '{view}' looks at a run, and {spec.name} is a model of the catalog",
        expected="a run directory, or --data SOURCE for an untrained network" if untrained else "a run directory",
        received=spec.name,
        do=f"layerwise inspect {spec.name} --what {view} --data SOURCE; or {train}" if untrained else train,
    )


def trained(target: Target, view: str) -> tuple[nn.Module, Task, Splits]:
    """Return a run's model, task and data. Raises `UsageError` for a bare model."""
    if target.model is None or target.task is None or target.splits is None:
        raise needs_run(view, target.spec)
    return target.model, target.task, target.splits


def save(out: Path | None, name: str, data: str | bytes) -> list[Path]:
    """Write a file of a view into ``out``, and return its path; nothing where there is no ``out``."""
    if out is None:
        return []
    make_folder(out)
    write_file(out / name, data.encode("utf-8", "replace") if isinstance(data, str) else data)
    return [out / name]


def table(header: list[str], rows: list[list[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Return a plain table; columns in ``right`` are set flush right. East Asian characters count as two places.

    Control characters in cells are escaped.
    """
    import unicodedata

    def places(text: str) -> int:
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

    header, *rows = ([escape_control(cell, single_line=True) for cell in line] for line in (header, *rows))
    widths = [max(places(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def laid(line: list[str]) -> str:
        cells = []
        for i, cell in enumerate(line):
            pad = " " * (widths[i] - places(cell))
            cells.append(pad + cell if i in right else cell + pad)
        return "  ".join(cells).rstrip()

    return "\n".join([laid(header), "  ".join("-" * w for w in widths), *map(laid, rows)])

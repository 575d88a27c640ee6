"""``layerwise inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from layerwise import inspect as views
from layerwise.cli.common import Imports, Json, LangOption, language, put_json, take_imports


def inspect_(
    target: str,
    *,
    what: str = "summary",
    data: str | None = None,
    task: str | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Annotated[Path | None, Parameter(help="folder for figures and arrays")] = None,
    split: Literal["train", "val", "test", ""] = "",
    examples: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    lang: LangOption = None,
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Look inside a run or a network.

    Parameters
    ----------
    target
        a run directory, a name from `layerwise models`, or a recipe.toml
    what
        summary, activations, weights, gradients, mistakes, receptive-field, augmentations, samples, learning-rate, one-batch or
        truth-table
    data
        for a model of the catalog: look at an untrained network for these data
    task
        what it is to learn, where the data leave it open
    set
        change any key of its recipe, as in training: --set rule.lr=0.01
    split
        the part of the data that activations, gradients and mistakes look at (default: val, val and test)
    examples
        how many examples activations, gradients and mistakes look at, samples draws, one-batch learns (default: 0, the view's own
        number)
    """
    take_imports(imports)
    views.check_name(what)
    found = views.look(
        what, target, data=data or "", task=task or "", settings=tuple(set or ()), out=out, split=split, examples=examples,
        lang=language(lang),
    )  # fmt: skip
    if json:
        put_json(view=what, target=target, data=found.data, figures=[str(path) for path in found.figures])
        return 0
    print(found.text)
    for path in found.figures:
        print(f"figure\t{path}")
    return 0

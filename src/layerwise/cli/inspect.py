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
        a run directory, or a name from `layerwise models`
    what
        summary, gradients, mistakes, receptive-field, samples, augmentations, tuning, filtered or truth-table
    split
        the part of the data that gradients and mistakes look at (default: val and test)
    examples
        how many examples gradients and mistakes look at, samples draws (default: 0, the view's own number)
    """
    take_imports(imports)
    views.check_name(what)
    found = views.look(what, target, out=out, split=split, examples=examples, lang=language(lang))
    if json:
        put_json(view=what, target=target, data=found.data, figures=[str(path) for path in found.figures])
        return 0
    print(found.text)
    for path in found.figures:
        print(f"figure\t{path}")
    return 0

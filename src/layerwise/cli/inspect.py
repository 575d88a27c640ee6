"""``layerwise inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from layerwise import inspection as views
from layerwise.cli.common import Imports, Json, LangOption, Overwrite, language, put_json, take_imports
from layerwise.text_display import write_line

NAMES = ", ".join(views.VIEWS)


def inspect_(
    target: str,
    *,
    what: Annotated[str, Parameter(help=f"one of {NAMES}")] = "summary",
    data: str | None = None,
    task: str | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Annotated[Path | None, Parameter(help="folder for figures and arrays")] = None,
    split: Literal["train", "val", "test", ""] = "",
    examples: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    layer: str = "",
    of_class: Annotated[str, Parameter(name="--class")] = "",
    words: str = "",
    overwrite: Overwrite = False,
    lang: LangOption = None,
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Look inside a run or a network.

    Parameters
    ----------
    target
        a run directory, a name from `layerwise models`, or a recipe.toml
    data
        for a model of the catalog: look at an untrained network for these data; for a run: an image or a folder of
        images, for receptive-field, features and grad-cam
    task
        what it is to learn, where the data leave it open
    set
        change any key of its recipe, as in training: --set rule.lr=0.01
    split
        the part of the data that a view looks at (default: the view's own choice)
    examples
        how many examples a view looks at, draws or tries (default: 0, the view's own number)
    layer
        for features and grad-cam: the layer by name (default: the view's own choice)
    of_class
        for grad-cam: the class by name (default: the predicted one)
    words
        for neighbors and map: the words to look at, between blanks (default: the view's own choice)
    """
    take_imports(imports)
    views.check_name(what)
    found = views.look(
        what,
        target,
        data=data or "",
        task=task or "",
        settings=tuple(set or ()),
        out=out,
        overwrite=overwrite,
        split=split,
        examples=examples,
        layer=layer,
        of_class=of_class,
        words=tuple(words.split()),
        lang=language(lang),
    )
    if json:
        put_json(view=what, target=target, data=found.data, figures=[str(path) for path in found.figures])
        return 0
    write_line(found.text)
    for path in found.figures:
        write_line(f"figure\t{path}")
    return 0

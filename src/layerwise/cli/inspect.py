"""``layerwise inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from layerwise import inspection as views
from layerwise.cli.common import Imports, Json, LangOption, Overwrite, import_user_modules, print_json, resolve_language
from layerwise.text_display import write_line

NAMES = ", ".join(views.VIEWS)


def run_inspect(
    target: str,
    *,
    view: Annotated[str, Parameter(help=f"one of {NAMES}")] = "summary",
    data: str | None = None,
    task: str | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    out: Annotated[Path | None, Parameter(help="folder for figures and arrays")] = None,
    split: Literal["train", "val", "test", ""] = "",
    examples: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    layer: str = "",
    class_name: Annotated[str, Parameter(name="--class")] = "",
    words: str = "",
    overwrite: Overwrite = False,
    lang: LangOption = None,
    imports: Imports = None,
    as_json: Json = False,
) -> int:
    """Look inside a run or a network.

    Parameters
    ----------
    target
        a run directory, a name from `layerwise models`, or a recipe.toml
    data
        for a model's name: look at an untrained network for these data; for a run: an image or a folder of
        images, for receptive-field, features and grad-cam
    task
        what to learn, if the data leave it open
    settings
        change any key of its recipe, as in training: --set rule.lr=0.01
    split
        the split that a view looks at (default: the view's own choice)
    examples
        how many examples a view looks at, draws or tries (default: 0, the view's own number)
    layer
        for features and grad-cam: the layer by name (default: the view's own choice)
    class_name
        for grad-cam: the class by name (default: the predicted one)
    words
        for neighbors and map: the words to look at, separated by spaces (default: the view's own choice)
    """
    import_user_modules(imports)
    views.check_view_name(view)
    result = views.inspect_target(
        view,
        target,
        data=data or "",
        task=task or "",
        settings=tuple(settings or ()),
        out=out,
        overwrite=overwrite,
        split=split,
        examples=examples,
        layer=layer,
        class_name=class_name,
        words=tuple(words.split()),
        lang=resolve_language(lang),
    )
    if as_json:
        print_json(view=view, target=target, data=result.data, figures=[str(path) for path in result.figures])
        return 0
    write_line(result.text)
    for path in result.figures:
        write_line(f"figure\t{path}")
    return 0

"""``layerwise train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from layerwise import registry
from layerwise.cli.common import Imports, Json, LangOption, language, put_json, shown, take_imports
from layerwise.errors import UsageError
from layerwise.runtime.input_files import refuse_special_file
from layerwise.text_display import write_line


def train_(
    model: str,
    *,
    data: str | None = None,
    task: str | None = None,
    out: Path | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Literal["fp32", "bf16", "fp16", "fp64"] | None = None,
    compile: Annotated[bool, Parameter(negative="")] = False,
    weights: Path | None = None,
    transfer: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    allow_changes: Annotated[bool, Parameter(negative="")] = False,
    on_bad: Literal["stop", "skip"] | None = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    lang: LangOption = None,
    imports: Imports = None,
    json: Json = False,
) -> int:
    """Train a network on your data and keep everything in a run directory.

    Parameters
    ----------
    model
        a name from `layerwise models`, or a recipe.toml
    data
        a named data set (`layerwise data`) or a path: class folders, IDX, a table, an archive, text; - for text from
        standard input
    task
        what to learn, where the data leave it open: classification, regression, reconstruction
    out
        the run directory (default runs/MODEL-DATA-N)
    epochs
        passes over the training part, of every stage
    batch
        examples a step, over all processes
    lr
        learning rate
    seed
        of weights, order, splits and draws
    device
        auto (cuda where it is, else cpu), cpu, cuda or cuda:1
    precision
        of products; fp64 computes everything in float64
    compile
        compile the network with torch.compile
    weights
        begin with these weights: a run, .safetensors, .pth, .pt or .th; --epochs 0 only evaluates them
    transfer
        train the weights' new head first, then everything, with smaller rates below
    resume
        go on from the last checkpoint, exactly
    allow_changes
        resume although recipe or data differ
    on_bad
        at a file that is no image: stop (the default) or skip it and count
    set
        any key of the recipe, as KEY=VALUE; repeat it for more
    """
    take_imports(imports)
    _known(model)
    from layerwise.planning.resolve import Request
    from layerwise.training.run_training import train

    request = Request(
        model=model,
        data=data,
        task=task,
        out=out,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile or None,
        weights=None if weights is None else str(weights),
        transfer=transfer,
        on_bad=on_bad,
        lang=language(lang),
        resume=resume,
        allow_changes=allow_changes,
        settings=tuple(set or ()),
    )
    outcome = train(request, quiet=False)
    if not outcome.first:
        return 0
    info, path = outcome.info, outcome.directory.path
    if json:
        put_json(
            run=str(path),
            model=info["model"]["name"],
            data=info["data"],
            task=outcome.task,
            epochs=info["epochs"],
            seconds=info["seconds"],
            resumed=outcome.resumed,
            metrics=outcome.metrics,
        )
        return 0
    watched = {name.removeprefix("val/") for row in info.get("history", []) for name in row if name.startswith("val/")}
    for name, value in outcome.metrics.items():
        if not watched or name.partition("/")[2] in watched:  # `eval` shows the others, with the tables beside them
            write_line(f"{name}\t{shown(value)}")
    write_line(f"run\t{path}")
    if (path / "report.html").is_file():
        write_line(f"report\t{path / 'report.html'}")
    return 0


def _known(model: str) -> None:
    """Refuse a wrong name and a network without a rule before anything heavy is imported."""
    path = Path(model)
    refuse_special_file(path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError(f"there is no recipe {path}", expected="a model's name or a recipe file")
        return
    registry.refuse_without_rule(registry.find(model))

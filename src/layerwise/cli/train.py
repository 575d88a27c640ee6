"""``layerwise train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from layerwise import registry
from layerwise.cli.common import (
    Imports,
    Json,
    LangOption,
    format_metric,
    import_user_modules,
    print_json,
    resolve_language,
)
from layerwise.errors import UsageError
from layerwise.runtime.input_files import refuse_special_file
from layerwise.text_display import write_line


def run_train(
    model: str,
    *,
    data: str | None = None,
    task: str | None = None,
    out: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Literal["fp32", "bf16", "fp16", "fp64"] | None = None,
    compile_model: Annotated[bool, Parameter(name="--compile", negative="")] = False,
    weights: Path | None = None,
    transfer: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    allow_changes: Annotated[bool, Parameter(negative="")] = False,
    on_error: Literal["stop", "skip"] | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    lang: LangOption = None,
    imports: Imports = None,
    as_json: Json = False,
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
        what to learn, if the data leave it open: classification, regression, reconstruction
    out
        the run directory (default runs/MODEL-DATA-N)
    epochs
        passes over the training part, of every stage
    batch_size
        examples per step, over all processes
    lr
        learning rate
    seed
        of weights, order, splits and random draws
    device
        auto (cuda where it is, else cpu), cpu, cuda or cuda:1
    precision
        of matrix products; fp64 computes everything in float64
    compile_model
        compile the network with torch.compile
    weights
        start from these weights: a run, .safetensors, .pth, .pt or .th; --epochs 0 only evaluates them
    transfer
        train the new head first, then fine-tune everything with lower rates in earlier layers
    resume
        continue exactly from the last checkpoint
    allow_changes
        resume although recipe or data differ
    on_error
        at a file that cannot be read as an image: stop (the default), or skip and count it
    settings
        any key of the recipe, as KEY=VALUE; repeat it for more
    """
    import_user_modules(imports)
    _check_model_name(model)
    from layerwise.planning.resolve import Request
    from layerwise.training.run_training import train

    request = Request(
        model=model,
        data=data,
        task=task,
        out=out,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile_model or None,
        weights=None if weights is None else str(weights),
        transfer=transfer,
        on_error=on_error,
        lang=resolve_language(lang),
        resume=resume,
        allow_changes=allow_changes,
        settings=tuple(settings or ()),
    )
    outcome = train(request, quiet=False)
    if not outcome.first:
        return 0
    info, path = outcome.info, outcome.directory.path
    if as_json:
        print_json(
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
    validated = {
        name.removeprefix("val/") for row in info.get("history", []) for name in row if name.startswith("val/")
    }
    for name, value in outcome.metrics.items():
        if not validated or name.partition("/")[2] in validated:  # `eval` shows the others, with their tables
            write_line(f"{name}\t{format_metric(value)}")
    write_line(f"run\t{path}")
    if (path / "report.html").is_file():
        write_line(f"report\t{path / 'report.html'}")
    return 0


def _check_model_name(model: str) -> None:
    """Raise `UsageError` for a wrong name or a model without a rule, before anything heavy is imported."""
    path = Path(model)
    refuse_special_file(path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise UsageError(f"there is no recipe {path}", expected="a model's name or a recipe file")
        return
    registry.refuse_without_rule(registry.find(model))

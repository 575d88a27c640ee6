"""From what a user names to what a view looks at: a run, a model, or an untrained network with data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from layerwise import recipe, registry
from layerwise.data import load as data_
from layerwise.errors import UsageError
from layerwise.inference.predict import load
from layerwise.inspection.base import Target, needs_run
from layerwise.planning.build import network
from layerwise.planning.resolve import Plan, Request, plan
from layerwise.run_directory import RunDirectory
from layerwise.runtime.input_files import refuse_special_file
from layerwise.weights import planned, put


def opened(
    target: str,
    *,
    needs: str,
    view: str,
    data: str = "",
    task: str = "",
    settings: tuple[str, ...] = (),
    images: bool = False,
) -> Target:
    """Return the run at a path, the model of a name, or an untrained network of a model or a recipe file with its data.

    Args:
        target: a run directory, a model's name or a recipe file.
        needs: as in `layerwise.inspection.Entry`.
        view: the view's name, for messages.
        data, task, settings: for a model or recipe file, as in training; ``data`` beside a run are images to look at.
        images: whether the view can look at images of the user's.

    Raises:
        UsageError: for a model where more is needed, for a name that is neither, and for data beside a run.
        DamagedError: for a damaged run.
    """
    path = Path(target)
    refuse_special_file(path)
    if path.is_dir() and not (data and target in registry.specs()):  # data settle what a name means that is both
        if images and data and not (task or settings):
            return replace(_run(path, with_data=False), images=data)
        if data or task or settings:
            raise UsageError(
                f"{target} is a run, which has its own data and recipe",
                expected="--data, --task and --set for a model of the catalog",
                do="leave them out",
            )
        return _planned_again(path) if needs == "plan" else _run(path, with_data=needs.startswith("data"))
    if needs != "run" and (data or path.suffix == ".toml"):
        made = plan(Request(model=target, data=data or None, task=task or None, settings=settings))
        model = None if needs == "plan" else fresh(made, torch.device("cpu")).eval()
        return Target(
            spec=made.spec,
            model=model,
            task=made.task,
            splits=made.splits,
            recipe=made.recipe,
            plan=made,
            arguments=made.model_args,
        )
    spec = registry.find(target)
    if needs in ("run", "data", "plan"):
        raise needs_run(view, spec, untrained=needs != "run")
    if task or settings:
        raise UsageError("--task and --set say how a network is made for data", expected="--data SOURCE beside them")
    return Target(spec=spec)


def fresh(made: Plan, device: torch.device) -> nn.Module:
    """Return a plan's network as training would begin with it: weights drawn from its seed, or those the recipe
    names."""
    model = network(made, device)
    if made.recipe.weights:
        put(model, planned(made))
    return model


def _run(path: Path, *, with_data: bool) -> Target:
    """Return a run with its best weights, and its data if they are asked for."""
    found = load(path)
    made = recipe.from_toml(found.directory.read("recipe.toml"), str(path / "recipe.toml"))
    splits = None
    if with_data:
        options = recipe.checked(data_.Options, made.data, where=f"[data] of {path / 'recipe.toml'}")
        splits = data_.open_data(options, seed=made.train.seed)
    return Target(
        spec=found.spec,
        model=found.model,
        task=found.task,
        splits=splits,
        run=found.directory,
        recipe=made,
        arguments=dict(found.info["model"]["arguments"]),
    )


def _planned_again(path: Path) -> Target:
    """Return how a run would be trained again, without its weights."""
    directory = RunDirectory.open(path)
    directory.read("recipe.toml")  # a damaged recipe is named as such
    made = plan(Request(model=str(path / "recipe.toml")))
    return Target(spec=made.spec, task=made.task, splits=made.splits, run=directory, recipe=made.recipe, plan=made)

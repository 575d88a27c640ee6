"""Load what a user names for a view: a run, a model, or an untrained network with data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from layerwise import recipe, registry
from layerwise.data.load import Options as DataOptions
from layerwise.data.load import load_splits
from layerwise.errors import UsageError
from layerwise.inference.predict import load_run
from layerwise.inspection.base import Target, make_missing_run_error
from layerwise.planning.build import build_model
from layerwise.planning.resolve import Plan, Request, make_plan
from layerwise.run_directory import RunDirectory
from layerwise.runtime.input_files import refuse_special_file
from layerwise.weights.loading import apply_weights, match_plan_weights


def load_target(
    target: str,
    *,
    needs: str,
    view: str,
    data: str = "",
    task: str = "",
    settings: tuple[str, ...] = (),
    images: bool = False,
) -> Target:
    """Load a run directory, a model by name, or an untrained network with its data.

    Args:
        target: a run directory, a model's name or a recipe file.
        needs: as in `layerwise.inspection.ViewSpec`.
        view: the view's name, for messages.
        data, task, settings: as in training, for a model or recipe file; for a run, ``data`` is an image or a folder
            of images.
        images: whether the view can show images of the user.

    Raises:
        UsageError: if the view needs more than a model's name; for a target that does not exist; for data beside a
            run.
        DamagedError: for a damaged run.
    """
    path = Path(target)
    refuse_special_file(path)
    if path.is_dir() and not (
        data and target in registry.load_specs()
    ):  # both a folder and a model: with data, the model
        if images and data and not (task or settings):
            return replace(_load_run(path, with_data=False), images=data)
        if data or task or settings:
            raise UsageError(
                f"{target} is a run, which has its own data and recipe",
                expected="--data, --task and --set for a model by name",
                do="leave them out",
            )
        return _load_plan(path) if needs == "plan" else _load_run(path, with_data=needs.startswith("data"))
    if needs != "run" and (data or path.suffix == ".toml"):
        plan = make_plan(Request(model=target, data=data or None, task=task or None, settings=settings))
        model = None if needs == "plan" else build_initial_model(plan, torch.device("cpu")).eval()
        return Target(
            spec=plan.spec,
            model=model,
            task=plan.task,
            splits=plan.splits,
            recipe=plan.recipe,
            plan=plan,
            arguments=plan.model_args,
        )
    spec = registry.find(target)
    if needs in ("run", "data", "plan"):
        raise make_missing_run_error(view, spec, untrained=needs != "run")
    if task or settings:
        raise UsageError("--task and --set say how a network is made for data", expected="--data SOURCE beside them")
    return Target(spec=spec)


def build_initial_model(plan: Plan, device: torch.device) -> nn.Module:
    """Return a plan's network as training starts it: with weights drawn from the seed, or the recipe's pretrained
    weights."""
    model = build_model(plan, device)
    if plan.recipe.weights:
        apply_weights(model, match_plan_weights(plan))
    return model


def _load_run(path: Path, *, with_data: bool) -> Target:
    """Load a run with its best weights, and its data if ``with_data``."""
    loaded = load_run(path)
    run_recipe = recipe.from_toml(loaded.directory.read("recipe.toml"), str(path / "recipe.toml"))
    splits = None
    if with_data:
        options = recipe.check_table(DataOptions, run_recipe.data, where=f"[data] of {path / 'recipe.toml'}")
        splits = load_splits(options, seed=run_recipe.train.seed)
    return Target(
        spec=loaded.spec,
        model=loaded.model,
        task=loaded.task,
        splits=splits,
        run=loaded.directory,
        recipe=run_recipe,
        arguments=dict(loaded.info["model"]["arguments"]),
    )


def _load_plan(path: Path) -> Target:
    """Load a run's training plan and data, without its weights."""
    directory = RunDirectory.open(path)
    directory.read("recipe.toml")  # raises DamagedError for a damaged recipe
    plan = make_plan(Request(model=str(path / "recipe.toml")))
    return Target(spec=plan.spec, task=plan.task, splits=plan.splits, run=directory, recipe=plan.recipe, plan=plan)

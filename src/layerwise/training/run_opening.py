"""What a run goes on from, or begins with: the checks that speak against it, and its first files."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from layerwise import __version__, recipe, registry
from layerwise.errors import DamagedError, UsageError
from layerwise.planning.earlier import completed
from layerwise.planning.resolve import Plan, Request
from layerwise.run_directory import FIRST, Checkpoint, RunDirectory
from layerwise.runtime import strict_json
from layerwise.runtime.checksums import FORMAT
from layerwise.runtime.distributed import World
from layerwise.training.progress import Display
from layerwise.training.resume_checks import check_places, check_tensors
from layerwise.weights import check
from layerwise.weights.saved_model import SPARE_MODULES, bound_parts

Json = dict[str, Any]


class Opening(NamedTuple):
    """What a run goes on from: a checkpoint or none, whether its first files are to be written, and the changes of its
    recipe or data."""

    found: Checkpoint | None = None
    begins: bool = True
    changes: Sequence[str] = ()


def open_run(directory: RunDirectory, request: Request, made: Plan, *, world: World, display: Display) -> Opening:
    """Return what the run goes on from. Nothing is written: something may speak against going on yet."""
    path = directory.path
    if not (request.resume and (path / "run.json").exists()):
        if request.resume:
            display.say(f"{path} has no checkpoint: starting afresh")
        return Opening()
    directory.refuse_own_links()
    found = directory.restore("last")
    if found is None and not all(
        (path / name).exists() for name in FIRST
    ):  # a kill came after run.json, which is written first
        display.say(f"{path} was stopped before it began: starting afresh")
        return Opening()
    before = recipe.from_toml(directory.read("recipe.toml"), str(path / "recipe.toml"))
    best = _refuse_lost(directory, found, saves=bool(before.train.checkpoint_seconds))
    kept = {which: one for which, one in (("last", found), ("best", best)) if found is not None and one is not None}
    for which, one in kept.items():
        check_places(directory, which, one, stages=len(before.stages))
    changes = _find_changes(directory, found, before, made, world=world, allowed=request.allow_changes)
    for which, one in kept.items():
        check_tensors(directory, which, one, made)
    if found is None and directory.info()["status"] != "finished":
        display.say(f"{path} has no checkpoint yet: starting afresh")
    return Opening(found, False, changes)


def write_opening(directory: RunDirectory, opening: Opening, made: Plan, *, world: World) -> None:
    """Write a new run's first files; or the changes of one that goes on, and end what a kill broke off. Nothing speaks
    against it now."""
    world.barrier()  # every rank has read what is there before the first one writes
    if world.first and opening.begins:
        first = {"recipe.toml": recipe.to_toml(made.recipe).encode(), "task.json": _task_file(made)}
        directory.begin(_facts(made, world=world), first)
    elif world.first:
        if opening.changes:
            _write_changes(directory, opening.changes, made, world=world)
        directory.tidy()
    world.barrier()


def _refuse_lost(directory: RunDirectory, found: Checkpoint | None, *, saves: bool) -> Checkpoint | None:
    """Refuse to resume a run whose checkpoints are gone: what is left would be trained on, or over, as if nothing were
    wrong. Return the
    best checkpoint. ``saves``: whether the run saves any.

    Raises `DamagedError` naming the checkpoint that is missing or not as it was written.
    """
    path = directory.path
    best = _restore_best(directory, left="last" if found is not None else "")
    finished = directory.info()["status"] == "finished"
    if found is None and saves and (finished or best is not None or directory.metrics_size()):
        raise _lost(path / "checkpoints" / "last", "best" if best is not None else "")
    wanted = found.info.get("best_serial", 0) if found is not None else int(finished)
    if wanted and (best is None or best.info["serial"] < wanted):
        raise _lost(path / "checkpoints" / "best", "last" if found is not None else "")
    return best


def _restore_best(directory: RunDirectory, *, left: str) -> Checkpoint | None:
    """Return the best checkpoint. Raises `DamagedError` for one that is not as it was written, with a way on from the
    one that is left."""
    try:
        return directory.restore("best")
    except DamagedError as error:
        raise _lost(
            directory.path / "checkpoints" / "best", left, why=error.what.partition(" is damaged: ")[2]
        ) from error


def _lost(place: Path, left: str, *, why: str = "") -> DamagedError:
    """Make the error for a checkpoint that is gone, or damaged, ``why``; ``left`` names the other one if that is
    there."""
    run = place.parents[1]
    start = f" --weights {place.with_name(left) / 'model.safetensors'}" if left else ""
    return DamagedError(
        f"{place} is {f'damaged ({why})' if why else 'missing'}, and {run} cannot be resumed without it; "
        "nothing was changed",
        expected="the checkpoints that training saved",
        do=f"bring it back from a copy, or train anew: layerwise train {run / 'recipe.toml'}{start} --out NEW",
    )


def _task_file(made: Plan) -> bytes:
    """Return what task.json holds."""
    return msgspec.json.format(
        strict_json.dumps({"format": FORMAT, **made.task.to_json()}, non_finite="error").encode(), indent=1
    )


def _facts(made: Plan, *, world: World) -> Json:
    """Return what run.json says from the start."""
    return {
        "status": "training",
        "layerwise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": {"system": platform.platform(), "processor": platform.processor() or platform.machine()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": made.splits.name,
        "fingerprint": made.splits.fingerprint(),
        "examples": {part: len(made.splits.part(part)) for part in ("train", "val", "test")},
        "notes": list(made.splits.notes),
        "columns": [column._asdict() for column in made.splits.columns],
        "model": {"name": made.spec.name, "arguments": made.model_args},
        "world": world.size,
    }


def _find_changes(
    directory: RunDirectory, found: Checkpoint | None, before: recipe.Recipe, made: Plan, *, world: World, allowed: bool
) -> list[str]:
    """Return what differs from the run so far. Raises `UsageError` for another recipe, other data or another number of
    processes, unless that is allowed."""
    changes = recipe.differences(completed(before, made.recipe, made.spec), made.recipe)
    info, _ = directory.info(), directory.task()
    if info["fingerprint"] != made.splits.fingerprint():
        changes.append(f"data: other contents than the run was begun with ({info['data']} → {made.splits.name})")
    if found is not None and found.info["world"] != world.size:
        changes.append(f"processes: {found.info['world']} → {world.size}")
    ranks = any(change.startswith("processes") for change in changes)
    if changes and (ranks or not allowed):
        raise UsageError(
            f"{directory.path} cannot be resumed exactly: {len(changes)} difference(s)",
            expected="the recipe, data and number of processes the run was begun with",
            received="; ".join(changes),
            do="start a new run with another --out"
            + ("" if ranks else ", or add --allow-changes to go on all the same"),
        )
    if changes and found is not None:
        _refuse_other_network(directory, found, made, stages=len(before.stages))
    return changes


def _write_changes(directory: RunDirectory, changes: Sequence[str], made: Plan, *, world: World) -> None:
    """Write the recipe, task and facts that a run goes on with."""
    info = directory.info()
    directory.replace("recipe.toml", recipe.to_toml(made.recipe).encode())
    directory.replace("task.json", _task_file(made))  # what the weights now learn from is what predictions go through
    again = {**directory.info(), **_facts(made, world=world), "started": info["started"]}
    directory.write_info({**again, "changes": [*info.get("changes", []), *changes]})


def _refuse_other_network(directory: RunDirectory, found: Checkpoint, made: Plan, *, stages: int) -> None:
    """Refuse, whatever is allowed, changes under which the checkpoint's weights fit no more, or its place is another
    stage's."""
    again = "start a new run with another --out"
    if len(made.recipe.stages) != stages:
        raise UsageError(
            f"{directory.path} has {stages} stage(s), and this recipe {len(made.recipe.stages)}",
            expected="the same stages",
            do=again,
        )
    with torch.device("meta"), bound_parts(SPARE_MODULES + 2 * len(found.model)):
        model = registry.builder(made.spec)(**made.model_args)
    try:
        check(model, found.model, f"the checkpoint of {directory.path}")
    except UsageError as error:
        raise UsageError(error.what, do=again) from error

"""Find the checkpoint that a run resumes from, validate it, and write the run's first files."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from layerwise import __version__, recipe, registry
from layerwise.errors import DamagedError, UsageError
from layerwise.planning.resolve import Plan, Request
from layerwise.recipe import Recipe
from layerwise.run_directory import FIRST_FILES, Checkpoint, RunDirectory
from layerwise.runtime import strict_json
from layerwise.runtime.checksums import FORMAT
from layerwise.runtime.distributed import World
from layerwise.training.checks import check_resume_state, check_tensors
from layerwise.training.progress import Display
from layerwise.weights.matching import check_match
from layerwise.weights.saved_model import SPARE_MODULES, limit_parameter_count

Json = dict[str, Any]


class ResumePoint(NamedTuple):
    """Where a run starts: from a checkpoint or none, as a new run or not, with what changes of its recipe or data."""

    checkpoint: Checkpoint | None = None
    is_new: bool = True
    changes: Sequence[str] = ()


def find_resume_point(
    directory: RunDirectory, request: Request, plan: Plan, *, world: World, display: Display
) -> ResumePoint:
    """Return where the run starts. This writes nothing, since later checks may still refuse the run."""
    path = directory.path
    if not (request.resume and (path / "run.json").exists()):
        if request.resume:
            display.say(f"{path} has no checkpoint: starting from scratch")
        return ResumePoint()
    directory.refuse_own_links()
    last = directory.restore("last")
    if last is None and not all((path / name).exists() for name in FIRST_FILES):
        # a kill came after run.json, which is written first
        display.say(f"{path} was stopped before it began: starting from scratch")
        return ResumePoint()
    before = recipe.from_toml(directory.read("recipe.toml"), str(path / "recipe.toml"))
    best = _check_lost(directory, last, saves=bool(before.train.checkpoint_seconds))
    pairs = (("last", last), ("best", best)) if last is not None else ()
    checkpoints = {which: checkpoint for which, checkpoint in pairs if checkpoint is not None}
    for which, checkpoint in checkpoints.items():
        check_resume_state(directory, which, checkpoint, stages=len(before.stages))
    changes = _find_changes(directory, last, before, plan, world=world, allowed=request.allow_changes)
    for which, checkpoint in checkpoints.items():
        check_tensors(directory, which, checkpoint, plan)
    if last is None and directory.info()["status"] != "finished":
        display.say(f"{path} has no checkpoint yet: starting from scratch")
    return ResumePoint(last, False, changes)


def write_first_files(directory: RunDirectory, start: ResumePoint, plan: Plan, *, world: World) -> None:
    """Write the first files of a new run, or the changes of a resumed one, and clean up what a kill left.

    To be called when all checks have passed.
    """
    world.barrier()  # every rank has read the old files before the first rank writes
    if world.is_first and start.is_new:
        files = {"recipe.toml": recipe.to_toml(plan.recipe).encode(), "task.json": _dump_task(plan)}
        directory.write_first_files(_get_run_info(plan, world=world), files)
    elif world.is_first:
        if start.changes:
            _write_changes(directory, start.changes, plan, world=world)
        directory.clean_up()
    world.barrier()


def rescale_accumulation(plan: Plan, before: Recipe) -> tuple[Plan, list[str]]:
    """Return a resume's plan with micro-batches no larger than the run's were, and a note on each change.

    ``batch_size`` is the global batch size, ``grad_accum_steps`` the number of micro-batches. A stage resumed with
    another size B′ and the same number k gets k′ = ⌈B′ / ⌈B / k⌉⌉. A stage that never accumulated, or has another k,
    stays.
    """
    stages, notes = list(plan.recipe.stages), []
    for i, (new, old) in enumerate(zip(stages, before.stages, strict=False)):
        k = old.rule.get("grad_accum_steps", 1)
        if new.name != old.name or new.batch_size == old.batch_size or k == 1 or new.rule.get("grad_accum_steps") != k:
            continue
        pieces = -(-new.batch_size // -(-old.batch_size // k))
        if pieces == k:
            continue
        stages[i] = msgspec.structs.replace(new, rule={**new.rule, "grad_accum_steps": pieces})
        notes.append(
            f"batch_size {old.batch_size} → {new.batch_size}: "
            f"rule.grad_accum_steps of stage '{new.name}' is rescaled, {k} → {pieces}"
        )
    changed = msgspec.structs.replace(plan.recipe, stages=tuple(stages))
    return dataclasses.replace(plan, recipe=changed), notes


def _check_lost(directory: RunDirectory, last: Checkpoint | None, *, saves: bool) -> Checkpoint | None:
    """Refuse to resume a run whose checkpoints are gone: training would start afresh in it, as if nothing were wrong.

    Return the best checkpoint. ``saves``: whether the run saves any.

    Raises `DamagedError` naming the checkpoint that is missing or damaged.
    """
    path = directory.path
    best = _restore_best(directory, left="last" if last is not None else "")
    finished = directory.info()["status"] == "finished"
    if last is None and saves and (finished or best is not None or directory.get_metrics_size()):
        raise _lost_error(path / "checkpoints" / "last", "best" if best is not None else "")
    serial = last.info.get("best_serial", 0) if last is not None else int(finished)
    if serial and (best is None or best.info["serial"] < serial):
        raise _lost_error(path / "checkpoints" / "best", "last" if last is not None else "")
    return best


def _restore_best(directory: RunDirectory, *, left: str) -> Checkpoint | None:
    """Return the best checkpoint. Raises `DamagedError` for a damaged one; ``left`` names the checkpoint that is left,
    from which a new run can start."""
    try:
        return directory.restore("best")
    except DamagedError as error:
        why = error.what.partition(" is damaged: ")[2]
        raise _lost_error(directory.path / "checkpoints" / "best", left, why=why) from error


def _lost_error(path: Path, left: str, *, why: str = "") -> DamagedError:
    """Return the error for a checkpoint that is missing, or damaged (``why``); ``left`` names the other one if it is
    there."""
    run = path.parents[1]
    start = f" --weights {path.with_name(left) / 'model.safetensors'}" if left else ""
    return DamagedError(
        f"{path} is {f'damaged ({why})' if why else 'missing'}, and {run} cannot be resumed without it; "
        "nothing was changed",
        expected="the checkpoints that training saved",
        do=f"restore it from a backup, or train again: layerwise train {run / 'recipe.toml'}{start} --out NEW",
    )


def _dump_task(plan: Plan) -> bytes:
    """Return the contents of task.json."""
    return msgspec.json.format(
        strict_json.dumps({"format": FORMAT, **plan.task.to_json()}, non_finite="error").encode(), indent=1
    )


def _get_run_info(plan: Plan, *, world: World) -> Json:
    """Return the contents of run.json at the start."""
    return {
        "status": "training",
        "layerwise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": {"system": platform.platform(), "processor": platform.processor() or platform.machine()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": plan.splits.name,
        "fingerprint": plan.splits.fingerprint(),
        "examples": {part: len(plan.splits.part(part)) for part in ("train", "val", "test")},
        "notes": list(plan.splits.notes),
        "columns": [column._asdict() for column in plan.splits.columns],
        "model": {"name": plan.spec.name, "arguments": plan.model_args},
        "world": world.size,
    }


def _find_changes(
    directory: RunDirectory, last: Checkpoint | None, before: Recipe, plan: Plan, *, world: World, allowed: bool
) -> list[str]:
    """Return what differs from the run so far. Raises `UsageError` for another recipe, other data or another number of
    processes, unless that is allowed."""
    changes = recipe.find_differences(before, plan.recipe)
    info, _ = directory.info(), directory.read_task()
    if info["fingerprint"] != plan.splits.fingerprint():
        changes.append(f"data: other contents than the run was begun with ({info['data']} → {plan.splits.name})")
    if last is not None and last.info["world"] != world.size:
        changes.append(f"processes: {last.info['world']} → {world.size}")
    ranks = any(change.startswith("processes") for change in changes)
    if changes and (ranks or not allowed):
        raise UsageError(
            f"{directory.path} cannot be resumed exactly: {len(changes)} difference(s)",
            expected="the recipe, data and number of processes the run was begun with",
            received="; ".join(changes),
            do="start a new run with another --out"
            + ("" if ranks else ", or add --allow-changes to go on all the same"),
        )
    if changes and last is not None:
        _refuse_other_network(directory, last, plan, stages=len(before.stages))
    return changes


def _write_changes(directory: RunDirectory, changes: Sequence[str], plan: Plan, *, world: World) -> None:
    """Write the recipe, task and run.json of a run that resumes with changes."""
    old = directory.info()
    directory.replace("recipe.toml", recipe.to_toml(plan.recipe).encode())
    directory.replace("task.json", _dump_task(plan))  # the weights now learn from these data, and predictions follow
    info = {**directory.info(), **_get_run_info(plan, world=world), "started": old["started"]}
    directory.write_info({**info, "changes": [*old.get("changes", []), *changes]})


def _refuse_other_network(directory: RunDirectory, checkpoint: Checkpoint, plan: Plan, *, stages: int) -> None:
    """Refuse, whatever is allowed, changes that the checkpoint's weights do not fit, or that move its cursor to another
    stage."""
    advice = "start a new run with another --out"
    if len(plan.recipe.stages) != stages:
        raise UsageError(
            f"{directory.path} has {stages} stage(s), and this recipe {len(plan.recipe.stages)}",
            expected="the same stages",
            do=advice,
        )
    with torch.device("meta"), limit_parameter_count(SPARE_MODULES + 2 * len(checkpoint.model)):
        model = registry.get_builder(plan.spec)(**plan.model_args)
    try:
        check_match(model, checkpoint.model, f"the checkpoint of {directory.path}")
    except UsageError as error:
        raise UsageError(error.what, do=advice) from error

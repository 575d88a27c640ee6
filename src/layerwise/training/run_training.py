"""Begin, resume and finish a run: the lock, the processes, the flags, and the records around a session."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from layerwise import recipe
from layerwise.data.batching import BatchFactory, fits_in_memory
from layerwise.data.source import MAPPED_KINDS
from layerwise.errors import DataError, StorageError, TrainingError, UsageError
from layerwise.planning.resolve import Plan, Request, make_plan
from layerwise.rules.base import NonFiniteLoss
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.runtime import compute_settings, distributed, machine
from layerwise.runtime.distributed import World
from layerwise.runtime.folder_io import remove_new_folders_on_error
from layerwise.runtime.resources import is_out_of_memory
from layerwise.training.image_cache import use_image_caches
from layerwise.training.loop import catch_stop_signals
from layerwise.training.meters import get_final_metrics
from layerwise.training.progress import Display
from layerwise.training.resume import find_resume_point, rescale_accumulation, write_first_files
from layerwise.training.session import Session
from layerwise.weights.loading import apply_weights, match_plan_weights
from layerwise.weights.matching import WeightMatch

Json = dict[str, Any]


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. ``info`` is its run.json, ``resumed`` whether it went on from a checkpoint, ``first`` whether
    this process is the first rank."""

    directory: RunDirectory
    metrics: dict[str, float]
    resumed: bool
    info: Json
    task: str
    first: bool


def train(request: Request, *, quiet: bool = False) -> TrainingResult:
    """Train and return the finished run. Every rank of a torchrun calls this; the first one writes.

    Raises:
        UsageError, DataError: before anything is written, for a wrong request or unusable data.
        TrainingError, StorageError: for a loss that is not finite or a lost process; for a full disk.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint saved.
    """
    requested_device = compute_settings.pick_device(request.device or "auto")
    plan = make_plan(request)
    options = plan.recipe.train
    device = compute_settings.pick_device(options.device) if request.device is None else requested_device
    with (
        distributed.join_world(device, options.timeout) as world,
        Display(quiet=quiet or not world.is_first) as display,
    ):
        for note in plan.splits.notes:
            display.say(note)
        path = choose_run_path(request, plan)
        weights = _load_weights(path, request, plan)
        for note in _get_weight_notes(weights, plan):
            display.say(note)
        plan = _rescale_accumulation(path, request, plan, display=display)
        world.barrier()  # every rank has looked for a free name before the first one takes it
        with _lock_run(path, request, world) as directory:
            return _run_session(request, plan, directory, weights=weights, world=world, display=display)


@contextmanager
def _lock_run(path: Path, request: Request, world: World) -> Iterator[RunDirectory]:
    """Yield the run's directory, new or resumed. The first rank locks it before anything in it is read or changed."""
    if not world.is_first:
        yield RunDirectory(path)
        return
    if request.resume and (path / "run.json").exists():
        directory = RunDirectory.open(path)
        with directory.lock():
            yield directory
        return
    with remove_new_folders_on_error(path):
        directory = RunDirectory.create(path)
        with directory.lock():
            RunDirectory.refuse_used(path)  # looks again, now that nobody else can begin here
            yield directory


def choose_run_path(request: Request, plan: Plan) -> Path:
    """Return the run's folder: ``--out``, the recipe's own on resume, else the next (on resume: newest) default."""
    if request.out is not None:
        return request.out
    own = Path(request.model)
    if own.name == "recipe.toml" and request.resume:
        return own.parent
    stem = "-".join(filter(None, (plan.spec.name, re.sub(r"[^\w-]+", "-", plan.splits.name).strip("-"))))
    numbers = [
        int(m[1]) for p in Path("runs").glob(f"{stem}-*") if (m := re.fullmatch(rf"{re.escape(stem)}-(\d+)", p.name))
    ]
    newest = max(numbers, default=0)
    return Path("runs") / f"{stem}-{max(newest, 1) if request.resume else newest + 1}"


def _load_weights(path: Path, request: Request, plan: Plan) -> WeightMatch | None:
    """Return the weights that the run begins with, fitted to the network; None where it resumes from a checkpoint.

    Raises `UsageError` or `DamagedError` before anything is written.
    """
    has_checkpoint = request.resume and any((path / "checkpoints").glob("last*"))
    return match_plan_weights(plan) if plan.recipe.weights and not has_checkpoint else None


def _get_weight_notes(weights: WeightMatch | None, plan: Plan) -> list[str]:
    """Return notes on the weights that a run begins with."""
    if weights is None:
        return []
    advice = []
    if weights.fresh and not any(stage.epochs for stage in plan.recipe.stages):
        advice.append("no stage trains the new head, so its answers are those of fresh weights")
    elif weights.fresh and len(plan.recipe.stages) == 1:
        advice.append("--transfer trains the new head first, then everything with smaller rates below")
    return [weights.note, *advice]


def _record_weights(directory: RunDirectory, weights: WeightMatch, plan: Plan, *, world: World) -> None:
    """Write into run.json what weights the run began with."""
    if world.is_first:
        info = directory.info()
        # an attempt without a checkpoint may have written the notes before
        notes = dict.fromkeys([*info["notes"], *_get_weight_notes(weights, plan)])
        directory.write_info({**info, "notes": list(notes), "weights": weights.report()})


def _rescale_accumulation(path: Path, request: Request, plan: Plan, *, display: Display) -> Plan:
    """Return the plan with accumulation rescaled where a resume changes the batch size."""
    if not (request.resume and request.allow_changes and (path / "run.json").exists()):
        return plan
    before = recipe.from_toml(RunDirectory.open(path).read("recipe.toml"), str(path))
    plan, notes = rescale_accumulation(plan, before)
    for note in notes:
        display.say(note)
    return plan


def _run_session(
    request: Request,
    plan: Plan,
    directory: RunDirectory,
    *,
    weights: WeightMatch | None,
    world: World,
    display: Display,
) -> TrainingResult:
    """Run the training session with its compute settings, then finish the run."""
    options = plan.recipe.train
    start = find_resume_point(directory, request, plan, world=world, display=display)
    checkpoint, info = start.checkpoint, {} if start.is_new else directory.info()
    if info.get("status") == "finished" and (checkpoint is None or not _is_unfinished(checkpoint, plan)):
        write_first_files(directory, start, plan, world=world)
        display.say(f"{directory.path} is already finished")
        return TrainingResult(directory, get_final_metrics(info), True, info, plan.task.name, world.is_first)
    streams = options.workers < 0 or not all(
        fits_in_memory(
            plan.splits.part(part), plan.task.collate, options.memory_mib, compute_settings.get_dtype(options.precision)
        )
        for part in ("train", "val")
    )
    cached = plan.splits.train.schema.kind in MAPPED_KINDS
    if streams and not cached:
        plan, cached = use_image_caches(plan, world=world, display=display)
    flags = compute_settings.resolve(
        device=str(world.device),
        precision=options.precision,
        threads=options.threads,
        workers=max(0, options.workers),
        streams=streams and options.workers >= 0 and not (cached and options.workers == 0),
        deterministic=options.deterministic,
        world=world.size,
    )
    if checkpoint is not None:  # its flags were checked before; only the same threads and kernels resume exactly
        flags = msgspec.convert(checkpoint.info["flags"], compute_settings.ComputeSettings)
    batch_factory = BatchFactory(world, compute_settings.get_dtype(options.precision), flags, streams, options.timeout)
    began = False
    with compute_settings.use_settings(flags), catch_stop_signals() as stop:
        try:
            session = Session(
                plan,
                directory,
                world=world,
                batch_factory=batch_factory,
                display=display,
                stop=stop,
                allow_changes=request.allow_changes,
            )
            if plan.recipe.weights and checkpoint is None:
                weights = weights or match_plan_weights(plan)  # a first checkpoint that a kill left unfinished is none
                apply_weights(session.model, weights)
            session.check(checkpoint)
            try:
                write_first_files(directory, start, plan, world=world)
            except StorageError:
                if start.is_new and world.is_first:
                    directory.withdraw()
                raise
            began = start.is_new and world.is_first
            if weights is not None and checkpoint is None:
                _record_weights(directory, weights, plan, world=world)
            metrics = session.run(checkpoint)
        except (UsageError, DataError):
            if began:
                directory.withdraw()
            raise
        except NonFiniteLoss as error:
            session.write_failure(error)
            raise
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _out_of_memory_error(plan, world.device) from error
            if refused := compute_settings.make_determinism_error(error):
                raise refused from error
            raise
        return _finish_run(session, metrics, resumed=checkpoint is not None, lang=request.lang)


def _out_of_memory_error(plan: Plan, device: torch.device) -> TrainingError:
    """Return an error that advises a smaller --batch-size and, where a rule supports it, gradient accumulation."""
    stages = plan.recipe.stages
    pieces = [s.rule["grad_accum_steps"] for s in stages if "grad_accum_steps" in s.rule]
    advice = "use a smaller --batch-size"
    if pieces:
        key = "rule.grad_accum_steps" if len(stages) == 1 else f"stages.{stages[-1].name}.rule.grad_accum_steps"
        advice += f", or --set {key}={4 * max(pieces)} for the same result in smaller pieces"
    return TrainingError(
        f"{device} has no memory left for batches of {', '.join(str(s.batch_size) for s in stages)}",
        expected="memory for one batch's activations and gradients beside the weights",
        do=f"{advice}; with --resume --allow-changes the run goes on from its last checkpoint",
    )


def _is_unfinished(checkpoint: Checkpoint, plan: Plan) -> bool:
    """Whether a checkpoint lies before the recipe's end (a finished run may get more epochs)."""
    stage, epoch, _ = checkpoint.info["cursor"]
    last = len(plan.recipe.stages) - 1
    return bool(stage < last or (epoch < plan.recipe.stages[last].epochs and not checkpoint.info["stage_over"]))


def _finish_run(
    session: Session, metrics: dict[str, float], *, resumed: bool, lang: Literal["en", "zh"]
) -> TrainingResult:
    """Write the report and the final run.json."""
    directory, state = session.directory, session.state
    info = {
        **directory.info(),
        "status": "training",  # until the report is written, so that a kill before that leaves it to a resume
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(state.seconds(), 3),
        "epochs": state.best.epoch,
        "metrics": metrics,
        "flags": msgspec.to_builtins(session.batch_factory.settings),
        "metrics_bytes": directory.get_metrics_size(),
        "verdicts": [list(pair) for pair in state.notes],
        "history": state.history,
    }
    if session.world.is_first:
        directory.write_info(info)
        for note in _try_write_page(session, lang=lang):
            session.display.say(f"warning: {note[0]}")
            info["verdicts"] = [*info["verdicts"], list(note)]
        pages = [
            name for name in directory.list_checksummed_files() if name.startswith(("report", "figures", "tensorboard"))
        ]
        info["status"] = "finished"
        directory.write_info(info, new_files=pages)
    session.world.barrier()
    return TrainingResult(directory, metrics, resumed, info, session.plan.task.name, session.world.is_first)


def _try_write_page(session: Session, *, lang: Literal["en", "zh"]) -> list[tuple[str, str]]:
    """Write the report; return notes on what it lacks. Only a full disk (`StorageError`) fails a run that has ended."""
    try:
        return write_page(session, lang=lang) or []
    except StorageError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        return [(f"the report could not be written ({why})", f"报告生成失败（{why}）")]


def write_page(session: Session, *, lang: Literal["en", "zh"]) -> list[tuple[str, str]]:
    """Write report.html of a run that has ended, from the test part; return notes on parts that are missing."""
    from layerwise.inspection.predictions import compute_predictions

    plan = session.plan
    alone = World(device=session.device)  # for the whole part, not a rank's share
    batch_factory = dataclasses.replace(session.batch_factory, world=alone)
    batches = batch_factory.evaluation_batches(plan.splits.test, plan.task.collate)
    predictions = compute_predictions(session.model, plan.task, batches)
    machine.release_free_memory()  # what the evaluation held, before there are drawings
    from layerwise.report.page import write_report  # matplotlib is slow to import, and training begins without it

    return write_report(
        session.directory,
        session.model,
        plan.task,
        predictions=predictions,
        source=plan.splits.test,
        splits=plan.splits,
        lang=lang,
    )

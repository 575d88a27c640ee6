"""Begin, resume and finish a run: the lock, the processes, the flags, the records around a session."""

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

from layerwise import recipe
from layerwise.data.batching import Feed, fits
from layerwise.data.source import MAPPED
from layerwise.errors import DataError, StorageError, UsageError
from layerwise.planning.resolve import Plan, Request, plan
from layerwise.rules.base import NonFiniteLoss
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.runtime import compute_settings, distributed, machine
from layerwise.runtime.distributed import World
from layerwise.runtime.folder_io import remove_new_folders_on_error
from layerwise.runtime.shortage import ran_out
from layerwise.training import image_cache
from layerwise.training.memory import out_of_memory, rescaled
from layerwise.training.meters import metrics_of
from layerwise.training.progress import Display
from layerwise.training.run_opening import open_run, write_opening
from layerwise.training.session import Session
from layerwise.training.signals import caught
from layerwise.weights import Fit, planned, put

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A finished run: its directory, final metrics, whether it went on from a checkpoint, what run.json says; and
    whether this process is the one that speaks for it."""

    directory: RunDirectory
    metrics: dict[str, float]
    resumed: bool
    info: Json
    task: str
    first: bool


def train(request: Request, *, quiet: bool = False) -> Outcome:
    """Train as asked and return the finished run. Every rank of a torchrun calls this; the first one writes.

    Raises:
        UsageError, DataError: before anything is written, for a wrong request or unusable data.
        TrainingError, StorageError: for a loss that is not finite or a lost process; for a full disk.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint saved.
    """
    torch_device = compute_settings.pick_device(request.device or "auto")
    made = plan(request)
    options = made.recipe.train
    device = compute_settings.pick_device(options.device) if request.device is None else torch_device
    with distributed.world(device, options.timeout) as world, Display(quiet=quiet or not world.first) as display:
        for note in made.splits.notes:
            display.say(note)
        path = place(request, made)
        weights = _weights(path, request, made)
        for note in _told(weights, made):
            display.say(note)
        made = _same_pieces(path, request, made, display=display)
        world.barrier()  # every rank has looked for a free name before the first one takes it
        with _locked(path, request, world) as directory:
            return _session(request, made, directory, weights=weights, world=world, display=display)


@contextmanager
def _locked(path: Path, request: Request, world: World) -> Iterator[RunDirectory]:
    """Yield the run's directory, new or found; the first rank holds its lock before anything in it is read or
    changed."""
    if not world.first:
        yield RunDirectory(path)
        return
    if request.resume and (path / "run.json").exists():
        directory = RunDirectory.open(path)
        with directory.locked():
            yield directory
        return
    with remove_new_folders_on_error(path):
        directory = RunDirectory.create(path)
        with directory.locked():
            RunDirectory.refuse_used(path)  # looks again, now that nobody else can begin here
            yield directory


def place(request: Request, made: Plan) -> Path:
    """Return the run's folder: the one named, the recipe's own on resume, else the next (or, on resume, newest)
    default."""
    if request.out is not None:
        return request.out
    own = Path(request.model)
    if own.name == "recipe.toml" and request.resume:
        return own.parent
    stem = "-".join(filter(None, (made.spec.name, re.sub(r"[^\w-]+", "-", made.splits.name).strip("-"))))
    numbers = [
        int(m[1]) for p in Path("runs").glob(f"{stem}-*") if (m := re.fullmatch(rf"{re.escape(stem)}-(\d+)", p.name))
    ]
    newest = max(numbers, default=0)
    return Path("runs") / f"{stem}-{max(newest, 1) if request.resume else newest + 1}"


def _weights(path: Path, request: Request, made: Plan) -> Fit | None:
    """Return the weights to begin with, which fit the network; none where a checkpoint goes on from them.

    Raises `UsageError` or `DamagedError` before anything is written.
    """
    begun = request.resume and any((path / "checkpoints").glob("last*"))
    return planned(made) if made.recipe.weights and not begun else None


def _told(weights: Fit | None, made: Plan) -> list[str]:
    """Return what a user should know of the weights a run begins with."""
    if weights is None:
        return []
    advice = []
    if weights.fresh and not any(stage.epochs for stage in made.recipe.stages):
        advice.append("no stage trains the new head, so its answers are those of fresh weights")
    elif weights.fresh and len(made.recipe.stages) == 1:
        advice.append("--transfer trains the new head first, then everything with smaller rates below")
    return [weights.note, *advice]


def _record(directory: RunDirectory, weights: Fit, made: Plan, *, world: World) -> None:
    """Write into run.json what the run began with."""
    if world.first:
        info = directory.info()
        notes = dict.fromkeys(
            [*info["notes"], *_told(weights, made)]
        )  # once, though an attempt without a checkpoint said it before
        directory.write_info({**info, "notes": list(notes), "weights": weights.report()})


def _same_pieces(path: Path, request: Request, made: Plan, *, display: Display) -> Plan:
    """Return the plan with accumulation rescaled where a resume changes the batch (F20)."""
    if not (request.resume and request.allow_changes and (path / "run.json").exists()):
        return made
    before = recipe.from_toml(RunDirectory.open(path).read("recipe.toml"), str(path))
    made, told = rescaled(made, before)
    for note in told:
        display.say(note)
    return made


def _session(
    request: Request, made: Plan, directory: RunDirectory, *, weights: Fit | None, world: World, display: Display
) -> Outcome:
    """Run the session under its flags, and finish the run."""
    options = made.recipe.train
    opening = open_run(directory, request, made, world=world, display=display)
    found, info = opening.found, {} if opening.begins else directory.info()
    if info.get("status") == "finished" and (found is None or not _unfinished(found, made)):
        write_opening(directory, opening, made, world=world)
        display.say(f"{directory.path} is finished already")
        return Outcome(directory, metrics_of(info), True, info, made.task.name, world.first)
    streams = options.workers < 0 or not all(
        fits(made.splits.part(part), made.task.collate, options.memory_mib, compute_settings.dtype(options.precision))
        for part in ("train", "val")
    )
    cached = made.splits.train.schema.kind in MAPPED
    if streams and not cached:
        made, cached = image_cache.kept(made, world=world, display=display)
    set_flags = compute_settings.resolve(
        device=str(world.device),
        precision=options.precision,
        threads=options.threads,
        workers=max(0, options.workers),
        streams=streams and options.workers >= 0 and not (cached and options.workers == 0),
        deterministic=options.deterministic,
        world=world.size,
    )
    if found is not None:
        set_flags = msgspec.convert(
            found.info["flags"], compute_settings.Flags
        )  # checked before; exact only with the same threads and routes
    feed = Feed(world, compute_settings.dtype(options.precision), set_flags, streams, options.timeout)
    begun = False
    with compute_settings.applied(set_flags), caught() as stop:
        try:
            session = Session(made, directory, world=world, feed=feed, display=display, stop=stop)
            session.may_differ = request.allow_changes
            if made.recipe.weights and found is None:
                weights = weights or planned(made)  # a first checkpoint that a kill left unfinished is none
                put(session.model, weights)
            session.check(found)
            try:
                write_opening(directory, opening, made, world=world)
            except StorageError:
                if opening.begins and world.first:
                    directory.withdraw()
                raise
            begun = opening.begins and world.first
            if weights is not None and found is None:
                _record(directory, weights, made, world=world)
            metrics = session.run(found)
        except (UsageError, DataError):
            if begun:
                directory.withdraw()
            raise
        except NonFiniteLoss as error:
            session.failed(error)
            raise
        except (RuntimeError, MemoryError) as error:
            if ran_out(error):
                raise out_of_memory(made, world.device) from error
            if refused := compute_settings.unrepeatable(error):
                raise refused from error
            raise
        return _finished(session, metrics, resumed=found is not None, lang=request.lang)


def _unfinished(found: Checkpoint, made: Plan) -> bool:
    """Whether a checkpoint lies before the recipe's end (a finished run may get more epochs)."""
    stage, epoch, _ = found.info["cursor"]
    last = len(made.recipe.stages) - 1
    return bool(stage < last or (epoch < made.recipe.stages[last].epochs and not found.info["stage_over"]))


def _finished(session: Session, metrics: dict[str, float], *, resumed: bool, lang: Literal["en", "zh"]) -> Outcome:
    """Write the report and the final run.json."""
    directory = session.directory
    info = {
        **directory.info(),
        "status": "training",  # until the report is written, so that a kill before that leaves it to a resume
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(session.seconds(), 3),
        "epochs": session.best.epoch,
        "metrics": metrics,
        "flags": msgspec.to_builtins(session.feed.flags),
        "metrics_bytes": directory.metrics_size(),
        "verdicts": [list(pair) for pair in session.notes],
        "history": session.history,
    }
    if session.world.first:
        directory.write_info(info)
        for note in _page(session, lang=lang):
            session.display.say(f"warning: {note[0]}")
            info["verdicts"] = [*info["verdicts"], list(note)]
        pages = [name for name in directory.plain_files() if name.startswith(("report", "figures", "tensorboard"))]
        info["status"] = "finished"
        directory.write_info(info, written=pages)
    session.world.barrier()
    return Outcome(directory, metrics, resumed, info, session.plan.task.name, session.world.first)


def _page(session: Session, *, lang: Literal["en", "zh"]) -> list[tuple[str, str]]:
    """Write the page; return notes on what it lacks. Whatever happens, the run has ended well, but for a full disk
    (`StorageError`)."""
    try:
        return write_page(session, lang=lang) or []
    except StorageError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        return [(f"the report could not be written ({why})", f"报告生成失败（{why}）")]


def write_page(session: Session, *, lang: Literal["en", "zh"]) -> list[tuple[str, str]]:
    """Write report.html of a run that has ended, from the test part; return notes on parts that could not be made."""
    from layerwise.inspection.predictions import answers

    plan = session.plan
    alone = dataclasses.replace(session.feed, world=World(device=session.device))  # the whole part, not a rank's share
    batches = alone.evaluation(plan.splits.test, plan.task.collate)
    found = answers(session.model, plan.task, batches)
    machine.give_back()  # what the evaluation held, before there are drawings
    from layerwise.report.page import write_report  # matplotlib is slow to import, and training begins without it

    return write_report(
        session.directory, session.model, plan.task, found=found, source=plan.splits.test, splits=plan.splits, lang=lang
    )

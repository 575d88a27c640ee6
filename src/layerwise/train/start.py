"""Begin, resume and finish a run: the lock, the processes, the flags, the records around a session."""

from __future__ import annotations

import dataclasses
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from layerwise import __version__, catalog, recipe, strict_json
from layerwise.data.feed import Feed, fits
from layerwise.data.source import MAPPED
from layerwise.durable import FORMAT
from layerwise.errors import TrainingError, UsageError
from layerwise.planning.earlier import completed
from layerwise.planning.resolve import Plan, Request, plan
from layerwise.rules.base import NonFiniteLoss
from layerwise.run import Checkpoint, RunDirectory
from layerwise.runtime import distributed, flags, machine
from layerwise.runtime.distributed import World
from layerwise.runtime.shortage import ran_out
from layerwise.train import pictures
from layerwise.train.memory import out_of_memory, rescaled
from layerwise.train.progress import Display
from layerwise.train.records import metrics_of
from layerwise.train.session import Session
from layerwise.train.signals import caught
from layerwise.weights import Fit, check, planned, put

Json = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A finished run: its directory, final metrics, whether it went on from a checkpoint, what run.json says; and whether this
    process is the one that speaks for it."""

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
        TrainingError: for a loss that is not finite, a lost process, a full disk.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint saved.
    """
    torch_device = flags.pick_device(request.device or "auto")
    made = plan(request)
    options = made.recipe.train
    device = flags.pick_device(options.device) if request.device is None else torch_device
    with distributed.world(device, options.timeout) as world, Display(quiet=quiet or not world.first) as display:
        for note in made.splits.notes:
            display.say(note)
        path = place(request, made)
        weights = _weights(path, request, made)
        for note in _told(weights, made):
            display.say(note)
        made = _same_pieces(path, request, made, display=display)
        world.barrier()  # every rank has looked for a free name before the first one takes it
        directory, found = _opened(path, request, made, world=world, display=display)
        if not world.first:
            return _session(request, made, directory, found=found, weights=weights, world=world, display=display)
        try:
            with directory.locked():
                directory.tidy()
                return _session(request, made, directory, found=found, weights=weights, world=world, display=display)
        except UsageError:
            if not request.resume:
                directory.withdraw()
            raise


def place(request: Request, made: Plan) -> Path:
    """Return the run's folder: the one named, the recipe's own on resume, else the next (or, on resume, newest) default."""
    if request.out is not None:
        return request.out
    own = Path(request.model)
    if own.name == "recipe.toml" and request.resume:
        return own.parent
    stem = "-".join(filter(None, (made.card.name, re.sub(r"[^\w-]+", "-", made.splits.name).strip("-"))))
    numbers = [int(m[1]) for p in Path("runs").glob(f"{stem}-*") if (m := re.fullmatch(rf"{re.escape(stem)}-(\d+)", p.name))]
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
        notes = dict.fromkeys([*info["notes"], *_told(weights, made)])  # once, though an attempt without a checkpoint said it before
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


def _opened(
    path: Path, request: Request, made: Plan, *, world: World, display: Display
) -> tuple[RunDirectory, Checkpoint | None]:
    """Return the run directory, new or found, and the checkpoint to go on from."""
    if request.resume and (path / "run.json").exists():
        directory = RunDirectory.open(path)
        found = directory.restore("last")
        _refuse_changes(directory, found, made, world=world, allowed=request.allow_changes)
        if found is None:
            display.say(f"{path} has no checkpoint yet: starting afresh")
        world.barrier()  # every rank has read the checkpoint before the first one tidies up
        return directory, found
    if request.resume:
        display.say(f"{path} has no checkpoint: starting afresh")
    if world.first:
        directory = RunDirectory.create(path)
        directory.write("recipe.toml", recipe.to_toml(made.recipe).encode())
        directory.write("task.json", _task_file(made))
        directory.write_info(_facts(made, world=world), written=("recipe.toml", "task.json"))
    world.barrier()
    return RunDirectory(path), None


def _task_file(made: Plan) -> bytes:
    """Return what task.json holds."""
    return msgspec.json.format(strict_json.dumps({"format": FORMAT, **made.task.to_json()}, non_finite="error").encode(), indent=1)


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
        "model": {"name": made.card.name, "arguments": made.model_args},
        "world": world.size,
    }


def _refuse_changes(
    directory: RunDirectory, found: Checkpoint | None, made: Plan, *, world: World, allowed: bool
) -> None:
    """Refuse to resume with another recipe, other data or another number of processes (F25), unless that is allowed."""
    before = recipe.from_toml(directory.read("recipe.toml"), str(directory.path))
    changes = recipe.differences(completed(before, made.recipe, made.card), made.recipe)
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
            do="start a new run with another --out" + ("" if ranks else ", or add --allow-changes to go on all the same"),
        )
    if changes and found is not None:
        _refuse_other_network(directory, found, made, stages=len(before.stages))
    if changes and world.first:
        directory.replace("recipe.toml", recipe.to_toml(made.recipe).encode())
        directory.replace("task.json", _task_file(made))  # what the weights now learn from is what predictions go through
        again = {**directory.info(), **_facts(made, world=world), "started": info["started"]}
        directory.write_info({**again, "changes": [*info.get("changes", []), *changes]})


def _refuse_other_network(directory: RunDirectory, found: Checkpoint, made: Plan, *, stages: int) -> None:
    """Refuse, whatever is allowed, changes under which the checkpoint's weights fit no more, or its place is another stage's."""
    again = "start a new run with another --out"
    if len(made.recipe.stages) != stages:
        raise UsageError(
            f"{directory.path} has {stages} stage(s), and this recipe {len(made.recipe.stages)}", expected="the same stages", do=again
        )
    with torch.device("meta"):
        model = catalog.builder(made.card)(**made.model_args)
    try:
        check(model, found.model, f"the checkpoint of {directory.path}")
    except UsageError as error:
        raise UsageError(error.what, do=again) from error


def _session(
    request: Request, made: Plan, directory: RunDirectory, *, found: Checkpoint | None, weights: Fit | None, world: World,
    display: Display,
) -> Outcome:  # fmt: skip
    """Run the session under its flags, and finish the run."""
    options = made.recipe.train
    info = directory.info()
    if found is not None and info["status"] == "finished" and not _unfinished(found, made):
        display.say(f"{directory.path} is finished already")
        return Outcome(directory, metrics_of(info), True, info, made.task.name, world.first)
    streams = options.workers < 0 or not all(
        fits(made.splits.part(part), made.task.collate, options.memory_mib, flags.dtype(options.precision)) for part in
        ("train", "val")
    )
    cached = made.splits.train.schema.kind in MAPPED
    if streams and not cached:
        made, cached = pictures.kept(made, world=world, display=display)
    set_flags = flags.resolve(
        device=str(world.device), precision=options.precision, threads=options.threads, workers=max(0, options.workers),
        streams=streams and options.workers >= 0 and not (cached and options.workers == 0), deterministic=options.deterministic,
        world=world.size,
    )  # fmt: skip
    if found is not None:
        set_flags = msgspec.convert(found.info["flags"], flags.Flags)  # exact only with the same threads and routes
    feed = Feed(world, flags.dtype(options.precision), set_flags, streams, options.timeout)
    with flags.applied(set_flags), caught() as stop:
        try:
            session = Session(made, directory, world=world, feed=feed, display=display, stop=stop)
            if made.recipe.weights and found is None:
                weights = weights or planned(made)  # a first checkpoint that a kill left unfinished is none
                put(session.model, weights)
                _record(directory, weights, made, world=world)
            metrics = session.run(found)
        except NonFiniteLoss as error:
            session.failed(error)
            raise
        except (RuntimeError, MemoryError) as error:
            if ran_out(error):
                raise out_of_memory(made, world.device) from error
            if refused := flags.unrepeatable(error):
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
        "verdicts": [list(pair) for pair in session.notes],
        "history": session.history,
    }
    if session.world.first:
        directory.write_info(info)
        for note in _page(session, lang=lang):
            session.display.say(f"warning: {note[0]}")
            info["verdicts"] = [*info["verdicts"], list(note)]
        pages = [name for name in directory.plain_files() if name.startswith(("report", "figures"))]
        info["status"] = "finished"
        directory.write_info(info, written=pages)
    session.world.barrier()
    return Outcome(directory, metrics, resumed, info, session.plan.task.name, session.world.first)


def _page(session: Session, *, lang: Literal["en", "zh"]) -> list[tuple[str, str]]:
    """Write the page; return notes on what it lacks. Whatever happens, the run has ended well, but for a full disk (`TrainingError`)."""
    try:
        return write_page(session, lang=lang) or []
    except TrainingError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        return [(f"the report could not be written ({why})", f"报告生成失败（{why}）")]


def write_page(session: Session, *, lang: Literal["en", "zh"]) -> list[tuple[str, str]]:
    """Write report.html of a run that has ended, from the test part; return notes on parts that could not be made."""
    from layerwise.inspect.answers import answers

    plan = session.plan
    alone = dataclasses.replace(session.feed, world=World(device=session.device))  # the whole part, not a rank's share
    batches = alone.evaluation(plan.splits.test, plan.task.collate)
    found = answers(session.model, plan.task, batches)
    machine.give_back()  # what the evaluation held, before there are drawings
    from layerwise.report.page import write_report  # matplotlib is slow to import, and training begins without it

    return write_report(
        session.directory, session.model, plan.task, found=found, source=plan.splits.test, splits=plan.splits, lang=lang
    )

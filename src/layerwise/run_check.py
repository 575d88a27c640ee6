"""Check a run for `doctor RUN`: name every file that is damaged, missing or not a file of the run."""

from __future__ import annotations

from collections.abc import Callable

from layerwise import recipe
from layerwise.errors import LayerwiseError
from layerwise.run_directory import RunDirectory, find_checkpoint_problems, read_state
from layerwise.run_records import read_bounded
from layerwise.runtime.checksums import Json, load_checksummed

Problems = dict[str, str]


def verify(directory: RunDirectory) -> Problems:
    """Check every file of a run. Return each file's name with an empty text if it is as it was written, else what is
    wrong with it."""
    problems: Problems = {}
    _check(problems, "run.json", directory.info)
    info = {} if problems["run.json"] else directory.info()
    for name in sorted({*info.get("files", {}), *directory.list_checksummed_files()}) if info else ():
        _check(problems, name, lambda name=name: directory.read(name))  # type: ignore[misc]
    _check(problems, "metrics.jsonl", lambda: sum(1 for _ in directory.iter_metrics()))
    path = directory.path / "failure.json"
    if path.exists():
        _check(problems, "failure.json", lambda: load_checksummed(read_bounded(path, root=directory.path), path))
    states = {which: _check_checkpoint(problems, directory, which) for which in ("last", "best")}
    if info:
        _add_missing(problems, directory, info, states)
    return problems


def _check(problems: Problems, name: str, check: Callable[[], object]) -> None:
    """Add what a check says of a file."""
    try:
        check()
        problems[name] = ""
    except LayerwiseError as error:
        problems[name] = error.what.split(" is damaged: ")[-1]


def _check_checkpoint(problems: Problems, directory: RunDirectory, which: str) -> Json | None:
    """Add the problems of a checkpoint that is there; return its state.json if that can be read."""
    folder = directory.path / "checkpoints" / which
    if not (folder.exists() or folder.is_symlink()):
        return None

    def check() -> tuple[Problems, Json | None]:
        problems = find_checkpoint_problems(folder, root=directory.path)
        return problems, None if problems["state.json"] else read_state(folder, root=directory.path)

    new: Problems
    state: Json | None
    new, state = directory.read_consistently(which, check)
    problems.update({f"checkpoints/{which}/{name}": problem for name, problem in new.items()})
    return state


def _add_missing(problems: Problems, directory: RunDirectory, info: Json, states: dict[str, Json | None]) -> None:
    """Add what a run in this state should have and has not: checkpoints, and as much of the log as they say."""
    finished = info["status"] == "finished"
    last, saves = states["last"], _has_checkpointing(directory)
    begun = finished or directory.get_metrics_size() > 0 or "checkpoints/best/state.json" in problems
    if saves and begun and "checkpoints/last/state.json" not in problems:
        problems["checkpoints/last/state.json"] = "it is missing"
    has_best = finished or (last is not None and last.get("best_serial", 0))
    if has_best and "checkpoints/best/state.json" not in problems:
        problems["checkpoints/best/state.json"] = "it is missing"
    wanted = max(info.get("metrics_bytes", 0) if finished else 0, last.get("metrics_bytes", 0) if last else 0)
    if not problems["metrics.jsonl"] and directory.get_metrics_size() < wanted:
        problems["metrics.jsonl"] = f"it has {directory.get_metrics_size():,} bytes, and {wanted:,} were written"
    for name in ("recipe.toml", "task.json"):
        problems.setdefault(name, "it is missing")


def _has_checkpointing(directory: RunDirectory) -> bool:
    """Whether a run's recipe saves checkpoints while it trains."""
    path = directory.path / "recipe.toml"
    try:
        return recipe.from_toml(directory.read("recipe.toml"), str(path)).train.checkpoint_seconds > 0
    except LayerwiseError:
        return False  # the recipe itself is named

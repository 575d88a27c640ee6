"""What `doctor RUN` finds: every file of a run that is damaged, is missing though it should be there, or is no file of
its own."""

from __future__ import annotations

from collections.abc import Callable

from layerwise import recipe
from layerwise.errors import LayerwiseError
from layerwise.run_directory import RunDirectory, checkpoint_problems, read_state
from layerwise.run_records import read_bounded
from layerwise.runtime.checksums import Json, unsealed

Problems = dict[str, str]


def verify(directory: RunDirectory) -> Problems:
    """Check every file of a run. Returns each file's name with an empty text if it is as it was written, else what is
    wrong with it."""
    found: Problems = {}
    _look(found, "run.json", directory.info)
    info = {} if found["run.json"] else directory.info()
    for name in sorted({*info.get("files", {}), *directory.plain_files()}) if info else ():
        _look(found, name, lambda name=name: directory.read(name))  # type: ignore[misc]
    _look(found, "metrics.jsonl", lambda: sum(1 for _ in directory.iter_metrics()))
    path = directory.path / "failure.json"
    if path.exists():
        _look(found, "failure.json", lambda: unsealed(read_bounded(path, root=directory.path), path))
    states = {which: _check_checkpoint(found, directory, which) for which in ("last", "best")}
    if info:
        _name_missing(found, directory, info, states)
    return found


def _look(found: Problems, name: str, check: Callable[[], object]) -> None:
    """Note what a check says of a file."""
    try:
        check()
        found[name] = ""
    except LayerwiseError as error:
        found[name] = error.what.split(" is damaged: ")[-1]


def _check_checkpoint(found: Problems, directory: RunDirectory, which: str) -> Json | None:
    """Note the problems of a checkpoint that is there; return its state.json if that can be read."""
    folder = directory.path / "checkpoints" / which
    if not (folder.exists() or folder.is_symlink()):
        return None

    def look() -> tuple[Problems, Json | None]:
        problems = checkpoint_problems(folder, root=directory.path)
        return problems, None if problems["state.json"] else read_state(folder, root=directory.path)

    problems: Problems
    state: Json | None
    problems, state = directory.read_steadily(which, look)
    found.update({f"checkpoints/{which}/{name}": problem for name, problem in problems.items()})
    return state


def _name_missing(found: Problems, directory: RunDirectory, info: Json, states: dict[str, Json | None]) -> None:
    """Note what a run in this state should have and has not: checkpoints, and as much of the log as they say."""
    finished = info["status"] == "finished"
    last, saves = states["last"], _saves(directory)
    begun = finished or directory.metrics_size() > 0 or "checkpoints/best/state.json" in found
    if saves and begun and "checkpoints/last/state.json" not in found:
        found["checkpoints/last/state.json"] = "it is missing"
    if (finished or (last is not None and last.get("best_serial", 0))) and "checkpoints/best/state.json" not in found:
        found["checkpoints/best/state.json"] = "it is missing"
    wanted = max(info.get("metrics_bytes", 0) if finished else 0, last.get("metrics_bytes", 0) if last else 0)
    if not found["metrics.jsonl"] and directory.metrics_size() < wanted:
        found["metrics.jsonl"] = f"it has {directory.metrics_size():,} bytes, and {wanted:,} were written"
    for name in ("recipe.toml", "task.json"):
        found.setdefault(name, "it is missing")


def _saves(directory: RunDirectory) -> bool:
    """Whether a run's recipe saves while it trains."""
    try:
        return (
            recipe.from_toml(
                directory.read("recipe.toml"), str(directory.path / "recipe.toml")
            ).train.checkpoint_seconds
            > 0
        )
    except LayerwiseError:
        return False  # the recipe itself is named

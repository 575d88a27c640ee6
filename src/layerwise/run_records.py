"""What run.json and a checkpoint's state.json hold, typed: a stranger's file is data, and is checked before it is
used."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from layerwise.runtime.checksums import make_damaged_error
from layerwise.runtime.compute_settings import ComputeSettings
from layerwise.runtime.write_checks import is_plain_file

MAX_BYTES = 1 << 26  # bytes of run.json, task.json, recipe.toml, state.json
Text = Annotated[str, msgspec.Meta(max_length=1 << 16)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Number = float | None
Rows = Annotated[list[dict[str, Any]], msgspec.Meta(max_length=1 << 20)]


class HistoryRow(msgspec.Struct, frozen=True):
    """An epoch of a stage; its other keys are metrics."""

    stage: Text
    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


History = Annotated[list[HistoryRow], msgspec.Meta(max_length=1 << 20)]


class Metrics(msgspec.Struct, frozen=True):
    """A history without its stages' names: numbers, null for those that are not finite."""

    history: list[dict[str, Number]]


OWN_FILES = re.compile(
    r"recipe\.toml|task\.json|report\.html|(figures|tensorboard)/[^\0]+"
)  # that run.json may vouch for


class ModelInfo(msgspec.Struct, frozen=True):
    """The network of a run: its name in the registry, and its builder's arguments."""

    name: Text
    arguments: dict[str, Any]


class RunInfo(msgspec.Struct, frozen=True):
    """What run.json must hold and what it may; other keys are left alone."""

    status: Literal["training", "finished"]
    files: dict[str, Digest | tuple[Digest | None, Digest]]
    data: Text
    fingerprint: Text
    examples: dict[str, int]
    notes: list[Text]
    columns: Rows
    model: ModelInfo
    world: Annotated[int, msgspec.Meta(ge=1)]
    layerwise: Text = ""
    torch: Text = ""
    python: Text = ""
    host: dict[str, Text] = {}
    started: Text = ""
    finished: Text = ""
    seconds: float = 0.0
    epochs: int = 0
    metrics: dict[str, Number] = {}
    metrics_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    flags: dict[str, Any] = {}
    verdicts: list[tuple[Text, Text]] = []
    history: History = []
    changes: list[Text] = []
    weights: dict[str, Any] = {}


Position = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class BestRecord(msgspec.Struct, frozen=True):
    """The best epoch of a stage, as a checkpoint keeps it."""

    stage: Position
    value: float | None
    epoch: Position
    waited: Position


class CheckpointInfo(msgspec.Struct, frozen=True):
    """What state.json must hold; other keys are left alone."""

    files: dict[Literal["model.safetensors", "state.safetensors"], Digest]
    serial: int
    cursor: tuple[Position, Position, Position] = (0, 0, 0)
    batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] = 1
    stage_over: bool = False
    best: BestRecord | None = None
    best_serial: Amount = 0
    seconds: Seconds = 0.0
    steps: Amount = 0
    examples: Amount = 0
    notes: list[tuple[Text, Text]] = []
    history: History = []
    metrics_bytes: Amount = 0
    world: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1
    flags: dict[str, Any] = {}


class ResumeInfo(msgspec.Struct, frozen=True):
    """What training goes on from: the part of state.json that must be there then."""

    cursor: tuple[Position, Position, Position]
    stage_over: bool
    best: BestRecord
    best_serial: Amount
    serial: Amount
    seconds: Seconds
    steps: Amount
    examples: Amount
    notes: list[tuple[Text, Text]]
    history: History
    metrics_bytes: Amount
    world: int
    flags: ComputeSettings


def check_record(content: Any, kind: type[msgspec.Struct], path: Path) -> None:
    """Raise `DamagedError` naming the file and the field if content is not of a kind."""
    try:
        msgspec.convert(content, kind)
        rows = []
        for row in content.get("history", []):
            rows.append({name: value for name, value in row.items() if name != "stage"})
        msgspec.convert({"history": rows}, Metrics)
    except msgspec.ValidationError as error:
        raise make_damaged_error(path, f"it does not hold what it should: {error}") from error


def check_run_info(content: Any, path: Path) -> None:
    """Raise `DamagedError` naming the field if run.json does not hold what it should, or names files that are not a
    run's own."""
    check_record(content, RunInfo, path)
    for name in content["files"]:
        if not is_own_file(name):
            raise make_damaged_error(path, f"its files name {name!r}, which is no file of a run")


def is_own_file(name: str) -> bool:
    """Whether a name is that of a file which run.json may vouch for: inside the run, not its own or a checkpoint's."""
    parts = PurePosixPath(name).parts
    return ".." not in parts and "\\" not in name and OWN_FILES.fullmatch(name) is not None


def read_bounded(path: Path, *, root: Path) -> bytes:
    """Return the bytes of a file of a run. Raises `DamagedError` for one that is missing, a link out of the run, no
    file or too large."""
    try:
        if not is_plain_file(path, root=root):
            raise make_damaged_error(path, "it is not a regular file" if path.exists() else "it is missing")
        if path.stat().st_size > MAX_BYTES:
            raise make_damaged_error(path, f"it has more than {MAX_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise make_damaged_error(path, f"it cannot be read ({error.strerror})") from error

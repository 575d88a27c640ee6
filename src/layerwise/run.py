"""The run directory, bare: create, open, save, restore, verify. It knows files and checksums, not training.

Nothing is written in place: a file is written beside the old one, flushed, then renamed; a checkpoint is a folder that is renamed
as a whole. Opening takes the newest complete one. No pickle: tensors in safetensors, the rest in JSON and TOML.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from layerwise import strict_json
from layerwise.durable import (
    Json,
    Tensors,
    damaged,
    digest,
    digest_of,
    disk_errors,
    flush_folder,
    flushed,
    mapped_tensors,
    refuse_newer,
    sealed,
    unsealed,
    write,
    write_tensors,
)
from layerwise.errors import DamagedError, LayerwiseError, UsageError


class Checkpoint(NamedTuple):
    """A point of training: the model's tensors, everything else that is a tensor, and the rest."""

    model: Tensors
    state: Tensors
    info: Json


def _serial(found: tuple[Path, Checkpoint]) -> int:
    """Return a checkpoint's number: later ones have larger ones."""
    return int(found[1].info["serial"])


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run."""

    path: Path

    @staticmethod
    def create(path: Path) -> RunDirectory:
        """Make a new run directory. Raises `UsageError` if one is there already."""
        if (path / "run.json").exists():
            raise UsageError(
                f"{path} holds a run already", expected="a new folder", do="choose another --out, or add --resume to go on"
            )
        with disk_errors(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        return RunDirectory(path)

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """Open an existing run. Raises `UsageError` if there is none here."""
        if not (path / "run.json").is_file():
            raise UsageError(
                f"{path} is not a run directory",
                expected="a folder with run.json, as `layerwise train` makes it",
                do="check the path; `ls runs` shows the runs of this folder",
            )
        return RunDirectory(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's one lock. Raises `UsageError` while another process trains here."""
        lock = filelock.FileLock(self.path / ".lock")
        try:
            with disk_errors(self.path):
                lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UsageError(
                f"another process is training in {self.path}",
                expected="one training process per run",
                do="wait, or use another --out",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def withdraw(self) -> None:
        """Take a run back that was refused before it learned anything. A folder that holds more than its first files stays."""
        places = [self.path / "checkpoints", self.path]
        names = {p.name for p in self.path.iterdir()}
        if names <= {"recipe.toml", "task.json", "run.json", "checkpoints", ".lock"} and not any(places[0].iterdir()):
            for name in names - {"checkpoints"}:
                (self.path / name).unlink(missing_ok=True)
            for place in places:
                place.rmdir()

    # -- small files -----------------------------------------------------------------------------------------------

    def info(self) -> Json:
        """Return run.json."""
        return unsealed(self._bytes("run.json"), self.path / "run.json")

    def write_info(self, info: Json, *, written: Sequence[str] = ()) -> None:
        """Write run.json. It vouches for the files named as ``written`` just now, and as before for the others."""
        known = self.info()["files"] if (self.path / "run.json").exists() else {}
        fresh = {name: digest_of(self.path / name) for name in written}
        write(self.path / "run.json", sealed({**info, "files": {**known, **fresh}}))

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file that run.json vouches for; at no moment does a kill leave the two at odds."""
        info = self.info()
        old, new = info["files"].get(name), digest(data)
        write(self.path / "run.json", sealed({**info, "files": {**info["files"], name: [old, new]}}))
        self.write(name, data)
        write(self.path / "run.json", sealed({**info, "files": {**info["files"], name: new}}))

    def plain_files(self) -> list[str]:
        """Return the files beside run.json that it should vouch for."""
        names = [name for name in ("recipe.toml", "task.json", "report.html") if (self.path / name).is_file()]
        figures = sorted(p for p in (self.path / "figures").rglob("*") if p.is_file()) if (self.path / "figures").is_dir() else []
        return names + [p.relative_to(self.path).as_posix() for p in figures]

    def read(self, name: str) -> bytes:
        """Return a file that run.json vouches for. Raises `DamagedError` if it differs."""
        data = self._bytes(name)
        known = self.info()["files"].get(name)
        if digest(data) not in (known if isinstance(known, list) else [known]):
            raise damaged(self.path / name, "its checksum is wrong" if known else "run.json does not know it")
        return data

    def task(self) -> Json:
        """Return task.json. Raises `DamagedError` if it differs, is of a newer format, or is no JSON object."""
        path, data = self.path / "task.json", self.read("task.json")
        try:
            content: Json = strict_json.loads(data)
            version = content["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(path, "it does not describe a task") from error
        refuse_newer(version, path)
        return content

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run; its checksum enters run.json with the next `write_info`."""
        (self.path / name).parent.mkdir(exist_ok=True)
        write(self.path / name, data)

    def _bytes(self, name: str) -> bytes:
        """Return a file's bytes, or say that it is missing."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise damaged(self.path / name, f"it cannot be read ({error.strerror})") from error

    # -- metrics.jsonl ---------------------------------------------------------------------------------------------

    def append_metrics(self, row: Json) -> None:
        """Add a line to metrics.jsonl, with its checksum. A line that does not fit on the disk is taken back."""
        path = self.path / "metrics.jsonl"
        with disk_errors(path):
            size = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(line(row))
            except OSError:
                os.truncate(path, size)
                raise

    def metrics_size(self) -> int:
        """Return the length of metrics.jsonl in bytes."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Cut metrics.jsonl back to the length it had at a checkpoint."""
        path = self.path / "metrics.jsonl"
        if path.exists() and path.stat().st_size > size:
            os.truncate(path, size)

    def metrics(self) -> list[Json]:
        """Return the lines of metrics.jsonl. Raises `DamagedError` naming a line whose checksum is wrong."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        *whole, rest = path.read_bytes().split(b"\n")
        if rest:
            raise damaged(path, f"line {len(whole) + 1} is not whole")
        return [read_line(data, path, number) for number, data in enumerate(whole, start=1)]

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, which: str, checkpoint: Checkpoint) -> None:
        """Write a checkpoint beside the old one and rename it into place. Raises `TrainingError` on a full disk."""
        place = self.path / "checkpoints" / which
        new, old = place.with_name(which + ".new"), place.with_name(which + ".old")
        parts = {"model.safetensors": checkpoint.model, "state.safetensors": checkpoint.state}
        with disk_errors(place):
            try:
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir(parents=True)
                files = {name: write_tensors(new / name, tensors) for name, tensors in parts.items()}
                flushed(new / "state.json", sealed({**checkpoint.info, "files": files}))
                flush_folder(new)
            except OSError:
                shutil.rmtree(new, ignore_errors=True)
                raise
            if place.exists():
                shutil.rmtree(old, ignore_errors=True)
                place.rename(old)
            new.rename(place)
            flush_folder(place.parent)
        shutil.rmtree(old, ignore_errors=True)

    def restore(self, which: str) -> Checkpoint | None:
        """Return the newest complete checkpoint of this name, or None if there never was one.

        A kill between the renames leaves it under another name. Raises `DamagedError` if none that is there is whole.
        """
        found = self._complete(which)
        return max(found, key=_serial)[1] if found else None  # an unfinished first save (.new alone) is no checkpoint yet

    def _complete(self, which: str) -> list[tuple[Path, Checkpoint]]:
        """Return the complete checkpoints of this name and their folders. Raises `DamagedError` if the one in place is not whole."""
        place, whole = self.path / "checkpoints" / which, []
        for folder in (place, place.with_name(which + ".new"), place.with_name(which + ".old")):
            if not folder.is_dir():
                continue
            try:
                whole.append((folder, read_checkpoint(folder)))
            except LayerwiseError:
                if folder == place:
                    raise
        return whole

    def tidy(self) -> None:
        """End what a kill broke off: the newest complete checkpoint takes its place, half-written files go. The lock must be held."""
        checkpoints = self.path / "checkpoints"
        left = [*checkpoints.glob("*.new"), *checkpoints.glob("*.old")]  # after a save that ended there is none, and nothing is read
        for which in {p.stem for p in left}:
            place, found = checkpoints / which, self._complete(which)
            newest = max(found, key=_serial)[0] if found else place
            if newest != place:
                shutil.rmtree(place, ignore_errors=True)
                newest.rename(place)
                flush_folder(checkpoints)
            for beside in (place.with_name(which + ".new"), place.with_name(which + ".old")):
                shutil.rmtree(beside, ignore_errors=True)
        for half in self.path.rglob("*.*.new"):
            half.unlink()

    # -- verify ----------------------------------------------------------------------------------------------------

    def verify(self) -> dict[str, str]:
        """Check every file. Returns each file's name with an empty text if it is whole, else what is wrong with it."""
        found: dict[str, str] = {}

        def look(name: str, check: Any) -> None:
            try:
                check()
                found[name] = ""
            except LayerwiseError as error:
                found[name] = error.what

        look("run.json", self.info)
        vouched = self.info()["files"] if not found["run.json"] else {}
        for name in sorted({*vouched, *self.plain_files()}):
            if vouched:
                look(name, lambda name=name: self.read(name))
        look("metrics.jsonl", self.metrics)
        if (self.path / "failure.json").exists():
            look("failure.json", lambda: unsealed(self._bytes("failure.json"), self.path / "failure.json"))
        for which in ("last", "best"):
            folder = self.path / "checkpoints" / which
            if folder.is_dir():
                for name, problem in checkpoint_problems(folder).items():
                    found[f"checkpoints/{which}/{name}"] = problem
        return found


def line(row: Json) -> bytes:
    """Return a line of metrics.jsonl: JSON whose last key is the CRC-32 of the rest."""
    body = strict_json.dumps(row)
    crc = f"{zlib.crc32(body.encode()):08x}"
    return (strict_json.dumps({**row, "crc": crc}) + "\n").encode()


def read_line(data: bytes, path: Path, number: int) -> Json:
    """Read what `line` wrote. Raises `DamagedError` naming the line."""
    try:
        row: Json = strict_json.loads(data)
        crc = row.pop("crc")
    except (ValueError, KeyError, AttributeError) as error:
        raise damaged(path, f"line {number} cannot be read") from error
    if line(row) != data + b"\n" or crc != f"{zlib.crc32(strict_json.dumps(row).encode()):08x}":
        raise damaged(path, f"the checksum of line {number} is wrong")
    return row


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder whole. Raises `DamagedError` naming the first file that is not as written."""
    for name, problem in checkpoint_problems(folder).items():
        if problem:
            raise damaged(folder / name, problem)
    info = unsealed((folder / "state.json").read_bytes(), folder / "state.json")
    parts = [mapped_tensors(folder / f"{name}.safetensors") for name in ("model", "state")]
    return Checkpoint(parts[0], parts[1], info)


def checkpoint_problems(folder: Path) -> dict[str, str]:
    """Return each file of a checkpoint with what is wrong with it, or an empty text."""
    problems = {"state.json": "", "model.safetensors": "", "state.safetensors": ""}
    try:
        known = unsealed((folder / "state.json").read_bytes(), folder / "state.json")["files"]
    except OSError:
        return {"state.json": "it is missing"}
    except DamagedError as error:
        return {"state.json": error.what.split(" is damaged: ")[-1]}
    for name in ("model.safetensors", "state.safetensors"):
        try:
            if digest_of(folder / name) != known.get(name):
                problems[name] = "its checksum is wrong"
        except OSError as error:
            problems[name] = f"it cannot be read ({error.strerror})"
    return problems

"""The run directory, bare: create, open, save, restore, verify. It knows files and checksums, not training.

Files are written by `layerwise.runtime.atomic_io`, whole or not at all; a checkpoint is a folder of our own that takes
its place in one step. Links inside a run are refused, and what a file says is checked before anything is made of it. No
pickle: tensors in safetensors, the rest in JSON and TOML.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from layerwise.errors import DamagedError, LayerwiseError, UsageError
from layerwise.run_records import CheckpointInfo, check_record, check_run_info, is_own_file, read_bounded
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import (
    DRAFT,
    append_line,
    cut_file,
    flush_file,
    is_plain_file,
    make_folder,
    refuse_links,
    report_disk_errors,
    take_back,
    write_file,
    write_own,
)
from layerwise.runtime.bounded_decoding import decode_json
from layerwise.runtime.checksums import (
    Json,
    Tensors,
    damaged,
    digest,
    digest_of,
    mapped_tensors,
    refuse_newer,
    sealed,
    unsealed,
    write_tensors,
)
from layerwise.runtime.folder_io import check_folder_target, hold_lock, open_unfinished, put_folder, remove_if_empty
from layerwise.runtime.owned_folders import find_passing, is_owned, mark_owned, remove_owned, sweep_unfinished

CHECKPOINT = "checkpoint"  # the kind of folder
GO_ON = "free some space and go on with --resume; what was saved before is intact"
TRIES = 200  # readings of a checkpoint that is replaced meanwhile
LONGEST = 1 << 20  # bytes of a line of metrics.jsonl
LOCK = ".lock"
FIRST = ("run.json", "recipe.toml", "task.json")  # the files that a run begins with


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
        """Make a new run directory. Raises `UsageError` if the folder holds anything, and `StorageError` where the disk
        refuses."""
        RunDirectory.refuse_used(path)
        make_folder(path, do=GO_ON)
        return RunDirectory(path)

    @staticmethod
    def refuse_used(path: Path) -> None:
        """Raise `UsageError` if a new run may not begin in a folder, because something is in it. Nothing is touched."""
        if (path / "run.json").exists():
            raise UsageError(
                f"{path} holds a run already",
                expected="a new folder",
                do="choose another --out, or add --resume to go on",
            )
        if path.is_dir() and (names := sorted(p.name for p in path.iterdir() if p.name != LOCK)):
            lost = "checkpoints" in names
            raise UsageError(
                f"{path} {'has checkpoints but no run.json' if lost else 'is not empty'}; nothing in it was changed",
                expected="a new or an empty folder",
                received=", ".join(names[:5]) + (", …" if len(names) > 5 else ""),
                do="choose another --out" + (", or bring run.json back from a copy" if lost else ""),
            )

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
        with hold_lock(self.path / LOCK, wait=False, root=self.path) as held:
            if not held:
                raise UsageError(
                    f"another process is training in {self.path}",
                    expected="one training process per run",
                    do="wait, or use another --out",
                )
            yield

    def withdraw(self) -> None:
        """Take a new run back that ends before anything it learned was saved: its first files and its checkpoint of no
        step."""
        if not (self.path / FIRST[0]).exists():  # nothing was written
            return
        last = self.restore("last")
        learned = self.metrics_size() or (last is not None and last.info["steps"])
        if learned or {path.name for path in self.path.iterdir()} - {*FIRST, "checkpoints", "metrics.jsonl", LOCK}:
            return
        known = self.info()["files"]
        remove_owned(self._place("last"), CHECKPOINT)
        remove_if_empty(self._place("last").parent)
        take_back(self.path, {**{name: known[name] for name in FIRST[1:]}, FIRST[0]: digest_of(self.path / FIRST[0])})

    def refuse_own_links(self) -> None:
        """Raise `UsageError`, naming it, for a link in the place of a file or folder that training writes."""
        folders = ("checkpoints/last", "checkpoints/best", "figures", "tensorboard", "engines")
        for name in (*FIRST, *folders, "metrics.jsonl", "failure.json", "report.html"):
            refuse_links(self.path, self.path / name)

    # -- small files -----------------------------------------------------------------------------------------------

    def begin(self, info: Json, files: Mapping[str, bytes]) -> None:
        """Write a new run's first files: run.json, which vouches for the others, goes first, so that a kill leaves a
        run."""
        self._write_json({**info, "files": {name: digest(data) for name, data in files.items()}})
        for name, data in files.items():
            self.write(name, data)

    def info(self) -> Json:
        """Return run.json. Raises `DamagedError` if it is not as it was written, or does not hold what it should."""
        path = self.path / "run.json"
        content = unsealed(read_bounded(path, root=self.path), path)
        check_run_info(content, path)
        return content

    def write_info(self, info: Json, *, written: Sequence[str] = ()) -> None:
        """Write run.json. It vouches for the files named as ``written`` just now, and as before for the others."""
        known = self.info()["files"] if (self.path / "run.json").exists() else {}
        self._write_json({**info, "files": {**known, **{name: digest_of(self.path / name) for name in written}}})

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file that run.json vouches for; at no moment does a kill leave the two at odds."""
        info = self.info()
        known = info["files"].get(name)
        old, new = known[-1] if isinstance(known, list) else known, digest(data)
        self._write_json({**info, "files": {**info["files"], name: [old, new]}})
        self.write(name, data)
        self._write_json({**info, "files": {**info["files"], name: new}})

    def _write_json(self, info: Json) -> None:
        """Write run.json itself."""
        write_file(self.path / "run.json", sealed(info), root=self.path, do=GO_ON)

    def plain_files(self) -> list[str]:
        """Return the files beside run.json that it should vouch for."""
        inside = (p for folder in ("figures", "tensorboard") for p in sorted((self.path / folder).rglob("*")))
        names = ["recipe.toml", "task.json", "report.html", *(p.relative_to(self.path).as_posix() for p in inside)]
        return [name for name in names if is_own_file(name) and is_plain_file(self.path / name, root=self.path)]

    def read(self, name: str) -> bytes:
        """Return a file that run.json vouches for. Raises `DamagedError` if it differs."""
        data = read_bounded(self.path / name, root=self.path)
        known = self.info()["files"].get(name)
        if digest(data) not in (known if isinstance(known, list) else [known]):
            raise damaged(self.path / name, "its checksum is wrong" if known else "run.json does not know it")
        return data

    def task(self) -> Json:
        """Return task.json. Raises `DamagedError` if it differs, is of a newer format, or is no JSON object."""
        path = self.path / "task.json"
        try:
            content: Json = decode_json(
                self.read("task.json"), what=str(path), as_type=dict[str, Any], error=DamagedError
            )
            version = content["format"]
        except KeyError as error:
            raise damaged(path, "it does not describe a task") from error
        refuse_newer(version, path)
        return content

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run; its checksum enters run.json with the next `write_info`. Raises `UsageError` for a
        link in its place."""
        make_folder((self.path / name).parent, root=self.path, do=GO_ON)
        write_file(self.path / name, data, root=self.path, do=GO_ON)

    # -- metrics.jsonl ---------------------------------------------------------------------------------------------

    def append_metrics(self, row: Json) -> None:
        """Add a line to metrics.jsonl, with its checksum. A line that does not fit on the disk is taken back."""
        append_line(self.path / "metrics.jsonl", line(row), root=self.path, do=GO_ON)

    def metrics_size(self) -> int:
        """Return the length of metrics.jsonl in bytes."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Cut metrics.jsonl back to the length it had at a checkpoint."""
        cut_file(self.path / "metrics.jsonl", size, root=self.path)

    def metrics(self) -> list[Json]:
        """Return the lines of metrics.jsonl. Raises `DamagedError` naming a line whose checksum is wrong."""
        return list(self.iter_metrics())

    def iter_metrics(self) -> Iterator[Json]:
        """Yield the lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        if not is_plain_file(path, root=self.path):
            raise damaged(path, "it is not a regular file")
        with path.open("rb") as stream:
            number = 0
            while data := stream.readline(LONGEST):
                number += 1
                if not data.endswith(b"\n"):
                    raise damaged(path, f"line {number} is not whole")
                yield read_line(data[:-1], path, number)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, which: str, checkpoint: Checkpoint) -> None:
        """Write a checkpoint beside the old one and put it into its place in one step.

        Raises `StorageError` on a full disk, and `UsageError` if a link or a folder that is not ours is in the place.
        """
        place = self._place(which)
        make_folder(place.parent, root=self.path, do=GO_ON)
        if (
            place.exists()
            and not is_owned(place, CHECKPOINT)
            and not checkpoint_problems(place, root=self.path)["state.json"]
        ):
            mark_owned(
                place, CHECKPOINT
            )  # the marker was not on the disk when the power went; the sealed state.json is ours
        check_folder_target(place, CHECKPOINT, replace=True)
        if self.metrics_size():  # the checkpoint names the length of the log
            flush_file(self.path / "metrics.jsonl", root=self.path)
        parts = {"model.safetensors": checkpoint.model, "state.safetensors": checkpoint.state}
        with report_disk_errors(place, do=GO_ON), open_unfinished(place, CHECKPOINT, durable=False) as new:
            files = {name: write_tensors(new / name, tensors) for name, tensors in parts.items()}
            write_own(new / "state.json", sealed({**checkpoint.info, "files": files}), root=new)
            put_folder(new, place, CHECKPOINT)

    def restore(self, which: str) -> Checkpoint | None:
        """Return the newest complete checkpoint of this name, or None if there never was one. It may be replaced
        meanwhile.

        A kill on the way may leave it under a passing name. Raises `DamagedError` if none that is there is whole.
        """
        found = self.read_steadily(which, lambda: self._complete(which))
        return max(found, key=_serial)[1] if found else None  # an unfinished first save is no checkpoint yet

    def _place(self, which: str) -> Path:
        """Return the folder of a checkpoint."""
        return self.path / "checkpoints" / which

    def _beside(self, which: str) -> list[Path]:
        """Return the folders of ours with passing names for this checkpoint."""
        return [folder for folder in find_passing(self._place(which)) if is_owned(folder, CHECKPOINT)]

    def read_steadily(self, which: str, read: Callable[[], Any]) -> Any:
        """Return what ``read`` gives of a checkpoint, read again for as long as a save replaces its folders
        meanwhile."""
        for last in (*(False for _ in range(TRIES - 1)), True):
            before = self._identity(which)
            try:
                found = read()
                if last or self._identity(which) == before:
                    return found
            except (LayerwiseError, OSError):
                if last or self._identity(which) == before:
                    raise
        raise AssertionError("the last reading is returned or raises")

    def _identity(self, which: str) -> list[tuple[str, int, int]]:
        """Return what tells whether the folders of a checkpoint are still the same ones."""
        found = []
        for folder in (self._place(which), *find_passing(self._place(which))):
            try:
                facts = folder.lstat()
            except OSError:
                continue
            found.append((folder.name, facts.st_ino, facts.st_ctime_ns))
        return found

    def _complete(self, which: str) -> list[tuple[Path, Checkpoint]]:
        """Return the complete checkpoints of this name and their folders. Raises `DamagedError` if the one in place is
        not whole."""
        place, complete = self._place(which), []
        if place.exists() or place.is_symlink():
            complete.append((place, read_checkpoint(place, root=self.path)))
        for folder in self._beside(which):
            try:
                complete.append((folder, read_checkpoint(folder, root=self.path)))
            except LayerwiseError:
                continue
        return complete

    def tidy(self) -> None:
        """End what a kill broke off: the newest complete checkpoint takes its place, half-written files go. The lock
        must be held."""
        for place in (self.path, self.path / "figures"):
            sweep_unfinished(place, DRAFT, alone=True)
        for which in ("last", "best"):
            if not self._beside(which):  # after a save that ended there is none, and nothing is read
                continue
            complete = self._complete(which)
            if complete and (newest := max(complete, key=_serial)[0]) != self._place(which):
                put_folder(newest, self._place(which), CHECKPOINT)
        sweep_unfinished(self.path / "checkpoints", CHECKPOINT, alone=True)


def line(row: Json) -> bytes:
    """Return a line of metrics.jsonl: JSON whose last key is the CRC-32 of the rest."""
    body = strict_json.dumps(row)
    crc = f"{zlib.crc32(body.encode()):08x}"
    return (strict_json.dumps({**row, "crc": crc}) + "\n").encode()


def read_line(data: bytes, path: Path, number: int) -> Json:
    """Read what `line` wrote. Raises `DamagedError` naming the line."""
    try:
        row: Json = decode_json(data, what=f"line {number} of {path}", as_type=dict[str, Any], error=DamagedError)
        crc = row.pop("crc")
    except (DamagedError, KeyError) as error:
        raise damaged(path, f"line {number} cannot be read") from error
    if line(row) != data + b"\n" or crc != f"{zlib.crc32(strict_json.dumps(row).encode()):08x}":
        raise damaged(path, f"the checksum of line {number} is wrong")
    return row


def read_state(folder: Path, *, root: Path) -> Json:
    """Return a checkpoint's state.json. Raises `DamagedError` if it is not as it was written, or does not hold what it
    should."""
    path = folder / "state.json"
    content = unsealed(read_bounded(path, root=root), path)
    check_record(content, CheckpointInfo, path)
    return content


def read_checkpoint(folder: Path, *, root: Path) -> Checkpoint:
    """Read one checkpoint folder whole. Raises `DamagedError` naming the first file that is not as written."""
    for name, problem in checkpoint_problems(folder, root=root).items():
        if problem:
            raise damaged(folder / name, problem)
    info = read_state(folder, root=root)
    parts = [mapped_tensors(folder / f"{name}.safetensors") for name in ("model", "state")]
    return Checkpoint(parts[0], parts[1], info)


def checkpoint_problems(folder: Path, *, root: Path) -> dict[str, str]:
    """Return each file of a checkpoint with what is wrong with it, or an empty text."""
    problems = {"state.json": "", "model.safetensors": "", "state.safetensors": ""}
    try:
        known = read_state(folder, root=root)["files"]
    except LayerwiseError as error:
        return {"state.json": error.what.split(" is damaged: ")[-1]}
    for name in ("model.safetensors", "state.safetensors"):
        try:
            if not is_plain_file(folder / name, root=root):
                problems[name] = "it is not a regular file" if (folder / name).exists() else "it is missing"
            elif digest_of(folder / name) != known.get(name):
                problems[name] = "its checksum is wrong"
        except OSError as error:
            problems[name] = f"it cannot be read ({error.strerror})"
    return problems

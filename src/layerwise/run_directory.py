"""The run directory: create, open, save, restore. It knows files and checksums, not training.

`layerwise.runtime.atomic_io` writes the files, complete or not at all; a checkpoint is a folder of our own that is
replaced in one step. Links inside a run are refused, and what a file says is checked before it is used. No pickle:
tensors in safetensors, the rest in JSON and TOML.
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
from layerwise.runtime.atomic_io import DRAFT, make_folder, write_file
from layerwise.runtime.bounded_decoding import decode_json
from layerwise.runtime.checksums import (
    Json,
    Tensors,
    digest,
    digest_file,
    dump_checksummed,
    load_checksummed,
    make_damaged_error,
    map_tensors,
    refuse_newer,
    write_tensors,
)
from layerwise.runtime.folder_io import check_folder_target, hold_lock, open_unfinished, put_folder, remove_if_empty
from layerwise.runtime.in_place_io import append_line, flush_file, remove_if_unchanged, truncate_file, write_durably
from layerwise.runtime.owned_folders import find_temporary, is_owned, mark_owned, remove_owned, sweep_unfinished
from layerwise.runtime.write_checks import is_plain_file, refuse_links, report_disk_errors

CHECKPOINT = "checkpoint"  # the kind of folder
RESUME_ADVICE = "free some space and go on with --resume; what was saved before is intact"
MAX_TRIES = 200  # readings of a checkpoint that is replaced meanwhile
MAX_LINE_BYTES = 1 << 20  # bytes of a line of metrics.jsonl
LOCK_FILE = ".lock"
FIRST_FILES = ("run.json", "recipe.toml", "task.json")  # in the order in which they are written


class Checkpoint(NamedTuple):
    """A point of training: the model's tensors, everything else that is a tensor, and the rest."""

    model: Tensors
    state: Tensors
    info: Json


def _get_serial(entry: tuple[Path, Checkpoint]) -> int:
    """Return a checkpoint's number: later ones have larger ones."""
    return int(entry[1].info["serial"])


@dataclass(frozen=True)
class RunDirectory:
    """A run's directory: its records, metrics and checkpoints."""

    path: Path

    @staticmethod
    def create(path: Path) -> RunDirectory:
        """Make a new run directory. Raises `UsageError` if the folder holds anything, and `StorageError` where the disk
        refuses."""
        RunDirectory.refuse_used(path)
        make_folder(path, do=RESUME_ADVICE)
        return RunDirectory(path)

    @staticmethod
    def refuse_used(path: Path) -> None:
        """Raise `UsageError` if the folder is not empty. Nothing is changed."""
        if (path / "run.json").exists():
            raise UsageError(
                f"{path} already holds a run",
                expected="a new folder",
                do="choose another --out, or add --resume to go on",
            )
        if path.is_dir() and (names := sorted(p.name for p in path.iterdir() if p.name != LOCK_FILE)):
            lost = "checkpoints" in names
            raise UsageError(
                f"{path} {'has checkpoints but no run.json' if lost else 'is not empty'}; nothing was changed",
                expected="a new or an empty folder",
                received=", ".join(names[:5]) + (", …" if len(names) > 5 else ""),
                do="choose another --out" + (", or restore run.json from a backup" if lost else ""),
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
    def lock(self) -> Iterator[None]:
        """Hold the run's one lock. Raises `UsageError` while another process trains here."""
        with hold_lock(self.path / LOCK_FILE, wait=False, root=self.path) as held:
            if not held:
                raise UsageError(
                    f"another process is training in {self.path}",
                    expected="one training process per run",
                    do="wait, or use another --out",
                )
            yield

    def withdraw(self) -> None:
        """Remove a new run that ends before anything it learned was saved: its first files and its checkpoint of step
        0."""
        if not (self.path / FIRST_FILES[0]).exists():  # nothing was written
            return
        last = self.restore("last")
        has_learned = self.get_metrics_size() or (last is not None and last.info["steps"])
        own_names = {*FIRST_FILES, "checkpoints", "metrics.jsonl", LOCK_FILE}
        if has_learned or {path.name for path in self.path.iterdir()} - own_names:
            return
        known = self.info()["files"]
        remove_owned(self._get_checkpoint_path("last"), CHECKPOINT)
        remove_if_empty(self._get_checkpoint_path("last").parent)
        digests = {name: known[name] for name in FIRST_FILES[1:]}
        digests[FIRST_FILES[0]] = digest_file(self.path / FIRST_FILES[0])
        remove_if_unchanged(self.path, digests)

    def refuse_own_links(self) -> None:
        """Raise `UsageError`, naming it, for a link where training writes a file or folder."""
        folders = ("checkpoints/last", "checkpoints/best", "figures", "tensorboard", "engines")
        for name in (*FIRST_FILES, *folders, "metrics.jsonl", "failure.json", "report.html"):
            refuse_links(self.path, self.path / name)

    # -- small files -----------------------------------------------------------------------------------------------

    def write_first_files(self, info: Json, files: Mapping[str, bytes]) -> None:
        """Write a new run's first files. run.json, which has the checksums of the others, comes first, so that a kill
        leaves a run."""
        self._write_run_json({**info, "files": {name: digest(data) for name, data in files.items()}})
        for name, data in files.items():
            self.write(name, data)

    def info(self) -> Json:
        """Return run.json. Raises `DamagedError` if it is not as it was written, or does not hold what it should."""
        path = self.path / "run.json"
        content = load_checksummed(read_bounded(path, root=self.path), path)
        check_run_info(content, path)
        return content

    def write_info(self, info: Json, *, new_files: Sequence[str] = ()) -> None:
        """Write run.json with the checksums of ``new_files``, just written, and those of before for the others."""
        known = self.info()["files"] if (self.path / "run.json").exists() else {}
        new = {name: digest_file(self.path / name) for name in new_files}
        self._write_run_json({**info, "files": {**known, **new}})

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file that has a checksum in run.json; a kill at any moment leaves the two consistent."""
        info = self.info()
        known = info["files"].get(name)
        old, new = known[-1] if isinstance(known, list) else known, digest(data)
        self._write_run_json({**info, "files": {**info["files"], name: [old, new]}})
        self.write(name, data)
        self._write_run_json({**info, "files": {**info["files"], name: new}})

    def _write_run_json(self, info: Json) -> None:
        """Write run.json itself."""
        write_file(self.path / "run.json", dump_checksummed(info), root=self.path, do=RESUME_ADVICE)

    def list_checksummed_files(self) -> list[str]:
        """Return the files that should have a checksum in run.json."""
        inside = (p for folder in ("figures", "tensorboard") for p in sorted((self.path / folder).rglob("*")))
        names = ["recipe.toml", "task.json", "report.html", *(p.relative_to(self.path).as_posix() for p in inside)]
        return [name for name in names if is_own_file(name) and is_plain_file(self.path / name, root=self.path)]

    def read(self, name: str) -> bytes:
        """Return a file that has a checksum in run.json. Raises `DamagedError` if it differs."""
        data = read_bounded(self.path / name, root=self.path)
        known = self.info()["files"].get(name)
        if digest(data) not in (known if isinstance(known, list) else [known]):
            raise make_damaged_error(
                self.path / name, "its checksum is wrong" if known else "run.json does not know it"
            )
        return data

    def read_task(self) -> Json:
        """Return task.json. Raises `DamagedError` if it differs, is of a newer format, or is no JSON object."""
        path = self.path / "task.json"
        try:
            content: Json = decode_json(
                self.read("task.json"), what=str(path), as_type=dict[str, Any], error=DamagedError
            )
            version = content["format"]
        except KeyError as error:
            raise make_damaged_error(path, "it does not describe a task") from error
        refuse_newer(version, path)
        return content

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the run; its checksum enters run.json with the next `write_info`. Raises `UsageError` for a
        link with its name."""
        make_folder((self.path / name).parent, root=self.path, do=RESUME_ADVICE)
        write_file(self.path / name, data, root=self.path, do=RESUME_ADVICE)

    # -- metrics.jsonl ---------------------------------------------------------------------------------------------

    def append_metrics(self, row: Json) -> None:
        """Add a line to metrics.jsonl, with its checksum. A line that does not fit on the disk is removed again."""
        append_line(self.path / "metrics.jsonl", format_line(row), root=self.path, do=RESUME_ADVICE)

    def get_metrics_size(self) -> int:
        """Return the length of metrics.jsonl in bytes."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def truncate_metrics(self, size: int) -> None:
        """Truncate metrics.jsonl to the length it had at a checkpoint."""
        truncate_file(self.path / "metrics.jsonl", size, root=self.path)

    def read_metrics(self) -> list[Json]:
        """Return the lines of metrics.jsonl. Raises `DamagedError` naming a line whose checksum is wrong."""
        return list(self.iter_metrics())

    def iter_metrics(self) -> Iterator[Json]:
        """Yield the lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        if not is_plain_file(path, root=self.path):
            raise make_damaged_error(path, "it is not a regular file")
        with path.open("rb") as stream:
            number = 0
            while data := stream.readline(MAX_LINE_BYTES):
                number += 1
                if not data.endswith(b"\n"):
                    raise make_damaged_error(path, f"line {number} is not whole")
                yield parse_line(data[:-1], path, number)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, which: str, checkpoint: Checkpoint) -> None:
        """Write a checkpoint beside the old one and replace that in one step.

        Raises `StorageError` on a full disk, and `UsageError` for a link or a folder that is not ours at its path.
        """
        path = self._get_checkpoint_path(which)
        make_folder(path.parent, root=self.path, do=RESUME_ADVICE)
        is_unmarked = path.exists() and not is_owned(path, CHECKPOINT)
        if is_unmarked and not find_checkpoint_problems(path, root=self.path)["state.json"]:
            mark_owned(path, CHECKPOINT)  # a power cut lost the marker, but state.json has our checksum
        check_folder_target(path, CHECKPOINT, replace=True)
        if self.get_metrics_size():  # the checkpoint names the length of the log
            flush_file(self.path / "metrics.jsonl", root=self.path)
        parts = {"model.safetensors": checkpoint.model, "state.safetensors": checkpoint.state}
        with report_disk_errors(path, do=RESUME_ADVICE), open_unfinished(path, CHECKPOINT, durable=False) as new:
            files = {name: write_tensors(new / name, tensors) for name, tensors in parts.items()}
            write_durably(new / "state.json", dump_checksummed({**checkpoint.info, "files": files}), root=new)
            put_folder(new, path, CHECKPOINT)

    def restore(self, which: str) -> Checkpoint | None:
        """Return the newest complete checkpoint of this name, or None if there never was one. It may be replaced
        meanwhile.

        A kill may leave it under a temporary name. Raises `DamagedError` if there are some and none is complete.
        """
        checkpoints = self.read_consistently(which, lambda: self._read_complete(which))
        return (
            max(checkpoints, key=_get_serial)[1] if checkpoints else None
        )  # an unfinished first save is no checkpoint yet

    def _get_checkpoint_path(self, which: str) -> Path:
        """Return the folder of a checkpoint."""
        return self.path / "checkpoints" / which

    def _find_temporary(self, which: str) -> list[Path]:
        """Return our folders with temporary names for this checkpoint."""
        return [folder for folder in find_temporary(self._get_checkpoint_path(which)) if is_owned(folder, CHECKPOINT)]

    def read_consistently(self, which: str, read: Callable[[], Any]) -> Any:
        """Return what ``read`` returns of a checkpoint; read again while a save replaces its folders."""
        for last in (*(False for _ in range(MAX_TRIES - 1)), True):
            before = self._identify(which)
            try:
                content = read()
                if last or self._identify(which) == before:
                    return content
            except (LayerwiseError, OSError):
                if last or self._identify(which) == before:
                    raise
        raise AssertionError("the last reading is returned or raises")

    def _identify(self, which: str) -> list[tuple[str, int, int]]:
        """Return what identifies the folders of a checkpoint: it changes when a save replaces one."""
        folders = []
        for folder in (self._get_checkpoint_path(which), *find_temporary(self._get_checkpoint_path(which))):
            try:
                facts = folder.lstat()
            except OSError:
                continue
            folders.append((folder.name, facts.st_ino, facts.st_ctime_ns))
        return folders

    def _read_complete(self, which: str) -> list[tuple[Path, Checkpoint]]:
        """Return the complete checkpoints of this name and their folders. Raises `DamagedError` if the one under the
        name itself is damaged."""
        path, complete = self._get_checkpoint_path(which), []
        if path.exists() or path.is_symlink():
            complete.append((path, read_checkpoint(path, root=self.path)))
        for folder in self._find_temporary(which):
            try:
                complete.append((folder, read_checkpoint(folder, root=self.path)))
            except LayerwiseError:
                continue
        return complete

    def clean_up(self) -> None:
        """Finish what a kill interrupted: rename the newest complete checkpoint to its name, remove half-written files.
        The caller holds the lock."""
        for folder in (self.path, self.path / "figures"):
            sweep_unfinished(folder, DRAFT, alone=True)
        for which in ("last", "best"):
            if not self._find_temporary(which):  # after a save that ended there is none, and nothing is read
                continue
            complete = self._read_complete(which)
            if complete and (newest := max(complete, key=_get_serial)[0]) != self._get_checkpoint_path(which):
                put_folder(newest, self._get_checkpoint_path(which), CHECKPOINT)
        sweep_unfinished(self.path / "checkpoints", CHECKPOINT, alone=True)


def format_line(row: Json) -> bytes:
    """Return a line of metrics.jsonl: JSON whose last key is the CRC-32 of the rest."""
    body = strict_json.dumps(row)
    crc = f"{zlib.crc32(body.encode()):08x}"
    return (strict_json.dumps({**row, "crc": crc}) + "\n").encode()


def parse_line(data: bytes, path: Path, number: int) -> Json:
    """Read what `format_line` wrote. Raises `DamagedError` naming the line."""
    try:
        row: Json = decode_json(data, what=f"line {number} of {path}", as_type=dict[str, Any], error=DamagedError)
        crc = row.pop("crc")
    except (DamagedError, KeyError) as error:
        raise make_damaged_error(path, f"line {number} cannot be read") from error
    if format_line(row) != data + b"\n" or crc != f"{zlib.crc32(strict_json.dumps(row).encode()):08x}":
        raise make_damaged_error(path, f"the checksum of line {number} is wrong")
    return row


def read_state(folder: Path, *, root: Path) -> Json:
    """Return a checkpoint's state.json. Raises `DamagedError` if it is not as it was written, or does not hold what it
    should."""
    path = folder / "state.json"
    content = load_checksummed(read_bounded(path, root=root), path)
    check_record(content, CheckpointInfo, path)
    return content


def read_checkpoint(folder: Path, *, root: Path) -> Checkpoint:
    """Read one checkpoint folder. Raises `DamagedError` naming the first file that is not as written."""
    for name, problem in find_checkpoint_problems(folder, root=root).items():
        if problem:
            raise make_damaged_error(folder / name, problem)
    info = read_state(folder, root=root)
    parts = [map_tensors(folder / f"{name}.safetensors") for name in ("model", "state")]
    return Checkpoint(parts[0], parts[1], info)


def find_checkpoint_problems(folder: Path, *, root: Path) -> dict[str, str]:
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
            elif digest_file(folder / name) != known.get(name):
                problems[name] = "its checksum is wrong"
        except OSError as error:
            problems[name] = f"it cannot be read ({error.strerror})"
    return problems

"""Folders that Layerwise makes and may remove again: each has a marker file with a checksum.

Only a folder with such a marker is ever removed, whatever its name, and links inside it are never followed. The marker
says which process made it: the next process removes what a killed one left, and what one of another machine left when
nothing in it has changed for a day. A folder that was set aside to be replaced gets its name back if the replacement
did not come.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from layerwise.runtime import strict_json
from layerwise.runtime.process_identity import describe_process, get_machine_tag, is_running

MARKER = ".layerwise"
MAX_MARKER_BYTES = 4096
TEMPORARY_NAME = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(new|old)", re.DOTALL)
EMPTY_FOLDER_AGE = 3600  # seconds, after which nobody is making an empty folder any more
UNCHANGED_AGE = 24 * 3600  # seconds, after which nobody is at work in a folder
MAX_NAME_BYTES = 200  # of a target's name in a temporary one


def _make_marker(kind: str) -> bytes:
    """Return a marker's bytes: the kind of folder, the process that makes it, and a checksum."""
    body = strict_json.dumps({"made by": "layerwise", "kind": kind, **describe_process()}, sort_keys=True)
    return f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode()


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's marker says; None for a link, a folder without a marker, and a marker that was not written
    by us."""
    path = folder / MARKER
    try:
        if folder.is_symlink() or path.is_symlink() or path.stat().st_size > MAX_MARKER_BYTES:
            return None
        body, digest = path.read_text(encoding="utf-8").split("\n")[:2]
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            return None
        marker = strict_json.loads(body)
    except (OSError, ValueError, RecursionError):
        return None
    return marker if isinstance(marker, dict) and marker.get("made by") == "layerwise" else None


def is_owned(folder: Path, kind: str) -> bool:
    """Whether a folder carries our marker, of this kind."""
    marker = read_marker(folder)
    return marker is not None and marker.get("kind") == kind


def make_owned(folder: Path, kind: str, *, durable: bool = True) -> None:
    """Make a folder with our marker. ``durable`` waits until the marker is on the disk. Raises `OSError` where the disk
    refuses."""
    folder.mkdir()
    mark_owned(folder, kind, durable=durable)


def mark_owned(folder: Path, kind: str, *, durable: bool = True) -> None:
    """Put our marker into a folder that is known to be ours. Raises `OSError` if there is one, and where the disk
    refuses.

    A marker without a byte, which a kill or a power cut leaves, is none.
    """
    empty = folder / MARKER
    if empty.is_file() and not empty.is_symlink() and not empty.lstat().st_size:
        empty.unlink()
    handle = os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with os.fdopen(handle, "wb") as stream:
        stream.write(_make_marker(kind))
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def remove_owned(folder: Path, kind: str) -> bool:
    """Remove a folder that carries our marker, of this kind; return whether it is gone. Everything else stays as it is.

    The marker goes last, so that a kill on the way leaves a folder that the next call removes. A folder in which
    nothing is goes too.
    """
    if folder.is_symlink() or not folder.is_dir():
        return not folder.exists()
    if is_owned(folder, kind) or is_empty_folder(folder):
        with suppress(OSError):
            for entry in list(folder.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != MARKER:
                    entry.unlink()
            (folder / MARKER).unlink(missing_ok=True)
            folder.rmdir()
    return not folder.exists()


def is_empty_folder(folder: Path) -> bool:
    """Whether a folder is empty but for a marker without a byte: what a kill leaves while a folder is made."""
    entries = list(folder.iterdir())
    return not entries or (
        entries == [folder / MARKER] and not entries[0].is_symlink() and entries[0].lstat().st_size == 0
    )


def remove_inside(path: Path, owner: Path, kind: str) -> bool:
    """Remove a file somewhere below a folder that carries our marker, of this kind; return whether it is gone. No link
    is followed."""
    between = path.relative_to(owner).parents[:-1]
    if is_owned(owner, kind) and not any((owner / part).is_symlink() for part in between):
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def make_temporary_path(target: Path, *, ending: str = "new") -> Path:
    """Return a hidden unique path beside a target. Its name contains the machine and the process, as the folder has no
    marker at first.

    ``ending`` is ``new`` for a folder that will replace the target, ``old`` for the one that is replaced; an old one's
    name is never cut, so that it can be restored.
    """
    name = target.name if ending == "old" else os.fsencode(target.name)[:MAX_NAME_BYTES].decode(errors="ignore")
    return target.with_name(f".{name}.{get_machine_tag()}{os.getpid() & 0xFFFFFF:06x}{secrets.token_hex(3)}.{ending}")


def find_temporary(target: Path) -> list[Path]:
    """Return the paths beside a target with temporary names made for it."""
    hidden = sorted(target.parent.glob(".*")) if target.parent.is_dir() else []
    return [path for path in hidden if (match := TEMPORARY_NAME.fullmatch(path.name)) and match[1] == target.name]


def _has_ended(name: str) -> bool:
    """Whether the process that chose a temporary name ran on this machine and has ended."""
    tag = name[-len("0123456789abcdef.new") :]
    return tag.startswith(get_machine_tag()) and not psutil.pid_exists(int(tag[4:10], 16))


def sweep_unfinished(parent: Path, kind: str, *, alone: bool = False) -> None:
    """Remove the unfinished folders of a kind that killed processes left in a folder; give one that was set aside its
    name back if that is free.

    ``alone``: no other process works there, so that all of them are left over; else those whose process has ended,
    those of another machine in which nothing has changed for a day, and old empty ones.
    """
    for folder in parent.glob(".*") if parent.is_dir() else ():
        name = TEMPORARY_NAME.fullmatch(folder.name)
        with suppress(OSError):
            if name is None or not (alone or _is_left_over(folder)):
                continue
            target = parent / name[1]
            if name[2] == "old" and not os.path.lexists(target) and is_owned(folder, kind):
                folder.rename(target)
            else:
                remove_owned(folder, kind)


def _is_left_over(folder: Path) -> bool:
    """Whether no process works any more in a folder with a temporary name. Raises `OSError` if it goes meanwhile."""
    marker = read_marker(folder)
    if marker is None:
        return time.time() - folder.lstat().st_mtime > EMPTY_FOLDER_AGE or _has_ended(folder.name)
    if folder.suffix == ".old":  # its marker names the process that made it; its name, the one that set it aside
        return _has_ended(folder.name) or _is_unchanged(folder)
    running = is_running(marker)
    return _is_unchanged(folder) if running is None else not running


def _is_unchanged(folder: Path) -> bool:
    """Whether a folder, its name and content have not changed for `UNCHANGED_AGE` seconds. Links are not followed."""
    inside = (Path(parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    last = max(max(status.st_mtime, status.st_ctime) for status in map(Path.lstat, (folder, *inside)))
    return time.time() - last > UNCHANGED_AGE

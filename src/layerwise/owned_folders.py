"""Folders that Layerwise makes and may remove again, told by a sealed marker inside.

Only a folder with such a marker is ever removed, whatever it is called, and links inside it are never followed. The marker says which
process made it: what a killed one left is removed by the next, and what one of another machine left when nothing in it has changed for a
day. A folder that was set aside to be replaced gets its name back if the replacement did not come.
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

from layerwise import strict_json
from layerwise.process_identity import describe_process, is_running, machine_tag

MARKER = ".layerwise"
LARGEST = 4096  # bytes of a marker
PASSING = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(new|old)", re.DOTALL)
OLD = 3600  # seconds, after which nobody is making an empty folder any more
UNTOUCHED = 24 * 3600  # seconds, after which nobody is at work in a folder
LONGEST_NAME = 200  # bytes of a target's name in a passing one


def _seal(kind: str) -> bytes:
    """Return a marker's bytes: the kind of folder, the process that makes it, and a checksum."""
    body = strict_json.dumps({"made by": "layerwise", "kind": kind, **describe_process()}, sort_keys=True)
    return f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode()


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's marker says; None for a link, a folder without a marker, and a marker that was not written by us."""
    path = folder / MARKER
    try:
        if folder.is_symlink() or path.is_symlink() or path.stat().st_size > LARGEST:
            return None
        body, digest = path.read_text(encoding="utf-8").split("\n")[:2]
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            return None
        found = strict_json.loads(body)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("made by") == "layerwise" else None


def is_owned(folder: Path, kind: str) -> bool:
    """Whether a folder carries our marker, of this kind."""
    marker = read_marker(folder)
    return marker is not None and marker.get("kind") == kind


def make_owned(folder: Path, kind: str, *, durable: bool = True) -> None:
    """Make a folder with our marker. ``durable`` waits until the marker is on the disk. Raises `OSError` where the disk refuses."""
    folder.mkdir()
    mark_owned(folder, kind, durable=durable)


def mark_owned(folder: Path, kind: str, *, durable: bool = True) -> None:
    """Put our marker into a folder that is known to be ours. Raises `OSError` if there is one, and where the disk refuses.

    A marker without a byte, which a kill or a power cut leaves, is none.
    """
    empty = folder / MARKER
    if empty.is_file() and not empty.is_symlink() and not empty.lstat().st_size:
        empty.unlink()
    handle = os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with os.fdopen(handle, "wb") as stream:
        stream.write(_seal(kind))
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def remove_owned(folder: Path, kind: str) -> bool:
    """Remove a folder that carries our marker, of this kind; return whether it is gone. Everything else stays as it is.

    The marker goes last, so that a kill on the way leaves a folder that the next call removes. A folder in which nothing is goes too.
    """
    if folder.is_symlink() or not folder.is_dir():
        return not folder.exists()
    if is_owned(folder, kind) or holds_nothing(folder):
        with suppress(OSError):
            for entry in list(folder.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != MARKER:
                    entry.unlink()
            (folder / MARKER).unlink(missing_ok=True)
            folder.rmdir()
    return not folder.exists()


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty but for a marker without a byte: what a kill leaves while a folder is made."""
    entries = list(folder.iterdir())
    return not entries or (entries == [folder / MARKER] and not entries[0].is_symlink() and entries[0].lstat().st_size == 0)


def remove_inside(path: Path, owner: Path, kind: str) -> bool:
    """Remove a file somewhere below a folder that carries our marker, of this kind; return whether it is gone. No link is followed."""
    between = path.relative_to(owner).parents[:-1]
    if is_owned(owner, kind) and not any((owner / part).is_symlink() for part in between):
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def passing_name(target: Path, *, ending: str = "new") -> Path:
    """Return a hidden name beside a target that nobody else has. It tells machine and process: the folder has no marker at first.

    A folder that will be there is ``new``. One that was there is ``old``: its name is never cut, so that it can be given back.
    """
    name = target.name if ending == "old" else os.fsencode(target.name)[:LONGEST_NAME].decode(errors="ignore")
    return target.with_name(f".{name}.{machine_tag()}{os.getpid() & 0xFFFFFF:06x}{secrets.token_hex(3)}.{ending}")


def find_passing(target: Path) -> list[Path]:
    """Return what lies beside a target under passing names that were chosen for it."""
    beside = sorted(target.parent.glob(".*")) if target.parent.is_dir() else []
    return [path for path in beside if (found := PASSING.fullmatch(path.name)) and found[1] == target.name]


def _has_ended(name: str) -> bool:
    """Whether the process that chose a passing name ran on this machine and is gone."""
    tag = name[-len("0123456789abcdef.new") :]
    return tag.startswith(machine_tag()) and not psutil.pid_exists(int(tag[4:10], 16))


def sweep_unfinished(place: Path, kind: str, *, alone: bool = False) -> None:
    """Remove the unfinished folders of a kind that killed processes left in a place; give one that was set aside its name back if that is
    free.

    ``alone``: nobody else works there, so that all of them are left over; else those whose process has ended, those of another machine in
    which nothing has changed for a day, and old empty ones.
    """
    for folder in place.glob(".*") if place.is_dir() else ():
        name = PASSING.fullmatch(folder.name)
        with suppress(OSError):
            if name is None or not (alone or _is_left_over(folder)):
                continue
            target = place / name[1]
            if name[2] == "old" and not os.path.lexists(target) and is_owned(folder, kind):
                folder.rename(target)
            else:
                remove_owned(folder, kind)


def _is_left_over(folder: Path) -> bool:
    """Whether nobody is at work any more in a folder with a passing name. Raises `OSError` if it goes meanwhile."""
    marker = read_marker(folder)
    if marker is None:
        return time.time() - folder.lstat().st_mtime > OLD or _has_ended(folder.name)
    if folder.suffix == ".old":  # its marker tells who made it; its name, who set it aside
        return _has_ended(folder.name) or _is_untouched(folder)
    running = is_running(marker)
    return _is_untouched(folder) if running is None else not running


def _is_untouched(folder: Path) -> bool:
    """Whether a folder, its name and everything in it have not changed for `UNTOUCHED` seconds. Links are not followed."""
    inside = (Path(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files))
    return time.time() - max(max(status.st_mtime, status.st_ctime) for status in map(Path.lstat, (folder, *inside))) > UNTOUCHED

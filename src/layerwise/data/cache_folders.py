"""Folders that hold what was made once and is used again: written beside their place and renamed when whole, bounded together."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from layerwise.data.source import Array
from layerwise.errors import DamagedError

SPARE = 0.1  # share of the disk that is left free
INDEX, PART = "index.json", ".part"  # the file that says what a folder holds; the end of an unfinished folder's name
GIB = 1 << 30


def place_of(cache: str, kind: str) -> Path:
    """Return the folder that holds caches of a kind: the one named, or that of the kind in the user's cache folder."""
    if cache not in ("", "auto"):
        return Path(cache).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("layerwise")) / kind


def no_room(place: Path, needed: int, limit: int, *, written: int = 0) -> str:
    """Return why so many bytes, of which some are ``written`` already, are not kept there; the empty text if they may be.

    ``limit`` bytes is the most all caches take together.
    """
    if needed > limit:
        return f"they would take {needed / GIB:.1f} GiB, and data.cache_gib allows {limit / GIB:g}"
    existing = next((folder for folder in (place, *place.parents) if folder.is_dir()), None)
    if existing is None:
        return f"there is no folder {place}"
    disk = shutil.disk_usage(existing)
    if disk.free - (needed - written) < SPARE * disk.total:
        return f"the disk of {place} would have less than {SPARE:.0%} free"
    return ""


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, renamed to ``folder`` at the end; removed if anything goes wrong."""
    with unfinished(folder) as part:
        yield part
        settle(part, folder)


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, removed at the end if it is still there."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}{PART}")
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def settle(part: Path, folder: Path) -> None:
    """Rename a finished folder to its place. Another run that was done first made the same."""
    shutil.rmtree(folder, ignore_errors=True)  # one that was not whole
    try:
        part.rename(folder)
    except OSError:
        if not (folder / INDEX).is_file():
            raise


def damaged(folder: str, found: Array, sums: Array) -> list[int]:
    """Return which of some examples (N, …) that were read differ from their CRC-32 (N,); if any, the next run builds the folder anew."""
    wrong = [place for place, one in enumerate(found) if zlib.crc32(one) != sums[place]]
    if wrong:
        with suppress(OSError):
            Path(folder, INDEX).unlink()
    return wrong


def not_as_written(folder: str, name: str, what: str) -> DamagedError:
    """Make the error for a file that was damaged and cannot be mended on the way; ``what`` it should hold."""
    return DamagedError(f"{folder}/{name} is not what was written", expected=what, do="start again: it is built anew")


def tidy(place: Path, limit: int, *, large: str) -> None:
    """Remove what killed processes left, then the least recently used caches until the rest takes at most ``limit`` bytes.

    ``large`` is the file that marks a cache of this kind and holds most of its bytes; nothing else is touched.
    """
    kept: list[tuple[float, int, Path]] = []
    for folder in sorted(place.iterdir()) if place.is_dir() else []:
        if folder.name.endswith(PART):
            process = folder.name.split(".")[-2]
            if not (process.isdigit() and psutil.pid_exists(int(process))):
                shutil.rmtree(folder, ignore_errors=True)
        elif (folder / large).is_file():
            index = folder / INDEX
            used = index.stat().st_mtime if index.is_file() else 0.0
            kept.append((used, (folder / large).stat().st_size, folder))
    total = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept):
        if total <= limit:
            break
        shutil.rmtree(folder, ignore_errors=True)
        total -= size

"""Folders that hold what was made once and is used again: built beside their place, put there when complete, bounded
together.

Each is a folder of our own (`layerwise.runtime.owned_folders`): whatever else lies in the same place is never touched.
``index.json`` is sealed and says what the folder holds, with a checksum of every small file; large files carry
checksums by block, which are looked at as they are read.
"""

from __future__ import annotations

import io
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from layerwise.data.source import Array
from layerwise.errors import DamagedError, LayerwiseError
from layerwise.runtime.atomic_io import is_plain_file, make_folder, open_own, write_file
from layerwise.runtime.checksums import digest_of, sealed, unsealed
from layerwise.runtime.folder_io import (
    build_folder,
    check_folder_target,
    hold_lock,
    open_unfinished,
    put_folder,
    remove_new_folders_on_error,
)
from layerwise.runtime.owned_folders import is_owned, remove_owned, sweep_unfinished

SPARE = 0.1  # share of the disk that is left free
INDEX = "index.json"  # the file that says what a folder holds
KIND = "cache"
LARGEST = 1 << 20  # bytes of an index
GIB = 1 << 30
StructT = TypeVar("StructT", bound=msgspec.Struct)


def place_of(cache: str, kind: str) -> Path:
    """Return the folder that holds caches of a kind: the one named, or that of the kind in the user's cache folder."""
    if cache not in ("", "auto"):
        return Path(cache).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("layerwise")) / kind


def no_room(place: Path, needed: int, limit: int, *, written: int = 0) -> str:
    """Return why so many bytes, of which some are ``written`` already, are not kept there; the empty text if they may
    be.

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


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def lock_cache(folder: Path, *, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Wait for another process that builds the same folder, calling ``on_wait`` every second, and keep others
    waiting."""
    with remove_new_folders_on_error(folder.parent):
        make_folder(folder.parent)
        with hold_lock(folder.with_name(f"{folder.name}.lock"), wait=True, on_wait=on_wait):
            yield


@contextmanager
def build_cache(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, which takes its place at the end; one of ours that is there is replaced. Removed if
    anything goes wrong. Raises `UsageError` if a link or a folder that is not ours is in the place."""
    with build_folder(folder, KIND, replace=True) as part:
        yield part


@contextmanager
def open_part(folder: Path) -> Iterator[Path]:
    """Yield a new folder of ours beside ``folder``, for `put_cache` to put there; removed at the end if it was not.

    Raises `UsageError` if a link or a folder that is not ours is in the place.
    """
    check_folder_target(folder, KIND, replace=True)
    with open_unfinished(folder, KIND) as part:
        yield part


def put_cache(part: Path, folder: Path) -> None:
    """Give a finished folder its place. Raises `UsageError` if a link or a folder that is not ours is there."""
    put_folder(part, folder, KIND, durable=False)  # it carries checksums: what a power cut spoils is made again


def write_index(part: Path, content: msgspec.Struct, *small: str) -> None:
    """Write the index of a folder, with the checksums of its small files."""
    digests = {name: digest_of(part / name) for name in small if (part / name).exists()}
    with open_own(part / INDEX, root=part) as stream:
        stream.write(sealed({"content": msgspec.to_builtins(content), "digests": digests}))


# -- reading -----------------------------------------------------------------------------------------------------------


def read_index(folder: Path, kind: type[StructT], *small: str) -> StructT | None:
    """Return what a folder's index says, if it and the small files are as they were written; None if not, and that is
    said."""
    if not folder.exists() and not folder.is_symlink():
        return None
    path = folder / INDEX
    try:
        if not is_owned(folder, KIND) or not is_plain_file(path, root=folder) or path.stat().st_size > LARGEST:
            return None
        found = unsealed(path.read_bytes(), path)
        content = msgspec.convert(found["content"], kind)
        digests: Mapping[str, str] = msgspec.convert(found["digests"], dict[str, str])
        for name in small:
            there = os.path.lexists(folder / name)
            plain = is_plain_file(folder / name, root=folder)  # a pipe or a link is never opened
            if there != (name in digests) or there != plain or (there and digest_of(folder / name) != digests[name]):
                _say_damaged(folder, name)
                return None
    except (OSError, LayerwiseError, KeyError, TypeError, ValueError):
        _say_damaged(folder, INDEX)
        return None
    return content


def _say_damaged(folder: Path, name: str) -> None:
    """Say that a folder is made again."""
    logging.getLogger("layerwise").warning("%s is not as it was written: the folder is made again", folder / name)


def load_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Array:
    """Return an ``.npy`` file, mapped, as `numpy.save` writes one of this type and shape. Its header is compared and
    never parsed.

    Raises `ValueError` for a link, a device, another header and another length.
    """
    wanted = io.BytesIO()
    kind = np.dtype(dtype)
    descr = np.lib.format.dtype_to_descr(kind)
    np.lib.format.write_array_header_1_0(wanted, {"descr": descr, "fortran_order": False, "shape": shape})
    header, length = wanted.getvalue(), math.prod(shape) * kind.itemsize
    if not has_size(path, len(header) + length):
        raise ValueError(f"{path} has another length than {kind} {shape}")
    with path.open("rb") as file:
        if file.read(len(header)) != header:
            raise ValueError(f"{path} does not hold {kind} {shape}")
    return np.memmap(path, dtype=kind, mode="r", offset=len(header), shape=shape) if length else np.empty(shape, kind)


def has_size(path: Path, size: int) -> bool:
    """Whether a plain file has so many bytes."""
    return is_plain_file(path, root=path.parent) and path.stat().st_size == size


def mark_used(folder: Path) -> None:
    """Note that a folder was used now: the longest unused ones make room first."""
    with suppress(OSError):
        os.utime(folder / INDEX, follow_symlinks=False)


def find_damaged(folder: str, found: Array, sums: Array) -> list[int]:
    """Return which of some examples (N, …) that were read differ from their CRC-32 (N,); if any, the next run builds
    the folder anew."""
    wrong = [place for place, one in enumerate(found) if zlib.crc32(one) != sums[place]]
    if wrong and is_owned(Path(folder), KIND):
        with suppress(OSError, LayerwiseError):
            write_file(Path(folder) / INDEX, b"damaged\n", root=Path(folder))
    return wrong


def not_as_written(folder: str, name: str, what: str) -> DamagedError:
    """Make the error for a file that was damaged and cannot be mended on the way; ``what`` it should hold."""
    return DamagedError(f"{folder}/{name} is not what was written", expected=what, do="start again: it is built anew")


# -- room --------------------------------------------------------------------------------------------------------------


def make_room(place: Path, limit: int, *, large: str) -> None:
    """Remove what killed processes left, then the least recently used caches until the rest takes at most ``limit``
    bytes.

    ``large`` is the file that marks a cache of this kind and holds most of its bytes. Only folders with our marker are
    removed.
    """
    sweep_unfinished(place, KIND)
    kept: list[tuple[float, int, Path]] = []
    for folder in sorted(place.iterdir()) if place.is_dir() else []:
        if not folder.name.startswith(".") and is_owned(folder, KIND) and is_plain_file(folder / large, root=folder):
            index = folder / INDEX
            used = index.lstat().st_mtime if index.exists() else 0.0
            kept.append((used, (folder / large).lstat().st_size, folder))
    total = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept):
        if total <= limit:
            break
        if remove_owned(folder, KIND):
            total -= size

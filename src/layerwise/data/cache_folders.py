"""Cache folders: written to a temporary folder, moved to their path when complete, bounded in size together.

Each is a folder of our own (`layerwise.runtime.owned_folders`): other files in the same folder are never touched.
``index.json`` is checksummed and describes the contents, with a checksum of every small file; large files carry
checksums by block, which are verified as they are read.
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
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.checksums import digest_file, dump_checksummed, load_checksummed
from layerwise.runtime.folder_io import (
    build_folder,
    check_folder_target,
    hold_lock,
    open_unfinished,
    put_folder,
    remove_new_folders_on_error,
)
from layerwise.runtime.in_place_io import open_in_place
from layerwise.runtime.owned_folders import is_owned, remove_owned, sweep_unfinished
from layerwise.runtime.write_checks import is_plain_file

MIN_FREE_FRACTION = 0.1  # share of the disk that is left free
INDEX = "index.json"  # describes the contents of a folder
KIND = "cache"
MAX_INDEX_BYTES = 1 << 20  # bytes of an index
GIB = 1 << 30
StructT = TypeVar("StructT", bound=msgspec.Struct)
ProgressCallback = Callable[[int, int], None]  # how much is done, of how much (0: not known)


def get_cache_root(cache: str, kind: str) -> Path:
    """Return the folder that holds caches of a kind: ``cache``, or a folder of that kind in the user's cache folder."""
    if cache not in ("", "auto"):
        return Path(cache).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("layerwise")) / kind


def explain_no_space(root: Path, needed: int, limit: int, *, already_written: int = 0) -> str:
    """Return why ``needed`` bytes cannot be stored in ``root``, or an empty string if they can.

    ``already_written`` of them are on the disk. All caches together may take ``limit`` bytes.
    """
    if needed > limit:
        return f"they would take {needed / GIB:.1f} GiB, and data.cache_gib allows {limit / GIB:g}"
    existing = next((folder for folder in (root, *root.parents) if folder.is_dir()), None)
    if existing is None:
        return f"there is no folder {root}"
    disk = shutil.disk_usage(existing)
    if disk.free - (needed - already_written) < MIN_FREE_FRACTION * disk.total:
        return f"the disk of {root} would have less than {MIN_FREE_FRACTION:.0%} free"
    return ""


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def lock_cache(folder: Path, *, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Lock a folder that is being built; while another process has the lock, call ``on_wait`` every second."""
    with remove_new_folders_on_error(folder.parent):
        make_folder(folder.parent)
        with hold_lock(folder.with_name(f"{folder.name}.lock"), wait=True, on_wait=on_wait):
            yield


@contextmanager
def build_cache(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, which is moved to ``folder`` at the end and replaces a cache there.

    It is removed on errors. Raises `UsageError` if a link or a folder that is not ours is at the path.
    """
    with build_folder(folder, KIND, replace=True) as part:
        yield part


@contextmanager
def open_part(folder: Path) -> Iterator[Path]:
    """Yield a new folder of ours beside ``folder``, for `install_cache` to move there; else it is removed at the end.

    Raises `UsageError` if a link or a folder that is not ours is at the path.
    """
    check_folder_target(folder, KIND, replace=True)
    with open_unfinished(folder, KIND) as part:
        yield part


def install_cache(part: Path, folder: Path) -> None:
    """Move a finished folder to its path. Raises `UsageError` if a link or a folder that is not ours is there."""
    put_folder(part, folder, KIND, durable=False)  # it has checksums: after a power failure it is rebuilt


def write_index(part: Path, content: msgspec.Struct, *small: str) -> None:
    """Write the index of a folder, with the checksums of its small files."""
    digests = {name: digest_file(part / name) for name in small if (part / name).exists()}
    with open_in_place(part / INDEX, root=part) as stream:
        stream.write(dump_checksummed({"content": msgspec.to_builtins(content), "digests": digests}))


# -- reading -----------------------------------------------------------------------------------------------------------


def read_index(folder: Path, kind: type[StructT], *small: str) -> StructT | None:
    """Return a folder's index if it and the small files are intact; else warn and return None."""
    if not folder.exists() and not folder.is_symlink():
        return None
    path = folder / INDEX
    try:
        if not is_owned(folder, KIND) or not is_plain_file(path, root=folder) or path.stat().st_size > MAX_INDEX_BYTES:
            return None
        record = load_checksummed(path.read_bytes(), path)
        content = msgspec.convert(record["content"], kind)
        digests: Mapping[str, str] = msgspec.convert(record["digests"], dict[str, str])
        for name in small:
            exists = os.path.lexists(folder / name)
            is_plain = is_plain_file(folder / name, root=folder)  # a pipe or a link is never opened
            if (
                exists != (name in digests)
                or exists != is_plain
                or (exists and digest_file(folder / name) != digests[name])
            ):
                _warn_damaged(folder, name)
                return None
    except (OSError, LayerwiseError, KeyError, TypeError, ValueError):
        _warn_damaged(folder, INDEX)
        return None
    return content


def _warn_damaged(folder: Path, name: str) -> None:
    """Warn that a folder is rebuilt."""
    logging.getLogger("layerwise").warning("%s is not as it was written: the folder is made again", folder / name)


def load_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Array:
    """Return a memory-mapped ``.npy`` file of this type and shape. Its header is compared with the one that
    `numpy.save` writes, never parsed.

    Raises `ValueError` for a link, a device, another header and another length.
    """
    expected = io.BytesIO()
    kind = np.dtype(dtype)
    descr = np.lib.format.dtype_to_descr(kind)
    np.lib.format.write_array_header_1_0(expected, {"descr": descr, "fortran_order": False, "shape": shape})
    header, length = expected.getvalue(), math.prod(shape) * kind.itemsize
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
    """Record that a folder was used now: the least recently used are evicted first."""
    with suppress(OSError):
        os.utime(folder / INDEX, follow_symlinks=False)


def find_damaged(folder: str, examples: Array, sums: Array) -> list[int]:
    """Return the indices of examples (N, …) that differ from their CRC-32 (N,); if any, the next run rebuilds the
    folder."""
    damaged = [index for index, example in enumerate(examples) if zlib.crc32(example) != sums[index]]
    if damaged and is_owned(Path(folder), KIND):
        with suppress(OSError, LayerwiseError):
            write_file(Path(folder) / INDEX, b"damaged\n", root=Path(folder))
    return damaged


def make_damaged_error(folder: str, name: str, what: str) -> DamagedError:
    """Return the error for a damaged file that cannot be repaired while reading; ``what`` it should hold."""
    return DamagedError(f"{folder}/{name} is not what was written", expected=what, do="start again: it is built anew")


# -- eviction ----------------------------------------------------------------------------------------------------------


def evict_caches(root: Path, limit: int, *, large: str) -> None:
    """Remove leftovers of killed processes, then the least recently used caches until the rest takes at most ``limit``
    bytes.

    ``large`` is the file that identifies a cache of this kind and holds most of its bytes. Only folders with our marker
    are removed.
    """
    sweep_unfinished(root, KIND)
    caches: list[tuple[float, int, Path]] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not folder.name.startswith(".") and is_owned(folder, KIND) and is_plain_file(folder / large, root=folder):
            index = folder / INDEX
            last_used = index.lstat().st_mtime if index.exists() else 0.0
            caches.append((last_used, (folder / large).lstat().st_size, folder))
    total = sum(size for _, size, _ in caches)
    for _, size, folder in sorted(caches):
        if total <= limit:
            break
        if remove_owned(folder, KIND):
            total -= size

"""Decoded images kept on disk, memory-mapped, so that later epochs and later runs need not decode them again.

A cache is a folder: ``pixels.npy`` (N, H, W, C) uint8, ``sums.npy`` (N,) the CRC-32 of each image, and
    ``index.json``. Its name is a
hash of what decides the pixels: names and contents of the files, size, channels, and the versions of what decodes. So
    it never has to
be told that it is out of date: other files have another name. It is built beside its place and renamed when it is
whole; each image is checked when it is read, and one that is damaged is decoded from its file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL
import torch

from layerwise.data import cache_folders
from layerwise.data.cache_folders import (
    build_cache,
    find_damaged,
    load_array,
    lock_cache,
    make_room,
    mark_used,
    no_room,
    read_index,
    write_index,
)
from layerwise.data.images.folders import ImageSource
from layerwise.data.source import Array, Example, Examples, Relabeled, Schema, Source, Subset
from layerwise.errors import StorageError, UsageError
from layerwise.runtime.atomic_io import is_plain_file, open_own, save_array
from layerwise.runtime.machine import cores

FORMAT = 2
CHUNK = 256  # images decoded between two writes
PIXELS, SUMS = "pixels.npy", "sums.npy"
Told = Callable[[int, int], None]  # done, of how many


class Index(msgspec.Struct, frozen=True):
    """What a folder with images holds: where they are from, their shape (N, H, W, C), and by what they were
    decoded."""

    format: int
    origin: str
    shape: tuple[int, int, int, int]
    pillow: str
    torch: str


@dataclass(frozen=True)
class CachedImages:
    """Images of another source, read from a cache folder."""

    base: ImageSource
    folder: str

    @property
    def schema(self) -> Schema:
        """What the examples are."""
        return self.base.schema

    @property
    def targets(self) -> Array:
        """All labels or numbers, (N,)."""
        return self.base.targets

    @cached_property
    def _kept(self) -> tuple[Array, Array] | None:
        """The images, mapped, and their sums; None if the cache is gone: another run may have needed its room."""
        try:
            sums = load_array(Path(self.folder, SUMS), np.uint32, (len(self),))
            return load_array(Path(self.folder, PIXELS), np.uint8, _shape(self.base)), sums
        except (OSError, ValueError):
            return None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the map out: a worker opens its own."""
        return {"base": self.base, "folder": self.folder}

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Example:
        found = self.fetch([index])
        return Example(np.asarray(found.inputs[0]), self.targets[index].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order, with their weights."""
        at = np.asarray(indices, dtype=np.int64)
        if self._kept is None:
            return self.base.fetch(at)
        pixels, sums = self._kept
        out = pixels[at]
        for place in find_damaged(self.folder, out, sums[at]):
            out[place] = self.base[int(at[place])].input
        weights = None if self.base.weights is None else self.base.weights[at]
        return Examples(out, self.targets[at], at, weights)

    def name_of(self, index: int) -> str:
        """Return the file's path."""
        return self.base.name_of(index)

    def fingerprint(self) -> str:
        """Return the files' own."""
        return self.base.fingerprint()


def beneath(source: Source) -> ImageSource | None:
    """Return the files under subsets and other labels, if there are any that are brought to a size."""
    while isinstance(source, Subset | Relabeled):
        source = source.base
    return source if isinstance(source, ImageSource) and source.size is not None else None


def served(source: Source, folder: Path) -> Source:
    """Return the source with its files read from a cache."""
    if isinstance(source, Subset | Relabeled):
        return replace(source, base=served(source.base, folder))
    assert isinstance(source, ImageSource)
    return CachedImages(source, str(folder))


def name_for(files: ImageSource) -> str:
    """Return the name of the cache of these files."""
    size, channels = files.size, files.schema.shape[2]
    parts = (FORMAT, files.digest, len(files), size, channels, PIL.__version__, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def bytes_of(files: ImageSource) -> int:
    """Return how many bytes the images take."""
    assert files.size is not None
    return len(files) * files.size[0] * files.size[1] * files.schema.shape[2]


def place_of(cache: str) -> Path:
    """Return the folder that holds caches: the one named, or the user's cache folder."""
    return cache_folders.place_of(cache, "images")


def whole(folder: Path, files: ImageSource) -> bool:
    """Whether a folder holds the cache of these files, by its index and its sizes."""
    index = read_index(folder, Index, SUMS)
    if (
        index is None
        or index.format != FORMAT
        or index.shape != _shape(files)
        or not is_plain_file(folder / PIXELS, root=folder)
    ):
        return False
    try:
        load_array(folder / PIXELS, np.uint8, _shape(files))
        load_array(folder / SUMS, np.uint32, (len(files),))
    except (OSError, ValueError, EOFError):
        return False
    return True


def _shape(files: ImageSource) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, C) of all images."""
    assert files.size is not None
    return (len(files), *files.size, files.schema.shape[2])


def refused(place: Path, files: Sequence[ImageSource], limit: int) -> str:
    """Return why these files are not cached, the empty text if they may be. ``limit`` bytes is the most all caches take
    together."""
    needed = sum(bytes_of(one) for one in files)
    return no_room(place, needed, limit)


def opened(place: Path, files: ImageSource, *, limit: int, told: Told) -> Path | str:
    """Return the folder of the cache of these files, built if it is not there or not whole; or the reason why there is
    none.

    Args:
        place: the folder that holds caches.
        files: images that are brought to a size.
        limit: bytes; the least recently used caches beyond it are removed first.
        told: called with how many images are decoded, of how many.

    Raises `DataError` for a file that can no longer be decoded.
    """
    folder = place / name_for(files)
    if whole(folder, files):
        mark_used(folder)
        return folder
    if reason := refused(place, [files], limit):
        return reason
    try:
        with lock_cache(folder, on_wait=lambda: told(0, len(files))):
            if not whole(folder, files):  # else another process has built it meanwhile
                make_room(place, limit - bytes_of(files), large=PIXELS)
                with build_cache(folder) as part:
                    _write(part, files, told)
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    except (StorageError, UsageError) as error:  # a full disk, or something that is not ours in the place
        return error.what
    return folder


def _write(part: Path, files: ImageSource, told: Told) -> None:
    """Decode all images on threads, and write them one after the other: a full disk is an error so, not a killed
    process."""
    shape = _shape(files)
    sums = np.empty(len(files), dtype=np.uint32)
    with open_own(part / PIXELS, root=part) as stream, ThreadPoolExecutor(max_workers=min(16, cores())) as pool:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(files), CHUNK):
            numbers = range(start, min(start + CHUNK, len(files)))
            for number, example in zip(numbers, pool.map(files.__getitem__, numbers), strict=True):
                sums[number] = zlib.crc32(example.input.data)
                stream.write(example.input.data)
            told(numbers.stop, len(files))
    save_array(part / SUMS, sums, root=part)
    write_index(part, Index(FORMAT, files.place.origin, shape, PIL.__version__, str(torch.__version__)), SUMS)

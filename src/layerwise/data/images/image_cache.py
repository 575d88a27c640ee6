"""Decoded images on disk, memory-mapped, so that later epochs and later runs do not decode them again.

A cache is a folder: ``pixels.npy`` (N, H, W, C) uint8, ``sums.npy`` (N,) the CRC-32 of each image, and ``index.json``.
Its name is a hash of all that decides the pixels: names and contents of the files, size, channels, and the versions of
the decoding libraries. So a cache is never out of date: other files have another name. It is built in a temporary
folder and renamed when it is complete; each image is checked when it is read, and a damaged one is decoded from its
file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
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
    ProgressCallback,
    build_cache,
    evict_caches,
    explain_no_space,
    find_damaged,
    load_array,
    lock_cache,
    mark_used,
    read_index,
    write_index,
)
from layerwise.data.images.folders import ImageSource
from layerwise.data.source import Array, Example, Examples, Relabeled, Schema, Source, Subset
from layerwise.errors import StorageError, UsageError
from layerwise.runtime.in_place_io import open_in_place, save_array
from layerwise.runtime.resources import count_cores
from layerwise.runtime.write_checks import is_plain_file

FORMAT = 2
CHUNK = 256  # images decoded between two writes
PIXELS, SUMS = "pixels.npy", "sums.npy"


class Index(msgspec.Struct, frozen=True):
    """The contents of a cache: where the images are from, their shape (N, H, W, C), and the versions that decoded
    them."""

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
    def _arrays(self) -> tuple[Array, Array] | None:
        """The images, memory-mapped, and their checksums; None if the cache is gone: another run may have evicted
        it."""
        try:
            sums = load_array(Path(self.folder, SUMS), np.uint32, (len(self),))
            return load_array(Path(self.folder, PIXELS), np.uint8, _get_shape(self.base)), sums
        except (OSError, ValueError):
            return None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map out: a worker opens its own."""
        return {"base": self.base, "folder": self.folder}

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Example:
        examples = self.fetch([index])
        return Example(np.asarray(examples.inputs[0]), self.targets[index].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order, with their weights."""
        at = np.asarray(indices, dtype=np.int64)
        if self._arrays is None:
            return self.base.fetch(at)
        pixels, sums = self._arrays
        out = pixels[at]
        for position in find_damaged(self.folder, out, sums[at]):
            out[position] = self.base[int(at[position])].input
        weights = None if self.base.weights is None else self.base.weights[at]
        return Examples(out, self.targets[at], at, weights)

    def name_of(self, index: int) -> str:
        """Return the file's path."""
        return self.base.name_of(index)

    def fingerprint(self) -> str:
        """Return the fingerprint of the files."""
        return self.base.fingerprint()


def find_image_source(source: Source) -> ImageSource | None:
    """Return the image source under subsets and other labels, if there is one that resizes its images."""
    while isinstance(source, Subset | Relabeled):
        source = source.base
    return source if isinstance(source, ImageSource) and source.size is not None else None


def use_cache(source: Source, folder: Path) -> Source:
    """Return the source with its images read from a cache."""
    if isinstance(source, Subset | Relabeled):
        return replace(source, base=use_cache(source.base, folder))
    assert isinstance(source, ImageSource)
    return CachedImages(source, str(folder))


def compute_cache_name(files: ImageSource) -> str:
    """Return the name of the cache of these files."""
    size, channels = files.size, files.schema.shape[2]
    parts = (FORMAT, files.digest, len(files), size, channels, PIL.__version__, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def count_bytes(files: ImageSource) -> int:
    """Return how many bytes the images take."""
    assert files.size is not None
    return len(files) * files.size[0] * files.size[1] * files.schema.shape[2]


def get_cache_root(cache: str) -> Path:
    """Return the folder that holds caches: ``cache``, or one in the user's cache folder."""
    return cache_folders.get_cache_root(cache, "images")


def is_complete(folder: Path, files: ImageSource) -> bool:
    """Whether a folder holds the complete cache of these files, by its index and file sizes."""
    index = read_index(folder, Index, SUMS)
    if (
        index is None
        or index.format != FORMAT
        or index.shape != _get_shape(files)
        or not is_plain_file(folder / PIXELS, root=folder)
    ):
        return False
    try:
        load_array(folder / PIXELS, np.uint8, _get_shape(files))
        load_array(folder / SUMS, np.uint32, (len(files),))
    except (OSError, ValueError, EOFError):
        return False
    return True


def _get_shape(files: ImageSource) -> tuple[int, int, int, int]:
    """Return the shape (N, H, W, C) of all images."""
    assert files.size is not None
    return (len(files), *files.size, files.schema.shape[2])


def explain_refusal(root: Path, files: Sequence[ImageSource], limit: int) -> str:
    """Return why these files cannot be cached, or an empty string if they can. All caches together may take ``limit``
    bytes."""
    needed = sum(count_bytes(source) for source in files)
    return explain_no_space(root, needed, limit)


def open_cache(root: Path, files: ImageSource, *, limit: int, progress: ProgressCallback) -> Path | str:
    """Return the folder of the cache of these files, built if it is missing or not complete; or the reason why there
    is none.

    Args:
        root: the folder that holds caches.
        files: images that are resized while decoding.
        limit: bytes; the least recently used caches beyond it are removed first.
        progress: called with how many images are decoded, of how many.

    Raises `DataError` for a file that can no longer be decoded.
    """
    folder = root / compute_cache_name(files)
    if is_complete(folder, files):
        mark_used(folder)
        return folder
    if reason := explain_refusal(root, [files], limit):
        return reason
    try:
        with lock_cache(folder, on_wait=lambda: progress(0, len(files))):
            if not is_complete(folder, files):  # else another process has built it meanwhile
                evict_caches(root, limit - count_bytes(files), large=PIXELS)
                with build_cache(folder) as part:
                    _write_cache(part, files, progress)
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    except (StorageError, UsageError) as error:  # a full disk, or something that is not ours at the path
        return error.what
    return folder


def _write_cache(part: Path, files: ImageSource, progress: ProgressCallback) -> None:
    """Decode all images on threads and write them one after the other: so a full disk is an error, not a killed
    process."""
    shape = _get_shape(files)
    sums = np.empty(len(files), dtype=np.uint32)
    with (
        open_in_place(part / PIXELS, root=part) as stream,
        ThreadPoolExecutor(max_workers=min(16, count_cores())) as pool,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(files), CHUNK):
            numbers = range(start, min(start + CHUNK, len(files)))
            for number, example in zip(numbers, pool.map(files.__getitem__, numbers), strict=True):
                sums[number] = zlib.crc32(example.input.data)
                stream.write(example.input.data)
            progress(numbers.stop, len(files))
    save_array(part / SUMS, sums, root=part)
    write_index(part, Index(FORMAT, files.store.origin, shape, PIL.__version__, str(torch.__version__)), SUMS)

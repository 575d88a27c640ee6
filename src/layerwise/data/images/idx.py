"""IDX, the format of MNIST: pairs ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, gzipped or
not.

Layout: two zero bytes, the type (8: unsigned bytes), the number of dimensions, each dimension as a big-endian
32-bit count, the values. The header is checked against the file before anything is allocated, and no more than it
claims is decompressed.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from layerwise.data.source import Array, ArraySource, Schema
from layerwise.errors import DataError
from layerwise.runtime.input_files import open_regular_file

MAX_BYTES = 4 << 30
MAX_DEFLATE_RATIO = 1032  # no deflate stream expands more than this
NAME = re.compile(r"^(?P<prefix>.*?)[-._]?(?P<kind>images|labels)[-._]idx[13]-ubyte(\.gz)?$")
PARTS = {"train": "train", "t10k": "test", "test": "test", "val": "val", "valid": "val"}


def is_idx(folder: Path) -> bool:
    """Whether a folder holds IDX files, by their names."""
    return any(NAME.match(entry.name) for entry in folder.iterdir())


def read_idx_folder(folder: Path, classes: tuple[str, ...] = ()) -> dict[str, ArraySource]:
    """Read the pairs of a folder as parts: ``train``, and ``test`` from ``t10k``. Images (H, W, 1) uint8.

    ``classes`` name the labels; without them the names are ``"0"``, ``"1"``, … up to the largest label of the
    training part. Raises `DataError` for missing, damaged or inconsistent files and for labels out of range.
    """
    pairs = _find_pairs(folder)
    arrays = {part: _read_pair(images, labels) for part, (images, labels) in pairs.items()}
    if "train" not in arrays:
        raise DataError(
            f"{folder} has no training pair",
            expected="train-images-idx3-ubyte and train-labels-idx1-ubyte, or with .gz",
        )
    names = classes or tuple(str(label) for label in range(int(arrays["train"][1].max()) + 1))
    height, width = arrays["train"][0].shape[1:3]
    sources: dict[str, ArraySource] = {}
    for part, (pixels, labels) in arrays.items():
        origin = pairs[part][1]
        _check_labels(labels, names, origin)
        if pixels.shape[1:3] != (height, width):
            raise DataError(
                f"{pairs[part][0]} has images of another size than the training part",
                expected=f"{height} × {width}",
                received=f"{pixels.shape[1]} × {pixels.shape[2]}",
            )
        schema = Schema("image", (height, width, 1), "class", names)
        sources[part] = ArraySource(schema, pixels, labels.astype(np.int64), pairs[part][0].name)
    return sources


def read_array(path: Path, dimensions: int) -> Array:
    """Read one IDX file of unsigned bytes with this many dimensions. Raises `DataError`, naming the file."""
    try:
        with open_regular_file(path) as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            shape = _parse_header(stream.read(4 + 4 * dimensions), dimensions, path)
            size = math.prod(shape)
            _check_claimed_size(path, size + 4 + 4 * dimensions, zipped)
            values = np.empty(size + 1, dtype=np.uint8)
            held = _fill(stream, values)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}", expected="a complete IDX file", do="fetch it again"
        ) from error
    if held != size:
        raise DataError(
            f"{path} is {'cut off' if held < size else 'longer than its header says'}",
            expected=f"{size} bytes of values for {' × '.join(map(str, shape))}",
            received=f"{held} bytes" if held < size else f"more than {size} bytes",
            do="fetch it again",
        )
    return values[:size].reshape(shape)


def _fill(stream: Any, values: Array) -> int:
    """Read into an array until it is full or the file ends; return how many bytes were read."""
    view, held = values.data, 0
    while held < len(view):
        count = stream.readinto(view[held:])
        if not count:
            break
        held += count
    return held


def _parse_header(head: bytes, dimensions: int, path: Path) -> tuple[int, ...]:
    """Return the shape a header claims."""
    magic = bytes([0, 0, 8, dimensions])
    if head[:4] != magic or len(head) < 4 + 4 * dimensions:
        raise DataError(
            f"{path} is no IDX file of unsigned bytes with {dimensions} dimension(s)",
            expected=f"a header of {4 + 4 * dimensions} bytes that begins with {magic.hex(' ')}",
            received=head[:4].hex(" ") if head else "an empty file",
        )
    return struct.unpack(f">{dimensions}I", head[4:])


def _check_claimed_size(path: Path, size: int, zipped: bool) -> None:
    """Raise `DataError` for a header that claims more than the file can hold."""
    held = path.stat().st_size
    max_size = min(MAX_BYTES, held * MAX_DEFLATE_RATIO if zipped else held)
    if size > max_size:
        raise DataError(
            f"the header of {path} claims more than the file can hold",
            expected=f"at most {max_size} bytes",
            received=f"a claim of {size} bytes",
            do="fetch it again; do not trust where it came from",
        )


def _find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Find images and labels by part."""
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.match(path.name)
        if not match:
            continue
        word = re.split(r"[-._]", match["prefix"])[-1].lower()
        key = (PARTS.get(word, word if word else "train"), match["kind"])
        if key in files:
            raise DataError(
                f"{folder} holds several IDX files for the same part",
                expected="one pair for each part",
                received=f"{files[key].name} and {path.name}",
                do="keep one of them, or put each data set in a folder of its own",
            )
        files[key] = path
    for part, kind in files:
        other = "labels" if kind == "images" else "images"
        if (part, other) not in files:
            raise DataError(
                f"{files[part, kind]} has no {other} beside it",
                expected=files[part, kind].name.replace(kind, other),
            )
    unknown = sorted({part for part, _ in files} - set(PARTS.values()))
    if unknown:
        raise DataError(
            f"{folder} holds IDX files of unknown parts",
            expected="names that begin with train, t10k, test or val",
            received=", ".join(unknown),
        )
    parts = {part for part, _ in files}
    return {part: (files[part, "images"], files[part, "labels"]) for part in ("train", "val", "test") if part in parts}


def _read_pair(images: Path, labels: Path) -> tuple[Array, Array]:
    """Read images (N, H, W, 1) and labels (N,), and check that they belong together."""
    numbers = read_array(labels, 1)  # the small file first: a mismatch shows before much is read
    pixels = read_array(images, 3)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{images.name} and {labels.name} do not belong together",
            expected="as many labels as images",
            received=f"{len(pixels)} images and {len(numbers)} labels",
        )
    if not pixels.size:
        raise DataError(f"{images} holds no images", expected="at least one", received=f"shape {pixels.shape}")
    return pixels[..., None], numbers


def _check_labels(labels: Array, names: tuple[str, ...], path: Path) -> None:
    """Raise `DataError` for labels without a name."""
    wrong = np.flatnonzero(labels >= len(names))
    if len(wrong):
        raise DataError(
            f"{path} has labels out of range ({len(wrong)} of them, first at position {wrong[0]})",
            expected=f"an integer in [0, {len(names)})",
            received=f"{labels[wrong[0]]}",
        )

"""The typed records of an index, whose sizes are compared with the files before memory is allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import safetensors

from layerwise.errors import DamagedError
from layerwise.run_records import Digest, Text

KIND = "vector index"
VECTORS, TEXTS, EMBEDDER = FILES = ("vectors.safetensors", "texts.safetensors", "embedder.safetensors")
INDEX_FILE = "index.json"
REBUILD = "build the index again"
MAX_NUMBER = 1e15  # in a word's vector
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e300)]
Shapes = dict[str, tuple[str, tuple[int | None, ...]]]  # a type and lengths by name; None stands for any length


class EmbedderRecord(msgspec.Struct, frozen=True):
    """The description of the embedder."""

    kind: Text
    origin: Text
    words: Count
    a: Positive


class IndexRecord(msgspec.Struct, frozen=True):
    """The required content of index.json; other keys are ignored."""

    passages: Count
    left_out: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    source: Text
    by: Text
    column: Text
    id: Text
    embedder: EmbedderRecord
    files: dict[Literal["vectors.safetensors", "texts.safetensors", "embedder.safetensors"], Digest]

    def __post_init__(self) -> None:
        if len(self.files) != len(FILES):
            raise ValueError(f"files must name {', '.join(FILES)}")


def read_record(content: Any, path: Path) -> IndexRecord:
    """Parse index.json. Raises `DamagedError` naming the file and the field."""
    try:
        return msgspec.convert(content, IndexRecord)
    except msgspec.ValidationError as error:
        raise make_damaged_error(path, f"it does not hold what it should: {error}") from error


def check_tensors(record: IndexRecord, folder: Path) -> None:
    """Raise `DamagedError` naming the file and the tensor unless the tensors of an index have the types and shapes that
    its index.json says, and ends of texts lie in order inside the texts. Only the ends are read."""
    n, d, v = record.passages, record.dimensions, record.embedder.words
    _check_shapes(folder / VECTORS, {"vectors": ("F32", (n, d))})
    texts: Shapes = {
        "texts": ("U8", (None,)),
        "texts_ends": ("I64", (n,)),
        "names": ("U8", (None,)),
        "names_ends": ("I64", (n,)),
    }
    _check_shapes(folder / TEXTS, texts)
    required: Shapes = {"vectors": ("F32", (v, d)), "words": ("U8", (None,)), "ends": ("I64", (v,))}
    optional: Shapes = {"counts": ("I64", (v,)), "direction": ("F32", (d,))}
    _check_shapes(folder / EMBEDDER, required, optional)
    for file, pairs in ((TEXTS, (("texts", "texts_ends"), ("names", "names_ends"))), (EMBEDDER, (("words", "ends"),))):
        for data, ends in pairs:
            _check_ends(folder / file, data, ends)
    _check_numbers(folder / EMBEDDER)


def _check_shapes(path: Path, required: Shapes, optional: Shapes | None = None) -> None:
    """Compare types and shapes in a safetensors file's header with those required; None stands for any length."""
    known = {**required, **(optional or {})}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            facts = {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise make_damaged_error(path, f"it is not a safetensors file ({error})") from error
    for name in (*required, *facts):
        if name not in facts:
            raise make_damaged_error(path, f"the tensor '{name}' is missing")
        if name not in known:
            raise make_damaged_error(path, f"the tensor '{name[:60]}' belongs to no index")
        (kind, shape), (dtype, lengths) = known[name], facts[name]
        fits = len(shape) == len(lengths) and all(
            one in (None, length) for one, length in zip(shape, lengths, strict=True)
        )
        if kind != dtype or not fits:
            expected = "×".join("any" if one is None else f"{one:,}" for one in shape)
            raise make_damaged_error(
                path, f"the tensor '{name}' is {dtype} {list(lengths)}, and index.json says {kind} {expected}"
            )


def _check_ends(path: Path, data: str, ends: str) -> None:
    """Check that the ends of texts are ascending and within the bytes."""
    with safetensors.safe_open(path, framework="np") as file:
        positions, size = file.get_tensor(ends), file.get_slice(data).get_shape()[0]
    if positions[0] < 0 or positions[-1] != size or (np.diff(positions) < 0).any():
        raise make_damaged_error(
            path, f"the tensor '{ends}' does not say where the {size:,} bytes of '{data}' end, in order"
        )


def _check_numbers(path: Path) -> None:
    """Raise `DamagedError` for numbers of the embedder that are not finite or whose squares overflow float32, a
    direction whose length is not one, and counts below zero."""
    with safetensors.safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            if name == "vectors" and not np.abs(file.get_tensor(name)).max() <= MAX_NUMBER:
                raise make_damaged_error(
                    path, f"the tensor '{name}' holds numbers that are not finite, or above {MAX_NUMBER:g}"
                )
            if name == "direction" and not abs(np.linalg.norm(file.get_tensor(name).astype(np.float64)) - 1) < 0.01:
                raise make_damaged_error(path, f"the tensor '{name}' is no direction: its length is not one")
            if name == "counts" and ((counts := file.get_tensor(name)).min() < 0 or counts.max() > 1 << 50):
                raise make_damaged_error(path, "the tensor 'counts' holds no counts")


def make_damaged_error(path: Path, why: str) -> DamagedError:
    """Return the error for a changed or damaged file of an index."""
    return DamagedError(f"{path} is damaged: {why}", expected="the file as it was written", do=REBUILD)

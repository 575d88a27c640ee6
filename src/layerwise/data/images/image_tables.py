"""Tables that name images: a column of paths, relative to the table, and a class or a number to predict from each
image.

The column is ``data.image``, or the one whose texts end like names of images and lead to some. Images are checked
as those of class folders are (`folders.check`), and preprocessed alike. The other columns are no inputs: a network over
images looks at images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from layerwise.data.images import folders
from layerwise.data.images.folders import Checked, FolderPlace, ImageSource, OnBad
from layerwise.data.source import Array, Schema, Target
from layerwise.data.tables import columns as columns_
from layerwise.data.tables import table_files, table_source
from layerwise.data.tables.columns import TEXT_GAPS, Cells
from layerwise.data.tables.table_options import Reading
from layerwise.data.tables.table_parts import part_of
from layerwise.errors import DataError, UsageError, unknown

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LOOKED_AT = 256  # rows by which a column is told


class ImageTables(NamedTuple):
    """Tables of images, one a part, with what splitting the training part needs and what was noticed."""

    parts: dict[str, ImageSource]
    notes: tuple[str, ...]
    groups: Array | None = None
    times: Array | None = None


class Listed(NamedTuple):
    """A table's rows: names of images (N,), targets (N,) with their kind and classes, and the tidy columns."""

    names: list[str]
    targets: Array
    kind: Target
    classes: tuple[str, ...]
    cells: dict[str, Cells]
    target: str


def column_in(path: Path, reading: Reading, image: str = "") -> str:
    """Return the column that names images, by the table's first rows; the empty text if there is none.

    Raises `UsageError` if ``image`` is no column, and where several columns could be it.
    """
    try:
        first = next(table_files.rows(path, header=reading.header, encoding=reading.encoding, size=LOOKED_AT), [])
    except DataError:
        if image:
            raise
        return ""  # the reader of tables says what is wrong
    names = list(first[0]) if first else []
    if image:
        if image not in names:
            raise unknown("column", image, names, where=f"{path} (data.image)")
        return image
    found = [
        name
        for name in names
        if name not in reading.roles() and _leads(path.parent, [row[name] for row in first[:LOOKED_AT]])
    ]
    if len(found) > 1:
        raise UsageError(
            f"{path} names images in several columns",
            expected="one image a row",
            received=", ".join(found),
            do=f"--set data.image={found[0]}, say",
        )
    return found[0] if found else ""


def _leads(folder: Path, values: Sequence[object]) -> bool:
    """Whether all values that are no gaps are texts that end like names of images, and one of them leads to a
    file."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip() not in TEXT_GAPS]
    given = sum(value is not None and value not in TEXT_GAPS for value in values)
    if not texts or len(texts) < given or not all(text.lower().endswith(ENDINGS) for text in texts):
        return False
    return any((folder / text).is_file() for text in texts)


def read(paths: Mapping[str, Path], reading: Reading, *, image: str, on_bad: OnBad = "stop") -> ImageTables:
    """Read tables of images, one for each part, with the column ``image``.

    With ``on_bad="skip"`` rows whose image is missing or cannot be decoded are left out and counted. Raises
    `DataError` for missing images and bad files, all at once (F01, F09), for gaps among the names and the targets,
    and as `tables.read` does.
    """
    listed = {part: _listed(path, reading, image) for part, path in paths.items()}
    place = FolderPlace(str(paths["train"].parent))
    names = sorted({name for table in listed.values() for name in table.names})
    checks = folders.check(place, names)
    bad = {name: found.error for name, found in checks.items() if found.error}
    notes = _bad(place, bad, len(names), on_bad)
    shape = folders.shape_of(found for found in checks.values() if not found.error)
    parts = {part: _source(place, table, checks, shape=shape, reading=reading) for part, table in listed.items()}
    train = listed["train"]
    notes += _repeated(listed, checks)
    left = [
        name for name in train.cells if name not in (image, train.target, reading.group, reading.time, reading.weight)
    ]
    if left:
        notes.append(f"the network sees the images alone; columns left out: {', '.join(left)}")
    keep = _kept(train, checks)
    groups, times = table_source.groups_of(train.cells, reading), table_source.times_of(train.cells, reading)
    return ImageTables(
        parts, tuple(notes), None if groups is None else groups[keep], None if times is None else times[keep]
    )


def _listed(path: Path, reading: Reading, image: str) -> Listed:
    """Read one table."""
    table, rows = table_files.load(path, reading)
    marks = TEXT_GAPS | set(reading.missing)
    cells = {name: Cells(name, columns_.tidy(table[name], marks), path, rows) for name in table.column_names}
    for name in (image, *reading.roles()):
        if name not in cells:
            raise unknown("column", name, list(cells), where=str(path))
    if not len(table):
        raise DataError(f"{path} has no rows", expected="a row for each image", received="a header only")
    column = cells[image]
    if not columns_.is_text(column.cells.type):
        raise DataError(
            f"{path}: the column '{image}' names no images",
            expected="paths of images",
            received=f"{column.cells.type}",
        )
    if column.cells.null_count:
        gaps = np.flatnonzero(column.cells.is_null().to_numpy())
        raise DataError(
            f"{column.where(int(gaps[0]))} names no image ({len(gaps)} such rows)",
            expected="an image in every row",
            received="a gap",
            do="fill or remove these rows",
        )
    free = [name for name in cells if name != image and name not in reading.roles()]
    if not reading.target and not free:
        raise DataError(f"{path} has no column besides '{image}' to predict", expected="a column of classes or numbers")
    target = reading.target or free[-1]
    values, kind, classes = columns_.labeled(cells[target])
    return Listed(column.cells.to_pylist(), values, kind, classes, cells, target)


def _kept(table: Listed, checks: Mapping[str, Checked]) -> Array:
    """Return the rows whose image is good."""
    return np.flatnonzero([checks[name].error is None for name in table.names])


def _source(
    place: FolderPlace, table: Listed, checks: Mapping[str, Checked], *, shape: tuple[int, int, int], reading: Reading
) -> ImageSource:
    """Make the source of one part, in the order of its table."""
    keep = _kept(table, checks)
    names = tuple(table.names[at] for at in keep)
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0" + checks[name].digest)
    weights = table_source.weights_of(table.cells, reading)
    schema = Schema("image", shape, table.kind, table.classes, target_name=table.target)
    return ImageSource(
        schema,
        place,
        names,
        table.targets[keep],
        digest.hexdigest(),
        None if weights is None else weights[keep],
        folders.sides_of(names, checks),
    )


def _bad(place: FolderPlace, bad: dict[str, DataError], count: int, on_bad: OnBad) -> list[str]:
    """Stop because of missing or bad files, or return the notes that count and name them. Missing ones are told
    apart."""
    missing = [name for name in bad if not os.path.exists(os.path.join(place.root, name))]
    if missing and (on_bad == "stop" or len(bad) == count):
        shown = "\n".join(f"    {folders.called(place, name)}" for name in missing)
        raise DataError(
            f"{len(missing)} of {count} images that the table names are not there:\n{shown}",
            expected="paths relative to the table's folder, or absolute ones",
            do="correct the paths, or leave these rows out with --on-bad skip"
            if len(missing) < count
            else "correct the paths",
        )
    rest = {name: error for name, error in bad.items() if name not in missing}
    notes = [
        f"{len(missing)} of {count} images that the table names are not there; their rows were left out: "
        f"{folders.some(missing)}"
    ]
    return notes[: bool(missing)] + ([folders.bad_files(place, rest, count, on_bad)] if rest else [])


def _repeated(listed: Mapping[str, Listed], checks: Mapping[str, Checked]) -> list[str]:
    """Note how many rows of other parts show an image of the training part, byte for byte (F18)."""
    train = {checks[name].digest for name in listed["train"].names if checks[name].digest}
    counts = {
        part: sum(checks[name].digest in train for name in table.names)
        for part, table in listed.items()
        if part != "train"
    }
    return [
        f"{count} images of the {part} part are in the training part too" for part, count in counts.items() if count
    ]


def tables_in(entries: Sequence[Path], endings: Sequence[str]) -> dict[str, Path]:
    """Return a folder's tables by part, if they are one, or train, val and test by their names; else nothing."""
    found = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in endings]
    if len(found) == 1:
        return {"train": found[0]}
    parts = {part_of(path): path for path in found}
    return parts if "train" in parts and "" not in parts and len(parts) == len(found) else {}

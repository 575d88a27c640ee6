"""Tables that name images: a column of paths, relative to the table, and a class or a number to predict from each
image.

The column is ``data.image``, or the one whose texts end like image names and lead to some. Images are checked as those
of class folders are (`folders.check_files`), and preprocessed alike. The other columns are no inputs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from layerwise.data.images import folders
from layerwise.data.images.folders import FileCheck, FolderStore, ImageSource, OnError
from layerwise.data.source import Array, Schema, Target
from layerwise.data.tables import table_columns, table_files, table_source
from layerwise.data.tables.table_columns import TEXT_MISSING_MARKS, Cells
from layerwise.data.tables.table_options import TableOptions
from layerwise.data.tables.table_parts import find_part
from layerwise.errors import DataError, UsageError, make_unknown_name_error

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SAMPLE_ROWS = 256  # rows that decide which column names images


class ImageTables(NamedTuple):
    """Tables of images, one a part, with notes and with the groups and times (N,) that splitting the training part
    needs."""

    parts: dict[str, ImageSource]
    notes: tuple[str, ...]
    groups: Array | None = None
    times: Array | None = None


class ImageTable(NamedTuple):
    """A table of images: names of images (N,), targets (N,) with their kind and classes, and the tidy columns."""

    names: list[str]
    targets: Array
    kind: Target
    classes: tuple[str, ...]
    cells: dict[str, Cells]
    target: str


def find_image_column(path: Path, options: TableOptions, image: str = "") -> str:
    """Return the column that names images, by the table's first rows; an empty string if there is none.

    Raises `UsageError` if ``image`` is no column, and where several columns could be it.
    """
    try:
        first = next(
            table_files.iterate_rows(path, header=options.header, encoding=options.encoding, size=SAMPLE_ROWS), []
        )
    except DataError:
        if image:
            raise
        return ""  # the reader of tables says what is wrong
    names = list(first[0]) if first else []
    if image:
        if image not in names:
            raise make_unknown_name_error("column", image, names, where=f"{path} (data.image)")
        return image
    candidates = []
    for name in names:
        values = [row[name] for row in first[:SAMPLE_ROWS]]
        if name not in options.get_roles() and _has_image_paths(path.parent, values):
            candidates.append(name)
    if len(candidates) > 1:
        raise UsageError(
            f"{path} names images in several columns",
            expected="one image a row",
            received=", ".join(candidates),
            do=f"--set data.image={candidates[0]}, say",
        )
    return candidates[0] if candidates else ""


def _has_image_paths(folder: Path, values: Sequence[object]) -> bool:
    """Whether all values but the missing ones are texts that end like names of images, and one of them leads to a
    file."""
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip() not in TEXT_MISSING_MARKS]
    given = sum(value is not None and value not in TEXT_MISSING_MARKS for value in values)
    if not texts or len(texts) < given or not all(text.lower().endswith(IMAGE_ENDINGS) for text in texts):
        return False
    return any((folder / text).is_file() for text in texts)


def read_image_tables(
    paths: Mapping[str, Path], options: TableOptions, *, image: str, on_error: OnError = "stop"
) -> ImageTables:
    """Read tables of images, one for each part, with the column ``image``.

    With ``on_error="skip"`` rows whose image is missing or cannot be decoded are left out and counted. Raises
    `DataError` for missing images and bad files, all at once, for missing values among the names and the targets, and
    as `table_source.read_table` does.
    """
    tables = {part: _read_image_table(path, options, image) for part, path in paths.items()}
    store = FolderStore(str(paths["train"].parent))
    names = sorted({name for table in tables.values() for name in table.names})
    checks = folders.check_files(store, names)
    bad = {name: check.error for name, check in checks.items() if check.error}
    notes = _report_bad_images(store, bad, len(names), on_error)
    shape = folders.find_common_shape(check for check in checks.values() if not check.error)
    parts = {part: _make_source(store, table, checks, shape=shape, options=options) for part, table in tables.items()}
    train = tables["train"]
    notes += _find_repeated_images(tables, checks)
    unused = [
        name for name in train.cells if name not in (image, train.target, options.group, options.time, options.weight)
    ]
    if unused:
        notes.append(f"the network sees the images alone; columns left out: {', '.join(unused)}")
    keep = _find_good_rows(train, checks)
    groups, times = table_source.read_groups(train.cells, options), table_source.read_times(train.cells, options)
    return ImageTables(
        parts, tuple(notes), None if groups is None else groups[keep], None if times is None else times[keep]
    )


def _read_image_table(path: Path, options: TableOptions, image: str) -> ImageTable:
    """Read one table."""
    table, rows = table_files.load_table(path, options)
    marks = TEXT_MISSING_MARKS | set(options.missing)
    cells = {name: Cells(name, table_columns.tidy(table[name], marks), path, rows) for name in table.column_names}
    for name in (image, *options.get_roles()):
        if name not in cells:
            raise make_unknown_name_error("column", name, list(cells), where=str(path))
    if not len(table):
        raise DataError(f"{path} has no rows", expected="a row for each image", received="a header only")
    column = cells[image]
    if not table_columns.is_text(column.cells.type):
        raise DataError(
            f"{path}: the column '{image}' names no images",
            expected="paths of images",
            received=f"{column.cells.type}",
        )
    if column.cells.null_count:
        missing = np.flatnonzero(column.cells.is_null().to_numpy())
        raise DataError(
            f"{column.locate(int(missing[0]))} names no image ({len(missing)} such rows)",
            expected="an image in every row",
            received="a missing value",
            do="fill or remove these rows",
        )
    candidates = [name for name in cells if name != image and name not in options.get_roles()]
    if not options.target and not candidates:
        raise DataError(f"{path} has no column besides '{image}' to predict", expected="a column of classes or numbers")
    target = options.target or candidates[-1]
    values, kind, classes = table_columns.encode_target(cells[target])
    return ImageTable(column.cells.to_pylist(), values, kind, classes, cells, target)


def _find_good_rows(table: ImageTable, checks: Mapping[str, FileCheck]) -> Array:
    """Return the rows whose image is good."""
    return np.flatnonzero([checks[name].error is None for name in table.names])


def _make_source(
    store: FolderStore,
    table: ImageTable,
    checks: Mapping[str, FileCheck],
    *,
    shape: tuple[int, int, int],
    options: TableOptions,
) -> ImageSource:
    """Make the source of one part, in the order of its table."""
    keep = _find_good_rows(table, checks)
    names = tuple(table.names[at] for at in keep)
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0" + checks[name].digest)
    weights = table_source.read_weights(table.cells, options)
    schema = Schema("image", shape, table.kind, table.classes, target_name=table.target)
    return ImageSource(
        schema,
        store,
        names,
        table.targets[keep],
        digest.hexdigest(),
        None if weights is None else weights[keep],
        folders.compute_shorter_sides(names, checks),
    )


def _report_bad_images(store: FolderStore, bad: dict[str, DataError], count: int, on_error: OnError) -> list[str]:
    """Raise `DataError` for missing or bad files, or return notes that count and name them, missing ones first."""
    missing = [name for name in bad if not os.path.exists(os.path.join(store.root, name))]
    if missing and (on_error == "stop" or len(bad) == count):
        listed = "\n".join(f"    {folders.format_path(store, name)}" for name in missing)
        raise DataError(
            f"{len(missing)} of {count} images that the table names are not there:\n{listed}",
            expected="paths relative to the table's folder, or absolute ones",
            do="correct the paths, or leave these rows out with --on-error skip"
            if len(missing) < count
            else "correct the paths",
        )
    rest = {name: error for name, error in bad.items() if name not in missing}
    notes = [
        f"{len(missing)} of {count} images that the table names are not there; their rows were left out: "
        f"{folders.format_names(missing)}"
    ]
    return notes[: bool(missing)] + ([folders.report_bad_files(store, rest, count, on_error)] if rest else [])


def _find_repeated_images(tables: Mapping[str, ImageTable], checks: Mapping[str, FileCheck]) -> list[str]:
    """Return notes on rows of other parts that show an image of the training part, byte for byte."""
    train = {checks[name].digest for name in tables["train"].names if checks[name].digest}
    counts = {}
    for part, table in tables.items():
        if part != "train":
            counts[part] = sum(checks[name].digest in train for name in table.names)
    return [
        f"{count} images of the {part} part are in the training part too" for part, count in counts.items() if count
    ]


def find_tables(entries: Sequence[Path], endings: Sequence[str]) -> dict[str, Path]:
    """Return a folder's tables by part, if there is one table, or if their names say train, val and test; else
    nothing."""
    tables = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in endings]
    if len(tables) == 1:
        return {"train": tables[0]}
    parts = {find_part(path): path for path in tables}
    return parts if "train" in parts and "" not in parts and len(parts) == len(tables) else {}

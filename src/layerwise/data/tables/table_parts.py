"""Tables in several files: a folder with one for each part, and the named sets that come so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from layerwise.data.source import SPLITS, ArraySource, Column, described
from layerwise.data.tables.table_options import Reading
from layerwise.data.tables.table_source import Table, notes, read
from layerwise.errors import DataError

OTHER_NAMES = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}


def part_of(path: Path) -> str:
    """Return the part that a file's name says it is (``train.csv``, ``adult-test.csv``, ``dev.tsv``), or the empty
    text."""
    words = [OTHER_NAMES.get(word, word) for word in re.split(r"[^a-z]+", path.stem.lower())]
    found = [word for word in words if word in SPLITS]
    return found[-1] if found else ""


def read_parts(paths: Sequence[Path], reading: Reading) -> dict[str, Table]:
    """Read a folder's tables, one for each part. Raises `DataError` where it is not clear which file is which part."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(paths):
        parts.setdefault(part_of(path), []).append(path)
    if "train" not in parts or any(len(found) > 1 or not part for part, found in parts.items()):
        raise DataError(
            f"{paths[0].parent} holds several tables, and their names do not say which part each is",
            expected="one table, or train, val and test in their names, one each",
            received=", ".join(sorted(path.name for path in paths)),
            do="give one file, or rename them",
        )
    train = read(parts.pop("train")[0], reading)
    like = tuple(
        (column.name, column.kind) for column in train.source.schema.table
    )  # small parts do not tell kinds by themselves
    others = msgspec.structs.replace(reading, like=reading.like or like)
    return {"train": train, **{part: read(found[0], others) for part, found in parts.items()}}


def read_named(folder: Path, reading: Reading, *, apart: str = "", trim: str = "") -> dict[str, Table]:
    """Read a named set's tables: one for each part, or, with ``apart``, all of them as one.

    ``apart`` names a category added to tell the files apart, by the last word of their names. ``trim``: characters that
    some of the files have at the end of their classes.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".csv")
    if apart:
        return {"train": joined([(path.stem.split("-")[-1], read(path, reading)) for path in paths], apart)}
    return {part: _trimmed(table, trim) for part, table in read_parts(paths, reading).items()}


def joined(tables: Sequence[tuple[str, Table]], apart: str) -> Table:
    """Return tables of the same columns of numbers as one, with a category that says which table a row is from."""
    names = tuple(sorted(name for name, _ in tables))
    first = tables[0][1].source
    columns = (*first.schema.table, Column(apart, "category", names))
    inputs = [np.hstack([t.source.inputs, np.full((len(t.source), 1), float(names.index(name)))]) for name, t in tables]
    values = np.concatenate([_amounts(t.source) for _, t in tables])
    classes, labels = np.unique(values, return_inverse=True)
    schema = msgspec.structs.replace(
        first.schema,
        shape=(len(columns),),
        features=tuple(column.name for column in columns),
        columns=columns,
        classes=tuple(str(int(value)) for value in classes),
    )
    rows = np.concatenate([[f"{name}:{row}" for row in _rows(t.source)] for name, t in tables])
    source = ArraySource(schema, np.concatenate(inputs), labels.astype(np.int64), first.origin.rsplit("/", 1)[0], rows)
    return Table(source, described(source), notes=notes(described(source)))


def _amounts(source: ArraySource) -> np.ndarray:
    """Return whole-number targets as the numbers they are."""
    assert source.targets is not None
    return np.array([float(name) for name in source.schema.classes])[source.targets]


def _rows(source: ArraySource) -> np.ndarray:
    return np.arange(len(source)) if source.rows is None else source.rows


def _trimmed(table: Table, trim: str) -> Table:
    """Return the table with its classes' names without these characters at the end."""
    schema = table.source.schema
    if not trim:
        return table
    classes = tuple(name.rstrip(trim) for name in schema.classes)
    return table._replace(source=replace(table.source, schema=msgspec.structs.replace(schema, classes=classes)))

"""Tables in several files: a folder with one for each part, and named sets of such files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from layerwise.data.source import SPLITS, ArraySource, Column, summarize_columns
from layerwise.data.tables.table_options import TableOptions
from layerwise.data.tables.table_source import Table, make_notes, read_table
from layerwise.errors import DataError

PART_ALIASES = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}


def find_part(path: Path) -> str:
    """Return the part that a file's name gives (``train.csv``, ``adult-test.csv``, ``dev.tsv``), or an empty
    string."""
    words = [PART_ALIASES.get(word, word) for word in re.split(r"[^a-z]+", path.stem.lower())]
    parts = [word for word in words if word in SPLITS]
    return parts[-1] if parts else ""


def read_parts(paths: Sequence[Path], options: TableOptions) -> dict[str, Table]:
    """Read a folder's tables, one for each part. Raises `DataError` where it is not clear which file is which part."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(paths):
        parts.setdefault(find_part(path), []).append(path)
    if "train" not in parts or any(len(found_paths) > 1 or not part for part, found_paths in parts.items()):
        raise DataError(
            f"{paths[0].parent} holds several tables, and their names do not say which part each is",
            expected="one table, or train, val and test in their names, one each",
            received=", ".join(sorted(path.name for path in paths)),
            do="give one file, or rename them",
        )
    train = read_table(parts.pop("train")[0], options)
    # small parts alone do not determine the kinds
    known_columns = tuple((column.name, column.kind) for column in train.source.schema.table)
    part_options = msgspec.structs.replace(options, like=options.like or known_columns)
    return {"train": train, **{part: read_table(found_paths[0], part_options) for part, found_paths in parts.items()}}


def read_named_tables(
    folder: Path, options: TableOptions, *, file_column: str = "", class_suffix: str = ""
) -> dict[str, Table]:
    """Read a named set's tables: one for each part, or, with ``file_column``, all of them as one.

    ``file_column`` names an added category that tells the files apart, by the last word of their names.
    ``class_suffix``: characters that some of the files have at the end of their classes.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".csv")
    if file_column:
        return {
            "train": join_tables([(path.stem.split("-")[-1], read_table(path, options)) for path in paths], file_column)
        }
    return {part: _trim_classes(table, class_suffix) for part, table in read_parts(paths, options).items()}


def join_tables(tables: Sequence[tuple[str, Table]], file_column: str) -> Table:
    """Return tables of the same columns of numbers as one, with a category for the table of each row."""
    names = tuple(sorted(name for name, _ in tables))
    first = tables[0][1].source
    columns = (*first.schema.table, Column(file_column, "category", names))
    inputs = [np.hstack([t.source.inputs, np.full((len(t.source), 1), float(names.index(name)))]) for name, t in tables]
    values = np.concatenate([_decode_targets(t.source) for _, t in tables])
    classes, labels = np.unique(values, return_inverse=True)
    schema = msgspec.structs.replace(
        first.schema,
        shape=(len(columns),),
        features=tuple(column.name for column in columns),
        columns=columns,
        classes=tuple(str(int(value)) for value in classes),
    )
    rows = np.concatenate([[f"{name}:{row}" for row in _get_rows(t.source)] for name, t in tables])
    source = ArraySource(schema, np.concatenate(inputs), labels.astype(np.int64), first.origin.rsplit("/", 1)[0], rows)
    return Table(source, summarize_columns(source), notes=make_notes(summarize_columns(source)))


def _decode_targets(source: ArraySource) -> np.ndarray:
    """Return whole-number targets as numbers, not labels."""
    assert source.targets is not None
    return np.array([float(name) for name in source.schema.classes])[source.targets]


def _get_rows(source: ArraySource) -> np.ndarray:
    return np.arange(len(source)) if source.rows is None else source.rows


def _trim_classes(table: Table, class_suffix: str) -> Table:
    """Return the table with its classes' names without these characters at the end."""
    schema = table.source.schema
    if not class_suffix:
        return table
    classes = tuple(name.rstrip(class_suffix) for name in schema.classes)
    return table._replace(source=replace(table.source, schema=msgspec.structs.replace(schema, classes=classes)))

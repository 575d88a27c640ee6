"""Tables (CSV, TSV, Parquet, JSON lines) to rows of numbers and one target.

Shape letters: ``N`` rows, ``D`` features. The target is the last column unless named. Columns of names that never
repeat, of nothing but gaps, and numbered rows are left out, and a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from layerwise.data.source import Array, ArraySource, Column, Described, Schema
from layerwise.data.tables import columns as columns_
from layerwise.data.tables.columns import TEXT_GAPS, Cells
from layerwise.data.tables.table_files import load
from layerwise.data.tables.table_options import Reading
from layerwise.errors import DataError, unknown

NUMBERED = ("id", "index", "row", "no", "nr", "number")  # names under which rows are numbered
DEFAULT = Reading()
SHOWN = 6  # columns that a note names
KINDS = {"number": ("number", "numbers"), "category": ("category", "categories"), "date": ("date", "dates")}


class Table(NamedTuple):
    """A table as examples, with what splitting needs (``groups`` and ``times``, (N,) each) and what is shown of it."""

    source: ArraySource
    described: tuple[Described, ...]
    groups: Array | None = None
    times: Array | None = None
    notes: tuple[str, ...] = ()


def read(path: Path, reading: Reading = DEFAULT) -> Table:
    """Read a table whole: inputs (N, D) float64, NaN for gaps, and targets (N,).

    Raises:
        DataError: for damaged, empty and ragged files (F11), for columns of numbers with faults, NaN or Inf (F12), and
            for targets with gaps.
        UsageError: for columns that are not there, or are named twice.
    """
    table, rows = load(path, reading)
    marks = TEXT_GAPS | set(reading.missing)
    cells = {name: Cells(name, columns_.tidy(table[name], marks), path, rows) for name in table.column_names}
    roles = _roles(reading, tuple(cells), path)
    if not len(table):
        raise DataError(f"{path} has no rows", expected="a row for each example", received="a header only")
    kinds: dict[str, str] = {}
    found: list[tuple[Column, Array]] = []
    for name, role in roles.items():
        if role == "feature":
            kind, reason = _judged(cells[name], reading)
            kinds[name] = kind
            if reason:
                roles[name] = f"left out: {reason}"
            else:
                found.append(columns_.feature(cells[name], kind))
    order = [name for name, _ in reading.like]
    found.sort(key=lambda one: order.index(one[0].name) if order else 0)
    if not found:
        raise _no_features(path, roles)
    target = next(name for name, role in roles.items() if role == "target")
    targets, kind_of_target, classes = columns_.labeled(cells[target])
    features = tuple(column.name for column, _ in found)
    plain = all(column == Column(column.name) for column, _ in found)
    described = () if plain else tuple(column for column, _ in found)
    schema = Schema("row", (len(found),), kind_of_target, classes, features, target, described)
    inputs = np.stack([values for _, values in found], 1)
    source = ArraySource(schema, inputs, targets, str(path), _numbers(cells, reading, rows), weights_of(cells, reading))
    kinds[target] = "category" if kind_of_target == "class" else "number"
    shown = tuple(_described(cells[name], role, kinds.get(name, "")) for name, role in roles.items())
    return Table(source, shown, groups_of(cells, reading), times_of(cells, reading), notes(shown))


def _roles(reading: Reading, names: Sequence[str], path: Path) -> dict[str, str]:
    """Return each column's part in the table, in the order of the file; ``feature`` until more is known."""
    named = reading.roles()
    for name in (*named, *reading.categories):
        if name not in names:
            raise unknown("column", name, names, where=str(path))
    out = {name: "left out: asked for" if named.get(name) == "drop" else named.get(name, "feature") for name in names}
    if not reading.target:
        free = [name for name, role in out.items() if role == "feature"]
        if not free:
            raise _no_features(path, out)
        out[free[-1]] = "target"
    return out


def _judged(column: Cells, reading: Reading) -> tuple[columns_.Kind, str]:
    """Return a column's kind, and why it is left out if it is no feature: told from its cells, or as in the table read
    before."""
    if reading.like:
        known = dict(reading.like).get(column.name)
        return ("empty", "not in the training part") if known is None else (columns_.kind_as(column, known), "")
    kind = columns_.kind_of(column, category=column.name in reading.categories)
    return kind, "free text" if kind == "text" else "empty" if kind == "empty" else _numbered(column, kind)


def _no_features(path: Path, roles: dict[str, str]) -> DataError:
    """Make the error for a table without a column to learn from."""
    return DataError(
        f"{path} has no column besides the target to learn from",
        expected="at least one column of numbers, dates or categories, and a target",
        received="; ".join(f"{name} ({role})" for name, role in roles.items()),
        do="check the separator: comma, tab, semicolon and | are told apart by the first lines",
    )


def _numbered(column: Cells, kind: str) -> str:
    """Return why a column of numbers is left out: it only numbers the rows."""
    name = column.name.lower()
    if not (name in NUMBERED or name.endswith(("_id", " id")) or name.startswith("unnamed")):
        return ""
    if kind != "number" or not pa.types.is_integer(column.cells.type) or column.cells.null_count:
        return ""
    alone = pc.count_distinct(column.cells).as_py() == len(column.cells)
    return "numbers the rows" if alone else ""


def _described(column: Cells, role: str, kind: str) -> Described:
    """Return what is shown of a column."""
    cells = column.cells
    example = next((str(cell.as_py()) for cell in cells if cell.is_valid), "").removesuffix(" 00:00:00")
    kind = kind or ("number" if columns_.is_number(cells.type) else "text" if columns_.is_text(cells.type) else "date")
    return Described(column.name, role, kind, cells.null_count, pc.count_distinct(cells).as_py(), example)


def notes(shown: tuple[Described, ...]) -> tuple[str, ...]:
    """Return what is said of a table before it is used: its features' kinds, gaps, the target, what is left out."""
    used = [column for column in shown if column.role == "feature"]
    counts = {kind: [c for c in used if c.kind == kind] for kind in ("number", "category", "date")}
    parts = [f"{len(found)} {KINDS[kind][len(found) > 1]} ({_some(found)})" for kind, found in counts.items() if found]
    target = next((f"; target: {c.name}, {c.distinct} different values" for c in shown if c.role == "target"), "")
    out = [f"features: {', '.join(parts)}{target}"]
    gaps = [f"{c.name} {c.gaps}" for c in used if c.gaps]
    if gaps:
        out.append(
            f"gaps, which are marked for the network: {', '.join(gaps[:SHOWN])}{', …' if len(gaps) > SHOWN else ''}"
        )
    left = [
        f"{c.name} ({c.role.removeprefix('left out: ')})"
        for c in shown
        if c.role.startswith("left out") and "asked" not in c.role
    ]
    if left:
        out.append(f"columns left out: {', '.join(left)}")
    kept = [f"{c.name} ({c.role})" for c in shown if c.role in ("id", "group", "time", "weight")]
    if kept:
        out.append(f"columns with a purpose of their own, not among the features: {', '.join(kept)}")
    return tuple(out)


def _some(columns: Sequence[Described]) -> str:
    """Return columns' names, of categories with how many values they have."""
    names = [f"{c.name}: {c.distinct}" if c.kind == "category" else c.name for c in columns]
    return ", ".join(names[:SHOWN]) + (f", … {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _numbers(cells: dict[str, Cells], reading: Reading, rows: Array) -> Array:
    """Return how messages name the rows: their number in the file, with their id if there is one."""
    if not reading.id:
        return rows
    names = columns_.as_text(cells[reading.id].cells).to_pylist()
    return np.array([f"{row}, {reading.id} {name}" for row, name in zip(rows, names, strict=True)])


def weights_of(cells: dict[str, Cells], reading: Reading) -> Array | None:
    """Return how much each row counts in training. Raises `DataError` for gaps, negative weights, and none above 0."""
    if not reading.weight:
        return None
    column = cells[reading.weight]
    if not columns_.is_number(column.cells.type):
        raise DataError(f"the weight '{column.name}' holds no numbers", expected="numbers of 0 or more")
    values = columns_.numbers(column)
    wrong = np.flatnonzero(~(values >= 0))
    if len(wrong):
        raise DataError(
            f"{column.where(int(wrong[0]))} is no weight ({len(wrong)} such rows)",
            expected="a number of 0 or more",
            received=str(values[wrong[0]]),
        )
    if not values.any():
        raise DataError(f"{column.path}: every weight in '{column.name}' is 0", expected="some weight above 0")
    weights: Array = values / values.mean()
    return weights


def groups_of(cells: dict[str, Cells], reading: Reading) -> Array | None:
    """Return the group of each row as a number; rows without one are groups of their own."""
    if not reading.group:
        return None
    texts = columns_.as_text(cells[reading.group].cells)
    values = [value for value in pc.unique(texts).to_pylist() if value is not None]
    places = pc.index_in(texts, value_set=pa.array(values, pa.string())).cast(pa.float64()).to_numpy().copy()
    alone = np.flatnonzero(np.isnan(places))
    places[alone] = len(values) + np.arange(len(alone))
    groups: Array = places.astype(np.int64)
    return groups


def times_of(cells: dict[str, Cells], reading: Reading) -> Array | None:
    """Return the time of each row, as a number that grows. Raises `DataError` for gaps and for text."""
    if not reading.time:
        return None
    column = cells[reading.time]
    kind = columns_.kind_of(column)
    if kind not in ("number", "date") or column.cells.null_count:
        raise DataError(
            f"{column.path}: the time '{column.name}' does not order the rows",
            expected="a date or a number in every row",
            received=f"{column.cells.null_count} gaps" if column.cells.null_count else kind,
            do="give the format of the dates: --set 'data.dates=%d/%m/%Y'",
        )
    return columns_.days(column) if kind == "date" else columns_.numbers(column)

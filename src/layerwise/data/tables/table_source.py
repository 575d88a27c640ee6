"""Tables (CSV, TSV, Parquet, JSON lines) to rows of numbers and one target.

Shape letters: ``N`` rows, ``D`` features. The target is the last column unless named. Columns of names that never
repeat, of nothing but missing values, and row numbers are left out, with a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from layerwise.data.source import Array, ArraySource, Column, ColumnSummary, Schema
from layerwise.data.tables import table_columns
from layerwise.data.tables.table_columns import TEXT_MISSING_MARKS, Cells
from layerwise.data.tables.table_files import load_table
from layerwise.data.tables.table_options import TableOptions
from layerwise.errors import DataError, make_unknown_name_error

ROW_NUMBER_NAMES = ("id", "index", "row", "no", "nr", "number")  # names of columns that number the rows
DEFAULT_OPTIONS = TableOptions()
MAX_LISTED = 6  # columns that a note names
KIND_NAMES = {"number": ("number", "numbers"), "category": ("category", "categories"), "date": ("date", "dates")}


class Table(NamedTuple):
    """A table as examples, with ``groups`` and ``times``, (N,) each, for splitting, column summaries and notes."""

    source: ArraySource
    summaries: tuple[ColumnSummary, ...]
    groups: Array | None = None
    times: Array | None = None
    notes: tuple[str, ...] = ()


def read_table(path: Path, options: TableOptions = DEFAULT_OPTIONS) -> Table:
    """Read a table: inputs (N, D) float64, NaN for missing values, and targets (N,).

    Raises:
        DataError: for damaged, empty and ragged files, for columns of numbers with faults, NaN or Inf, and for targets
            with missing values.
        UsageError: for columns that are not there, or are named twice.
    """
    table, rows = load_table(path, options)
    marks = TEXT_MISSING_MARKS | set(options.missing)
    cells = {name: Cells(name, table_columns.tidy(table[name], marks), path, rows) for name in table.column_names}
    roles = _assign_roles(options, tuple(cells), path)
    if not len(table):
        raise DataError(f"{path} has no rows", expected="a row for each example", received="a header only")
    kinds: dict[str, str] = {}
    features: list[tuple[Column, Array]] = []
    for name, role in roles.items():
        if role == "feature":
            kind, reason = _judge_column(cells[name], options)
            kinds[name] = kind
            if reason:
                roles[name] = f"left out: {reason}"
            else:
                features.append(table_columns.encode_feature(cells[name], kind))
    known_names = [name for name, _ in options.like]
    features.sort(key=lambda feature: known_names.index(feature[0].name) if known_names else 0)
    if not features:
        raise _make_no_features_error(path, roles)
    target = next(name for name, role in roles.items() if role == "target")
    targets, kind_of_target, classes = table_columns.encode_target(cells[target])
    feature_names = tuple(column.name for column, _ in features)
    all_numbers = all(column == Column(column.name) for column, _ in features)
    columns = () if all_numbers else tuple(column for column, _ in features)
    schema = Schema("row", (len(features),), kind_of_target, classes, feature_names, target, columns)
    inputs = np.stack([values for _, values in features], 1)
    source = ArraySource(
        schema, inputs, targets, str(path), _name_rows(cells, options, rows), read_weights(cells, options)
    )
    kinds[target] = "category" if kind_of_target == "class" else "number"
    summaries = tuple(_summarize_column(cells[name], role, kinds.get(name, "")) for name, role in roles.items())
    return Table(source, summaries, read_groups(cells, options), read_times(cells, options), make_notes(summaries))


def _assign_roles(options: TableOptions, names: Sequence[str], path: Path) -> dict[str, str]:
    """Return each column's role in the table, in the order of the file; ``feature`` until more is known."""
    named_roles = options.get_roles()
    for name in (*named_roles, *options.categories):
        if name not in names:
            raise make_unknown_name_error("column", name, names, where=str(path))
    roles = {
        name: "left out: asked for" if named_roles.get(name) == "drop" else named_roles.get(name, "feature")
        for name in names
    }
    if not options.target:
        free = [name for name, role in roles.items() if role == "feature"]
        if not free:
            raise _make_no_features_error(path, roles)
        roles[free[-1]] = "target"
    return roles


def _judge_column(column: Cells, options: TableOptions) -> tuple[table_columns.Kind, str]:
    """Return a column's kind, and why it is left out if it is no feature: by its cells, or as in the table read
    before."""
    if options.like:
        known_kind = dict(options.like).get(column.name)
        if known_kind is None:
            return "empty", "not in the training part"
        return table_columns.match_kind(column, known_kind), ""
    kind = table_columns.infer_kind(column, category=column.name in options.categories)
    return kind, "free text" if kind == "text" else "empty" if kind == "empty" else _explain_row_numbers(column, kind)


def _make_no_features_error(path: Path, roles: dict[str, str]) -> DataError:
    """Make the error for a table without a column to learn from."""
    return DataError(
        f"{path} has no column besides the target to learn from",
        expected="at least one column of numbers, dates or categories, and a target",
        received="; ".join(f"{name} ({role})" for name, role in roles.items()),
        do="check the separator: comma, tab, semicolon and | are told apart by the first lines",
    )


def _explain_row_numbers(column: Cells, kind: str) -> str:
    """Return why a column of numbers is left out, if it only numbers the rows; else an empty string."""
    name = column.name.lower()
    if not (name in ROW_NUMBER_NAMES or name.endswith(("_id", " id")) or name.startswith("unnamed")):
        return ""
    if kind != "number" or not pa.types.is_integer(column.cells.type) or column.cells.null_count:
        return ""
    all_distinct = pc.count_distinct(column.cells).as_py() == len(column.cells)
    return "numbers the rows" if all_distinct else ""


def _summarize_column(column: Cells, role: str, kind: str) -> ColumnSummary:
    """Return a column's summary."""
    cells = column.cells
    example = next((str(cell.as_py()) for cell in cells if cell.is_valid), "").removesuffix(" 00:00:00")
    kind = kind or (
        "number" if table_columns.is_number(cells.type) else "text" if table_columns.is_text(cells.type) else "date"
    )
    return ColumnSummary(column.name, role, kind, cells.null_count, pc.count_distinct(cells).as_py(), example)


def make_notes(summaries: tuple[ColumnSummary, ...]) -> tuple[str, ...]:
    """Return notes on a table: its features' kinds, missing values, the target, and the columns left out."""
    features = [column for column in summaries if column.role == "feature"]
    counts = {kind: [c for c in features if c.kind == kind] for kind in ("number", "category", "date")}
    parts = [
        f"{len(columns)} {KIND_NAMES[kind][len(columns) > 1]} ({_format_columns(columns)})"
        for kind, columns in counts.items()
        if columns
    ]
    target = next((f"; target: {c.name}, {c.distinct} different values" for c in summaries if c.role == "target"), "")
    notes = [f"features: {', '.join(parts)}{target}"]
    missing = [f"{c.name} {c.missing}" for c in features if c.missing]
    if missing:
        more = ", …" if len(missing) > MAX_LISTED else ""
        notes.append(f"missing values, which are marked for the network: {', '.join(missing[:MAX_LISTED])}{more}")
    omitted = [
        f"{c.name} ({c.role.removeprefix('left out: ')})"
        for c in summaries
        if c.role.startswith("left out") and "asked" not in c.role
    ]
    if omitted:
        notes.append(f"columns left out: {', '.join(omitted)}")
    special = [f"{c.name} ({c.role})" for c in summaries if c.role in ("id", "group", "time", "weight")]
    if special:
        notes.append(f"columns with a purpose of their own, not among the features: {', '.join(special)}")
    return tuple(notes)


def _format_columns(columns: Sequence[ColumnSummary]) -> str:
    """Return the names of columns; of categories with the number of values."""
    names = [f"{c.name}: {c.distinct}" if c.kind == "category" else c.name for c in columns]
    return ", ".join(names[:MAX_LISTED]) + (f", … {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def _name_rows(cells: dict[str, Cells], options: TableOptions, rows: Array) -> Array:
    """Return the names of the rows for messages: their number in the file, with their id if there is one."""
    if not options.id:
        return rows
    names = table_columns.convert_to_text(cells[options.id].cells).to_pylist()
    return np.array([f"{row}, {options.id} {name}" for row, name in zip(rows, names, strict=True)])


def read_weights(cells: dict[str, Cells], options: TableOptions) -> Array | None:
    """Return how much each row counts in training. Raises `DataError` for missing values, negative weights, and none
    above 0."""
    if not options.weight:
        return None
    column = cells[options.weight]
    if not table_columns.is_number(column.cells.type):
        raise DataError(f"the weight '{column.name}' holds no numbers", expected="numbers of 0 or more")
    values = table_columns.convert_numbers(column)
    wrong = np.flatnonzero(~(values >= 0))
    if len(wrong):
        raise DataError(
            f"{column.locate(int(wrong[0]))} is no weight ({len(wrong)} such rows)",
            expected="a number of 0 or more",
            received=str(values[wrong[0]]),
        )
    if not values.any():
        raise DataError(f"{column.path}: every weight in '{column.name}' is 0", expected="some weight above 0")
    weights: Array = values / values.mean()
    return weights


def read_groups(cells: dict[str, Cells], options: TableOptions) -> Array | None:
    """Return the group of each row as a number; rows without one are groups of their own."""
    if not options.group:
        return None
    texts = table_columns.convert_to_text(cells[options.group].cells)
    values = [value for value in pc.unique(texts).to_pylist() if value is not None]
    indices = pc.index_in(texts, value_set=pa.array(values, pa.string())).cast(pa.float64()).to_numpy().copy()
    ungrouped = np.flatnonzero(np.isnan(indices))
    indices[ungrouped] = len(values) + np.arange(len(ungrouped))
    groups: Array = indices.astype(np.int64)
    return groups


def read_times(cells: dict[str, Cells], options: TableOptions) -> Array | None:
    """Return the time of each row, as a number that grows. Raises `DataError` for missing values and for text."""
    if not options.time:
        return None
    column = cells[options.time]
    kind = table_columns.infer_kind(column)
    if kind not in ("number", "date") or column.cells.null_count:
        raise DataError(
            f"{column.path}: the time '{column.name}' does not order the rows",
            expected="a date or a number in every row",
            received=f"{column.cells.null_count} missing values" if column.cells.null_count else kind,
            do="give the format of the dates: --set 'data.dates=%d/%m/%Y'",
        )
    return table_columns.convert_dates(column) if kind == "date" else table_columns.convert_numbers(column)

"""Tables (CSV, TSV, Parquet): columns of numbers and one target.

Shape letters: ``N`` rows, ``D`` features. The target is the last column unless named. Text makes classes, in
alphabetical order; fractions make a number; whole numbers make a number if there are many different ones,
else *either*: then labels number the schema's classes, which are the sorted values' text, so that
classification takes the labels and regression the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from layerwise.data import delimited
from layerwise.data.delimited import Header
from layerwise.data.source import Array, ArraySource, Schema, Target
from layerwise.errors import DataError, UsageError, unknown

FEW = 20  # different whole numbers up to which they may be classes
MANY = 50  # different texts from which a target that hardly repeats is free text
PARQUET = b"PAR1"


class Column(NamedTuple):
    """A column with what messages need: its table's path and its rows' numbers in the file."""

    name: str
    cells: pa.ChunkedArray
    path: Path
    rows: Array

    def where(self, at: int) -> str:
        """Return path, row and column of a cell."""
        return f"{self.path}, row {self.rows[at]}: column '{self.name}'"


def read(
    path: Path,
    *,
    target: str = "",
    header: Header = "auto",
    drop: Sequence[str] = (),
    encoding: str = "utf-8",
) -> ArraySource:
    """Read a table whole: inputs (N, D) float64 and targets (N,).

    Args:
        path: the file; Parquet is told by content, everything else is delimited text.
        target: the column to predict; the last one if empty.
        header: whether the first row names the columns (text only).
        drop: columns to leave out.
        encoding: of text.

    Raises:
        DataError: for damaged, empty and ragged files, and for columns of text, dates or with gaps, NaN or
            Inf (F11, F12).
        UsageError: for columns that are not there.
    """
    table, rows = _load(path, header, encoding)
    names = tuple(table.column_names)
    for name in (*drop, *((target,) if target else ())):
        if name not in names:
            raise unknown("column", name, names, where=str(path))
    kept = [name for name in names if name not in drop]
    target = target or (kept[-1] if kept else "")
    if target in drop:
        raise UsageError(
            f"the target '{target}' is among the columns to leave out", do="take it out of data.drop"
        )
    features = tuple(name for name in kept if name != target)
    if not features:
        raise DataError(
            f"{path} has no column besides the target",
            expected="at least one column of numbers and a target",
            received=f"columns {', '.join(names)}",
            do="check the separator: comma, tab, semicolon and | are told apart by the first line",
        )
    if not len(table):
        raise DataError(f"{path} has no rows", expected="a row for each example", received="a header only")
    columns = [Column(name, table[name], path, rows) for name in features]
    inputs = matrix(columns)
    targets, kind, classes = labelled(Column(target, table[target], path, rows))
    schema = Schema("row", (len(features),), kind, classes, features, target)
    return ArraySource(schema, inputs, targets, str(path), rows)


def rows(
    path: Path, *, header: Header = "auto", encoding: str = "utf-8", size: int = 1024
) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows for prediction, up to ``size`` at a time, as mappings from column to cell, in
    bounded memory.

    Cells of text tables are text. Raises `DataError` for damaged and ragged files, once the reading comes to
    it.
    """
    for table in _parquet_chunks(path, size) if is_parquet(path) else _text_chunks(path, header, encoding):
        for start in range(0, len(table), size):
            yield table.slice(start, size).to_pylist()


def is_parquet(path: Path) -> bool:
    """Tell by content whether a file is Parquet. Raises `DataError` if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == PARQUET
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _load(path: Path, header: Header, encoding: str) -> tuple[pa.Table, Array]:
    """Read a table and the number of each row in its file, (N,)."""
    if is_parquet(path):
        try:
            table = pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        delimited.check_names(tuple(table.column_names), path)
        return table, np.arange(1, len(table) + 1)
    dialect = delimited.sniff(path, header=header, encoding=encoding)
    table = delimited.read(dialect)
    return table, delimited.line_numbers(dialect, len(table))


def _text_chunks(path: Path, header: Header, encoding: str) -> Iterator[pa.Table]:
    return delimited.chunks(delimited.sniff(path, header=header, encoding=encoding))


def _parquet_chunks(path: Path, size: int) -> Iterator[pa.Table]:
    """Read a Parquet file batch by batch."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is damaged: {error}", expected="a whole Parquet file", do="fetch or write it again"
    )


def matrix(columns: Sequence[Column]) -> Array:
    """Return columns of numbers as (N, D) float64; `DataError` names column and row of what is none."""
    columns = [column._replace(cells=plain(column.cells)) for column in columns]
    texts = [column for column in columns if is_text(column.cells.type)]
    if texts:
        raise _text(texts)
    out = np.empty((len(columns[0].cells), len(columns)))
    for at, column in enumerate(columns):
        out[:, at] = numbers(column)
    return out


def numbers(column: Column) -> Array:
    """Return a column as (N,) float64. Raises `DataError` for gaps, NaN, Inf and what is no number (F12)."""
    cells = plain(column.cells)
    kind = cells.type
    _no_gaps(column._replace(cells=cells))
    if not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or _decimal(kind)
    ):
        raise DataError(
            f"{column.path}: column '{column.name}' holds no numbers",
            expected="numbers",
            received=f"{kind} such as {cells[0]}",
            do=f"leave it out: --set 'data.drop=[\"{column.name}\"]'",
        )
    if pa.types.is_boolean(kind):
        cells = cells.cast(pa.int8())
    values: Array = cells.cast(pa.float64(), safe=False).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(
            f"{column.where(int(wrong[0]))} is not finite ({len(wrong)} such rows)",
            expected="a finite number",
            received=f"{values[wrong[0]]}",
            do="correct or remove these rows",
        )
    return values


def labelled(column: Column) -> tuple[Array, Target, tuple[str, ...]]:
    """Return targets (N,), their kind and the classes: see the head of this module.

    Raises `DataError` for gaps, dates, values that are not finite, and free text.
    """
    cells = plain(column.cells)
    if is_text(cells.type):
        cells = pc.utf8_trim_whitespace(cells.cast(pa.string()))
        cells = pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)
    elif pa.types.is_boolean(cells.type):
        cells = pc.if_else(cells, "true", "false")
    column = column._replace(cells=cells)
    _no_gaps(column)
    if is_text(cells.type):
        names, labels = np.unique(np.array(cells.to_pylist()), return_inverse=True)
        if len(names) > max(MANY, len(labels) // 2):
            raise DataError(
                f"{column.path}: the target '{column.name}' is free text, not classes",
                expected="a column whose values repeat",
                received=f"{len(names)} different texts in {len(labels)} rows",
                do="name the target with --set data.target=…",
            )
        return labels.astype(np.int64), "class", tuple(str(name) for name in names)
    values = numbers(column)
    if not pa.types.is_integer(cells.type):
        return values, "number", ()
    distinct, labels = np.unique(values, return_inverse=True)
    if len(distinct) > FEW:
        return values, "number", ()
    return labels.astype(np.int64), "either", tuple(str(int(value)) for value in distinct)


def plain(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Look dictionary-encoded cells up."""
    return cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells


def is_text(kind: pa.DataType) -> bool:
    """Tell whether cells are text."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(text or pa.types.is_binary(kind))


def _decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind))


def _no_gaps(column: Column) -> None:
    """Refuse cells without a value."""
    if column.cells.null_count:
        gaps = np.flatnonzero(column.cells.is_null().to_numpy())
        raise DataError(
            f"{column.where(int(gaps[0]))} has no value ({len(gaps)} such rows)",
            expected="a value in every row",
            received="a gap",
            do=f"fill or remove these rows, or leave the column out: --set 'data.drop=[\"{column.name}\"]'",
        )


def _text(columns: Sequence[Column]) -> DataError:
    """Make the error for features that are text, or numbers but for some cells."""
    first = columns[0]
    cells = [str(cell) for cell in first.cells.to_pylist()]
    wrong = [at for at, cell in enumerate(cells) if not _number(cell)]
    at = wrong[0] if wrong else 0
    names = ", ".join(f'"{column.name}"' for column in columns)
    others = f"; text too: {', '.join(c.name for c in columns[1:])}" if len(columns) > 1 else ""
    return DataError(
        f"{first.where(at)} is text ({len(wrong)} of {len(cells)} rows{others})",
        expected="numbers in every column but the target",
        received=repr(cells[at]),
        do=f"leave them out: --set 'data.drop=[{names}]', or name the target with --set data.target=…",
    )


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

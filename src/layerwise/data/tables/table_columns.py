"""The columns of a table: their kinds, and their cells as numbers.

A number stays itself, a date becomes days since 1970-01-01 (UTC), a category the index of its value among the column's
sorted values. NaN marks a missing value, which stays for the task to mark. Text in a column of numbers, NaN or Inf in
the file, and numbers beyond float32, the networks' input type, raise `DataError` with row and column.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from layerwise.data.source import FLOAT32_MAX, Array, Column, Target
from layerwise.errors import DataError

MAX_INTEGER_CLASSES = 20  # different whole numbers up to which a target may be classes
MIN_FREE_TEXT_VALUES = 50  # different texts from which a column that hardly repeats is free text
MICROSECONDS_PER_DAY = 86_400_000_000
DAY_RANGE = (-719_162, 2_932_897)  # the first day of year 1 and the day after the last of 9999, in days since 1970
# "None" may be a value of its own in text
TEXT_MISSING_MARKS = frozenset({"", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "?"})
Kind = Literal["number", "category", "date", "text", "empty"]


class Cells(NamedTuple):
    """A column as read, with its table's path and its rows' numbers in the file, for messages."""

    name: str
    cells: pa.ChunkedArray
    path: Path
    rows: Array

    def locate(self, row: int) -> str:
        """Return path, row and column of a cell."""
        return f"{self.path}, row {self.rows[row]}: column '{self.name}'"


def tidy(cells: pa.ChunkedArray, missing_marks: frozenset[str] = TEXT_MISSING_MARKS) -> pa.ChunkedArray:
    """Decode dictionary-encoded cells, trim text, and turn text that marks a missing value into null."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if is_text(cells.type) or pa.types.is_null(cells.type):
        cells = pc.utf8_trim_whitespace(cells.cast(pa.string()))
        missing = pc.is_in(cells, value_set=pa.array(sorted(missing_marks), pa.string()))
        cells = pc.if_else(missing, pa.scalar(None, pa.string()), cells)
    return cells


def infer_kind(column: Cells, *, category: bool = False) -> Kind:
    """Return the kind of a tidy column; with ``category`` its values are names, whatever they look like.

    Text is a category if it repeats, free text if it hardly does, and a faulty column of numbers if at least half of it
    reads as numbers: that raises `DataError`, and so does any other type (lists, structures).
    """
    kind = column.cells.type
    if column.cells.null_count == len(column.cells):
        return "empty"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "category" if category else "date"
    if is_number(kind):
        return "category" if category else "number"
    if not is_text(kind):
        raise DataError(
            f"{column.path}: column '{column.name}' holds no numbers, dates or text",
            expected="plain cells",
            received=f"{kind}",
            do=f"leave it out: --set 'data.drop=[\"{column.name}\"]'",
        )
    if category:
        return "category"
    _refuse_faulty_numbers(column)
    count = len(column.cells) - column.cells.null_count
    return "text" if pc.count_distinct(column.cells).as_py() > max(MIN_FREE_TEXT_VALUES, count // 2) else "category"


def match_kind(column: Cells, kind: str) -> Kind:
    """Return the kind that a tidy column has in another table. Raises `DataError` at the first cell that does not fit
    this kind."""
    cells = column.cells
    if kind == "category" or cells.null_count == len(cells):
        return "category" if kind == "category" else "date" if kind == "date" else "number"
    dates = pa.types.is_date(cells.type) or pa.types.is_timestamp(cells.type)
    if kind == "date" and dates:
        return "date"
    if kind == "number" and is_number(cells.type):
        return "number"
    if kind == "number" and is_text(cells.type):
        _refuse_faulty_numbers(column)
    row = int(np.flatnonzero(~cells.is_null().to_numpy())[0])
    raise DataError(
        f"{column.locate(row)} does not hold what the training part has there",
        expected=f"a {kind}",
        received=f"{cells[row].as_py()!r}",
        do="correct the column; --set data.missing and data.dates say how cells are read",
    )


def is_number(kind: pa.DataType) -> bool:
    """Whether cells are numbers or truth values."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether cells are text."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(text or pa.types.is_binary(kind))


def encode_feature(column: Cells, kind: Kind) -> tuple[Column, Array]:
    """Return a tidy column's description and its cells as numbers (N,) float64, NaN for missing values."""
    if kind == "category":
        return encode_categories(column)
    values = convert_dates(column) if kind == "date" else convert_numbers(column)
    return Column(column.name, "date" if kind == "date" else "number", has_missing=column.cells.null_count > 0), values


def convert_numbers(column: Cells) -> Array:
    """Return a tidy column as (N,) float64, NaN for missing values. Raises `DataError` for NaN and Inf in the file, and
    for numbers beyond float32."""
    cells = column.cells
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.int8())
    values: Array = cells.cast(pa.float64(), safe=False).to_numpy().copy()
    missing = cells.is_null().to_numpy()
    wrong = np.flatnonzero(~np.isfinite(values) & ~missing)
    if len(wrong):
        raise DataError(
            f"{column.locate(int(wrong[0]))} is not finite ({len(wrong)} such rows)",
            expected="a finite number, or an empty cell for a missing value",
            received=f"{values[wrong[0]]}",
            do="correct or remove these rows; if the mark means a missing value: --set 'data.missing=[\"nan\"]'",
        )
    out_of_range = np.flatnonzero(np.abs(values) > FLOAT32_MAX)
    if len(out_of_range):
        raise _make_range_error(
            column,
            out_of_range,
            f"a number of at most {FLOAT32_MAX:.4g} in size, as float32 holds",
            f"{values[out_of_range[0]]:g}",
        )
    return values


def _make_range_error(column: Cells, wrong: Array, expected: str, received: str) -> DataError:
    """Make the error for cells out of the range of networks' inputs."""
    return DataError(
        f"{column.locate(int(wrong[0]))} is out of range ({len(wrong)} such rows)",
        expected=expected,
        received=received,
        do="correct or remove these rows, or write the whole column in another unit",
    )


def convert_dates(column: Cells) -> Array:
    """Return a tidy column of dates or times as days since 1970-01-01 (N,), NaN for missing values. Times without a
    zone count as UTC.

    Raises `DataError` for dates outside the years 1 to 9999, which Python and prediction cannot hold.
    """
    stamps = column.cells.cast(pa.timestamp("us", tz=getattr(column.cells.type, "tz", None)), safe=False)
    values: Array = stamps.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy().copy() / MICROSECONDS_PER_DAY
    unit_counts = column.cells.cast(
        pa.int64() if column.cells.type.bit_width == 64 else pa.int32()
    )  # what the cast above may wrap around
    day_counts = unit_counts.cast(pa.float64(), safe=False).to_numpy() / _get_units_per_day(column.cells.type)
    wrong = np.flatnonzero((day_counts < DAY_RANGE[0]) | (day_counts >= DAY_RANGE[1]))
    if len(wrong):
        raise _make_range_error(
            column,
            wrong,
            "a date in the years 1 to 9999",
            f"about the year {1970 + day_counts[wrong[0]] / 365.2425:.0f}",
        )
    return values


def _get_units_per_day(kind: pa.DataType) -> float:
    """Return how many of a type's units make a day."""
    if pa.types.is_date32(kind):
        return 1.0
    return 86_400.0 * {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}["ms" if pa.types.is_date64(kind) else kind.unit]


def encode_categories(column: Cells) -> tuple[Column, Array]:
    """Return a category's description with its sorted values, and the index of each cell's value (N,), NaN for missing
    values."""
    texts = convert_to_text(column.cells)
    values = sorted(value for value in pc.unique(texts).to_pylist() if value is not None)
    indices = pc.index_in(texts, value_set=pa.array(values, pa.string())).cast(pa.float64())
    return Column(column.name, "category", tuple(values), column.cells.null_count > 0), indices.to_numpy().copy()


def convert_to_text(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return tidy cells as text: truth values as true and false, numbers as written in full."""
    if pa.types.is_boolean(cells.type):
        return pc.if_else(cells, "true", "false")
    return cells if is_text(cells.type) else cells.cast(pa.string())


def encode_target(column: Cells) -> tuple[Array, Target, tuple[str, ...]]:
    """Return a tidy target column's values (N,), their kind and the classes.

    Text and truth values make classes, in alphabetical order; fractions make a number; whole numbers make a number if
    there are many different ones, else *either*. Raises `DataError` for missing values, dates, values that are not
    finite, and free text.
    """
    if column.cells.null_count:
        missing = np.flatnonzero(column.cells.is_null().to_numpy())
        raise DataError(
            f"{column.locate(int(missing[0]))} has no value ({len(missing)} such rows)",
            expected="a target in every row",
            received="a missing value",
            do="fill or remove these rows; if the mark is a class of its own, give it another name",
        )
    kind = column.cells.type
    if is_text(kind) or pa.types.is_boolean(kind):
        _refuse_free_text(column)
        column_info, indices = encode_categories(column)
        return indices.astype(np.int64), "class", column_info.values
    if not is_number(kind):
        raise DataError(
            f"{column.path}: the target '{column.name}' holds neither numbers nor classes",
            expected="numbers or text",
            received=f"{kind} such as {column.cells[0]}",
            do="name the target with --set data.target=…",
        )
    values = convert_numbers(column)
    if not pa.types.is_integer(kind):
        return values, "number", ()
    distinct, labels = np.unique(values, return_inverse=True)
    if len(distinct) > MAX_INTEGER_CLASSES:
        return values, "number", ()
    return labels.astype(np.int64), "either", tuple(str(int(value)) for value in distinct)


def _refuse_free_text(column: Cells) -> None:
    """Raise `DataError` for a target of text that hardly repeats."""
    if pa.types.is_boolean(column.cells.type):
        return
    distinct, count = pc.count_distinct(column.cells).as_py(), len(column.cells)
    if distinct > max(MIN_FREE_TEXT_VALUES, count // 2):
        raise DataError(
            f"{column.path}: the target '{column.name}' is free text, not classes",
            expected="a column whose values repeat",
            received=f"{distinct} different texts in {count} rows",
            do="name the target with --set data.target=…",
        )


def _refuse_faulty_numbers(column: Cells) -> None:
    """Raise `DataError` for text of which at least half reads as numbers: it is a faulty column of numbers."""
    cells: list[Any] = column.cells.to_pylist()
    wrong = [at for at, cell in enumerate(cells) if cell is not None and not _is_number_text(cell)]
    count = len(cells) - column.cells.null_count
    commas = [at for at in wrong if re.fullmatch(r"[+-]?\d+,\d+", cells[at])]
    if commas and len(wrong) - len(commas) <= count / 2 < len(commas) + count - len(wrong):
        raise DataError(
            f"{column.locate(commas[0])} has a decimal comma ({len(commas)} of {len(cells)} rows)",
            expected="numbers with a point, such as 1.5",
            received=repr(cells[commas[0]]),
            do=f"replace the commas in this column; if these are names: --set 'data.categories=[\"{column.name}\"]'",
        )
    if len(wrong) > count / 2:
        return
    if not wrong:  # numbers that the reader left as text, such as a nan among missing values
        wrong = [next(at for at, cell in enumerate(cells) if cell is not None)]
    raise DataError(
        f"{column.locate(wrong[0])} is text ({len(wrong)} of {len(cells)} rows)",
        expected="numbers: most of this column are",
        received=repr(cells[wrong[0]]),
        do=f"correct these rows; if the mark means a missing value: --set 'data.missing=[\"{cells[wrong[0]]}\"]'; if "
        "these are names: "
        f"--set 'data.categories=[\"{column.name}\"]'",
    )


def _is_number_text(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

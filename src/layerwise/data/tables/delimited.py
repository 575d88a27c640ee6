"""Delimited text (CSV, TSV) to columns: the content decides delimiter and header; errors for ragged rows name the line.

Lines are counted as an editor does: the first is 1, whether it is a header or not. pyarrow's threads may outlive a
reader, and a thread that still holds a Python object when Python exits aborts the process: so pyarrow gets native files
and buffers only, never a callback, a Python file, or an encoding that it would decode by calling Python.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from layerwise.data.source import Array
from layerwise.data.tables.table_options import Header
from layerwise.data.text import encodings
from layerwise.data.text.encodings import is_utf8
from layerwise.errors import DataError, UsageError
from layerwise.runtime.input_files import open_regular_file

# cells without a value, in columns of numbers
MISSING_MARKS = ("", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "None", "?")
DELIMITERS = (",", "\t", ";", "|")
SAMPLE_LINES = 20  # lines that decide the delimiter
HEAD_BYTES = 1 << 20  # bytes that decide delimiter and header
ROWS = 4096  # rows in a chunk of a table in another encoding than UTF-8, or about 1 MiB of text
RAGGED = re.compile(r"Expected \d+ columns, got \d+")  # pyarrow's message for a row with too few or too many cells


class Dialect(NamedTuple):
    """The dialect of a file; ``skip`` lines come before the first row of data."""

    path: Path
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    skip: int


def sniff(path: Path, *, header: Header = "auto", encoding: str = "utf-8") -> Dialect:
    """Return the dialect of a text table.

    ``header="auto"`` takes the first row as names if none of its cells is a number. Without a header the
    columns are called ``column1``, ``column2``, … Raises `DataError` for files that are empty, binary, or in
    another encoding.
    """
    try:
        codecs.lookup(encoding)
        with open_regular_file(path) as stream:
            _check_encoding(path, stream, encoding)
            stream.seek(0)
            head = stream.read(HEAD_BYTES)
    except LookupError as error:
        raise UsageError(f"unknown text encoding '{encoding}'", expected="for example utf-8 or gbk") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    text = head.decode(encoding, "ignore").removeprefix("\ufeff")
    lines = list(io.StringIO(text, newline=""))
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise DataError(f"{path} is empty", expected="a table with a target column", received=f"{len(head)} bytes")
    delimiter = _find_delimiter(
        lines[:SAMPLE_LINES] if len(head) < HEAD_BYTES else lines[: min(SAMPLE_LINES, len(lines) - 1)] or [first], path
    )
    rows, ends = _read_first_rows(lines, delimiter, path)
    if not rows:
        raise DataError(f"{path} has no cell that is not blank", expected="a table with a target column")
    has_header = header == "yes" or (header == "auto" and _is_header(rows))
    columns = _make_names(rows[0], path) if has_header else tuple(f"column{i + 1}" for i in range(len(rows[0])))
    return Dialect(path, encoding, delimiter, columns, ends[0] if has_header else 0)


def read_table(dialect: Dialect, *, missing: tuple[str, ...] = (), dates: str = "") -> pa.Table:
    """Read the complete table; all rows decide its types. Raises `DataError` for ragged rows, by line.

    ``missing``: further marks of missing values; ``dates``: a format of dates besides ISO 8601.
    """
    try:
        return pacsv.read_csv(
            str(dialect.path) if is_utf8(dialect.encoding) else _convert_to_utf8(dialect),
            read_options=_make_read_options(dialect, use_threads=True),
            parse_options=_make_parse_options(dialect),
            convert_options=pacsv.ConvertOptions(
                null_values=[*MISSING_MARKS, *(f" {mark}" for mark in MISSING_MARKS if mark), *missing],
                strings_can_be_null=False,
                timestamp_parsers=[pacsv.ISO8601, *((dates,) if dates else ())],
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error) or "Could not skip" in str(error):
            return pa.table({name: pa.nulls(0) for name in dialect.columns})
        raise _make_read_error(dialect, error) from error


def read_chunks(dialect: Dialect) -> Generator[pa.Table]:
    """Read the table in chunks, every cell as text; raise `DataError` at the first ragged row.

    The reader is closed with the generator, also when that stops early.
    """
    if not is_utf8(dialect.encoding):
        yield from _read_decoded_chunks(dialect)
        return
    try:
        with pacsv.open_csv(
            str(dialect.path),
            read_options=_make_read_options(dialect, use_threads=False),
            parse_options=_make_parse_options(dialect),
            convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(dialect.columns, pa.string())),
        ) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error) and "Could not skip" not in str(error):
            raise _make_read_error(dialect, error) from error


def _read_decoded_chunks(dialect: Dialect) -> Generator[pa.Table]:
    """Read a table in another encoding than UTF-8 in chunks."""
    rows: list[list[str]] = []
    size = 0
    try:
        for _, row in _iterate_records(dialect):
            if len(row) != len(dialect.columns):
                raise _make_ragged_error(dialect)
            rows.append(row)
            size += sum(map(len, row))
            if size >= HEAD_BYTES or len(rows) == ROWS:
                yield _make_table(dialect, rows)
                rows, size = [], 0
    except csv.Error as error:
        raise _make_read_error(dialect, error) from error
    if rows:
        yield _make_table(dialect, rows)


def _make_table(dialect: Dialect, rows: list[list[str]]) -> pa.Table:
    """Return rows of text as columns."""
    cells = zip(*rows, strict=True)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(dialect.columns, cells, strict=True)})


def _convert_to_utf8(dialect: Dialect) -> pa.Buffer:
    """Return the complete file as UTF-8, in memory of pyarrow's own."""
    sink, decoder = pa.BufferOutputStream(), codecs.getincrementaldecoder(dialect.encoding)()
    with open_regular_file(dialect.path) as stream:
        for block in iter(lambda: stream.read(HEAD_BYTES), b""):
            sink.write(decoder.decode(block).encode())
    sink.write(decoder.decode(b"", True).encode())
    return sink.getvalue()


def _make_read_error(dialect: Dialect, error: Exception) -> DataError:
    """Make the error for a table that cannot be read, with the line of its first ragged row if that is the reason."""
    return (
        _make_ragged_error(dialect)
        if RAGGED.search(str(error))
        else DataError(f"{dialect.path} cannot be read as a table: {error}")
    )


def find_line_numbers(dialect: Dialect, count: int) -> Array:
    """Return the line on which each of ``count`` rows begins, (N,) int64."""
    with open_regular_file(dialect.path) as stream:
        breaks = sum(block.count(b"\n") for block in iter(lambda: stream.read(HEAD_BYTES), b""))
        stream.seek(-min(1, stream.tell()), 2)
        closed = stream.read(1) == b"\n"
    if breaks + (not closed) == count + dialect.skip:  # no blank lines, no line breaks in quotes
        return np.arange(count, dtype=np.int64) + dialect.skip + 1
    return np.fromiter((line for line, _ in islice(_iterate_records(dialect), count)), np.int64, count=count)


def _iterate_records(dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line it begins on: slow, for details that pyarrow does not report."""
    encoding = "utf-8-sig" if dialect.encoding.lower().replace("-", "") == "utf8" else dialect.encoding
    with io.TextIOWrapper(open_regular_file(dialect.path), encoding=encoding, newline="") as stream:
        for _ in range(dialect.skip):
            stream.readline()
        reader, line = csv.reader(stream, delimiter=dialect.delimiter), dialect.skip + 1
        for row in reader:
            if row:
                yield line, row
            line = dialect.skip + reader.line_num + 1


def _make_read_options(dialect: Dialect, *, use_threads: bool) -> pacsv.ReadOptions:
    """Return options for a native source in UTF-8 (under any other name of it pyarrow would decode it by calling
    Python)."""
    return pacsv.ReadOptions(
        column_names=list(dialect.columns), skip_rows=dialect.skip, encoding="utf8", use_threads=use_threads
    )


def _make_parse_options(dialect: Dialect) -> pacsv.ParseOptions:
    return pacsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True)


def _make_ragged_error(dialect: Dialect) -> DataError:
    """Make the error for rows with too few or too many cells, with the line of the first."""
    width = len(dialect.columns)
    try:
        line, row = next((line, row) for line, row in _iterate_records(dialect) if len(row) != width)
        where, received = f"row {line}", f"{len(row)} cells: {dialect.delimiter.join(row)[:80]!r}"
    except (StopIteration, csv.Error):
        where, received = "a row", "another number of cells, perhaps because a quote is not closed"
    return DataError(
        f"{dialect.path}: {where} does not have as many cells as the first",
        expected=f"{width} cells, separated by {dialect.delimiter!r}",
        received=received,
        do="correct the row; quote cells that contain the separator",
    )


def _check_encoding(path: Path, stream: Any, encoding: str) -> None:
    """Raise `DataError` for binary files, and for text in another encoding, with the probable one."""
    decoder = codecs.getincrementaldecoder(encoding)()
    head = stream.read(HEAD_BYTES)
    block = head
    bom = encodings.detect_byte_order_mark(head)
    try:
        while block:
            text = decoder.decode(block)
            if "\0" in text and not bom:
                raise DataError(f"{path} is not a text table: it holds NUL bytes", expected="CSV, TSV or Parquet")
            block = stream.read(HEAD_BYTES)
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        guess = bom or encodings.guess_encoding(block or head, encoding)
        raise DataError(
            f"{path} is not encoded in {encoding}",
            expected=f"text in {encoding}",
            received=f"the byte 0x{error.object[error.start]:02x}; it is probably {guess}",
            do=f"--set data.encoding={guess}, or convert the file to utf-8",
        ) from error


def _find_delimiter(lines: list[str], path: Path) -> str:
    """Return the separator by which most lines have as many cells as the first; of several, most cells."""

    def score_delimiter(delimiter: str) -> tuple[int, int]:
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        width = counts[0] if counts else 0
        return (sum(count == width for count in counts) if width > 1 else 0, width)

    try:
        return max(DELIMITERS, key=score_delimiter)
    except csv.Error as error:
        raise DataError(f"{path} is not a text table: {error}") from error


def _read_first_rows(lines: list[str], delimiter: str, path: Path) -> tuple[list[list[str]], list[int]]:
    """Return up to two rows that are not blank, and the line each ends on."""
    reader = csv.reader(lines, delimiter=delimiter)
    rows: list[list[str]] = []
    ends: list[int] = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                ends.append(reader.line_num)
            if len(rows) == 2:
                break
    except csv.Error as error:
        raise DataError(f"{path} is not a text table: {error}") from error
    return rows, ends


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names columns: no number, no gap mark; no cell twice, or numbers below."""
    cells = [cell for cell in rows[0] if cell]
    if not cells or any(_is_number_text(cell) or cell in MISSING_MARKS for cell in cells):
        return False
    return len(set(cells)) == len(cells) or any(_is_number_text(cell) for row in rows[1:] for cell in row)


def _is_number_text(cell: str) -> bool:
    """Whether a cell reads as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _make_names(cells: list[str], path: Path) -> tuple[str, ...]:
    """Return column names; those without are numbered."""
    names = tuple(cell or f"column{i + 1}" for i, cell in enumerate(cells))
    check_names(names, path)
    return names


def check_names(names: tuple[str, ...], path: Path) -> None:
    """Raise `DataError` for two columns of one name."""
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise DataError(
            f"{path} has several columns of the same name",
            expected="a name of its own for each column",
            received=", ".join(f"'{name}' {names.count(name)} times" for name in duplicates),
            do="rename them; if the first row is no header, --set data.header=no",
        )

"""The files that tables come in: delimited text, Parquet, JSON lines; told apart by content, read whole or piece by piece."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson
import pyarrow.parquet as pq

from layerwise.data import delimited
from layerwise.data.reading import Header, Reading
from layerwise.data.source import Array
from layerwise.errors import DataError

PARQUET = b"PAR1"


def rows(path: Path, *, header: Header = "auto", encoding: str = "utf-8", size: int = 1024) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows for prediction, up to ``size`` at a time, as mappings from column to cell, in bounded memory.

    Cells of text tables are text. Raises `DataError` for damaged and ragged files, once the reading comes to it.
    """
    with closing(pieces(path, header=header, encoding=encoding, size=size)) as found:
        for table in found:
            yield table.to_pylist()


def pieces(path: Path, *, header: Header = "auto", encoding: str = "utf-8", size: int = 1024) -> Generator[pa.Table]:
    """Yield a table piece by piece, up to ``size`` rows at a time, as `rows` does, but as columns.

    Whoever gives up half-way closes the generator, and with it the file's reader: ``with contextlib.closing(pieces(…)) as found``.
    """
    with closing(_chunks(path, header, encoding, size)) as chunks:
        for table in chunks:
            for start in range(0, len(table), size):
                yield table.slice(start, size)


def _chunks(path: Path, header: Header, encoding: str, size: int) -> Generator[pa.Table]:
    if is_parquet(path):
        return _parquet_chunks(path, size)
    if is_json_lines(path):
        return _json_chunks(path)
    return delimited.chunks(delimited.sniff(path, header=header, encoding=encoding))


def is_parquet(path: Path) -> bool:
    """Tell by content whether a file is Parquet. Raises `DataError` if it cannot be read."""
    return _head(path).startswith(PARQUET)


def is_json_lines(path: Path) -> bool:
    """Tell by content whether a file holds a JSON object a line. Raises `DataError` if it cannot be read."""
    return _head(path).removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b'{"', b"{ ", b"{\n", b"{}"))


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(64)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def load(path: Path, reading: Reading) -> tuple[pa.Table, Array]:
    """Read a table and the number of each row in its file, (N,)."""
    if is_parquet(path):
        try:
            table = pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        delimited.check_names(tuple(table.column_names), path)
        return table, np.arange(1, len(table) + 1)
    if is_json_lines(path):
        tables = list(_json_chunks(path))
        table = pa.concat_tables(tables, promote_options="default")
        return table, np.arange(1, len(table) + 1)
    dialect = delimited.sniff(path, header=reading.header, encoding=reading.encoding)
    if reading.names and len(reading.names) == len(dialect.columns):
        dialect = dialect._replace(columns=reading.names)
    table = delimited.read(dialect, missing=reading.missing, dates=reading.dates)
    return table, delimited.line_numbers(dialect, len(table))


def _parquet_chunks(path: Path, size: int) -> Generator[pa.Table]:
    """Read a Parquet file batch by batch."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _json_chunks(path: Path) -> Generator[pa.Table]:
    """Read JSON lines block by block."""
    try:
        with pajson.open_json(str(path)) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as JSON lines: {error}",
            expected='an object a line with the same fields, such as {"x": 1, "y": "a"}',
            do="correct the line, or write the table as CSV",
        ) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error}", expected="a whole Parquet file", do="fetch or write it again")

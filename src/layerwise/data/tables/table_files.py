"""Reading tables from delimited text, Parquet or JSON lines, by content; completely or in chunks."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson
import pyarrow.parquet as pq

from layerwise.data.source import Array
from layerwise.data.tables import delimited
from layerwise.data.tables.table_options import Header, TableOptions
from layerwise.errors import DataError
from layerwise.runtime.bounded_decoding import check_json_depth
from layerwise.runtime.input_files import open_regular_file

PARQUET = b"PAR1"
LONGEST_LINE = 1 << 24  # bytes of a line of JSON
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)  # what pyarrow raises; the last for the name of a column
MAX_RATIO, FREE = 1000, 1 << 30  # unpacked to packed bytes, checked beyond FREE unpacked bytes


def iterate_rows(
    path: Path, *, header: Header = "auto", encoding: str = "utf-8", size: int = 1024
) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows for prediction, up to ``size`` at a time, as mappings from column to cell, in bounded
    memory.

    Cells of text tables are text. Raises `DataError` for damaged and ragged files when it reaches the error.
    """
    with closing(iterate_tables(path, header=header, encoding=encoding, size=size)) as tables:
        for table in tables:
            yield table.to_pylist()


def iterate_tables(
    path: Path, *, header: Header = "auto", encoding: str = "utf-8", size: int = 1024
) -> Generator[pa.Table]:
    """Yield a table piece by piece, up to ``size`` rows at a time, as `iterate_rows` does, but as columns.

    A caller that stops early must close the generator, and with it the file's reader: ``with
    contextlib.closing(iterate_tables(…)) as tables``.
    """
    with closing(_open_chunks(path, header, encoding, size)) as chunks:
        for table in chunks:
            for start in range(0, len(table), size):
                yield table.slice(start, size)


def _open_chunks(path: Path, header: Header, encoding: str, size: int) -> Generator[pa.Table]:
    if is_parquet(path):
        return _read_parquet_chunks(path, size)
    if is_json_lines(path):
        return _read_json_chunks(path)
    return delimited.read_chunks(delimited.sniff(path, header=header, encoding=encoding))


def is_parquet(path: Path) -> bool:
    """Whether a file's content is Parquet. Raises `DataError` if it cannot be read."""
    return _read_head(path).startswith(PARQUET)


def is_json_lines(path: Path) -> bool:
    """Whether a file's content is a JSON object a line. Raises `DataError` if it cannot be read."""
    return _read_head(path).removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b'{"', b"{ ", b"{\n", b"{}"))


def _read_head(path: Path) -> bytes:
    try:
        with open_regular_file(path) as stream:
            return stream.read(64)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def load_table(path: Path, options: TableOptions) -> tuple[pa.Table, Array]:
    """Read a table and the number of each row in its file, (N,)."""
    if is_parquet(path):
        try:
            _check_rows(path)
            table = pq.read_table(path, partitioning=None)
            table.validate(full=True)
        except UNREADABLE as error:
            raise _make_damaged_error(path, error) from error
        delimited.check_names(tuple(table.column_names), path)
        return table, np.arange(1, len(table) + 1)
    if is_json_lines(path):
        tables = list(_read_json_chunks(path))
        table = pa.concat_tables(tables, promote_options="default")
        return table, np.arange(1, len(table) + 1)
    dialect = delimited.sniff(path, header=options.header, encoding=options.encoding)
    if options.names and len(options.names) == len(dialect.columns):
        dialect = dialect._replace(columns=options.names)
    table = delimited.read_table(dialect, missing=options.missing, dates=options.dates)
    return table, delimited.find_line_numbers(dialect, len(table))


def _read_parquet_chunks(path: Path, size: int) -> Generator[pa.Table]:
    """Read a Parquet file batch by batch."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                batch.validate(full=True)  # text that is not UTF-8, among others
                yield pa.Table.from_batches([batch])
    except UNREADABLE as error:
        raise _make_damaged_error(path, error) from error


def _read_json_chunks(path: Path) -> Generator[pa.Table]:
    """Read JSON lines block by block."""
    try:
        with DepthCheckedLines(path) as stream, pajson.open_json(stream) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as JSON lines: {error}",
            expected='an object a line with the same fields, such as {"x": 1, "y": "a"}',
            do="correct the line, or write the table as CSV",
        ) from error


class DepthCheckedLines(io.RawIOBase):
    """The bytes of JSON lines, checked while reading: pyarrow's parser recurses, and a deeply nested line would end the
    process.

    Raises `DataError` for a line that nests too deep.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.file, self.rest, self.line = path, open_regular_file(path), b"", 1

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes."""
        data = self.file.read(size)
        *lines, self.rest = (self.rest + data).split(b"\n")
        self._check_text([*lines, *([] if data else [self.rest])])
        for number, line in enumerate((*lines, self.rest), start=self.line):
            check_json_depth(line, what=f"{self.path} line {number}")
        self.line += len(lines)
        if len(self.rest) > LONGEST_LINE:
            raise DataError(
                f"{self.path} line {self.line} has no end", expected=f"lines of at most {LONGEST_LINE:,} bytes"
            )
        return data

    def _check_text(self, lines: list[bytes]) -> None:
        """Raise `DataError` for lines that are not UTF-8: pyarrow accepts them, and fails when their cells are read."""
        try:
            b"\n".join(lines).decode()
        except UnicodeDecodeError as error:
            number = self.line + error.object[: error.start].count(b"\n")
            raise DataError(
                f"{self.path} line {number} is not UTF-8",
                expected="JSON lines in UTF-8",
                received=f"the byte 0x{error.object[error.start]:02x}",
                do="convert the file to utf-8",
            ) from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def _check_rows(path: Path) -> None:
    """Raise `DataError` for a Parquet file that would unpack to too much: a run of one value takes a few bytes, however
    long it is."""
    with pq.ParquetFile(path) as file:
        size = file.metadata.num_rows * file.metadata.num_columns * 8
    if size > FREE and size > MAX_RATIO * path.stat().st_size:
        raise DataError(
            f"{path} unpacks to too much to be read in memory",
            expected=f"at most {MAX_RATIO} times its size, or {FREE >> 30} GiB",
            received=f"about {size:,} bytes from {path.stat().st_size:,}",
            do="if you trust it, write it again as several smaller files",
        )


def _make_damaged_error(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error}", expected="a complete Parquet file", do="fetch or write it again")

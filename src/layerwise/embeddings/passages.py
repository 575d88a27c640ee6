"""Passages, the units that an index finds, each with a name: lines of a file, files of a folder, cells of a table's
column.

They are read in chunks, anew for each pass.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from layerwise.data.images.folders import FolderStore, format_names
from layerwise.data.text import text_files
from layerwise.errors import DataError, UsageError, make_unknown_name_error

Unit = Literal["line", "paragraph", "file"]
CHUNK_SIZE = 4096  # passages
MAX_LINE = 1 << 24  # characters of a line of text


class Passage(NamedTuple):
    """A text and its name: the line's number in a file, the file in a folder (and the line in it), the row or the
    ``id`` of a table."""

    name: str
    text: str


@dataclass(frozen=True)
class Passages:
    """The source of passages.

    Args:
        source: a text file (packed or not), a folder of them, or a table.
        by: the unit of a passage: a ``line``, a ``paragraph`` (lines between blank ones) or a whole ``file``; the empty
            text: lines of a file, files of a folder.
        column: the column of a table with the texts; required for tables.
        id: the column of a table with the passages' names; the empty text: rows are numbered from 1.
        encoding: of text files and text tables.
    """

    source: str
    by: Unit | Literal[""] = ""
    column: str = ""
    id: str = ""
    encoding: str = "utf-8"

    def chunks(self) -> Iterator[list[Passage]]:
        """Yield all passages that are not blank, in chunks of some thousands.

        Raises `UsageError` for a missing source, a table without the column, and options that do not apply to the
        source; `DataError` for a source that cannot be read or is not text, and for two passages of one name.
        """
        passages = self._all()
        while chunk := list(islice(passages, CHUNK_SIZE)):
            yield chunk

    def _all(self) -> Iterator[Passage]:
        path = Path(self.source).expanduser()
        if not path.exists():
            raise UsageError(
                f"there is no file or folder {path}",
                expected="a text file, a folder of texts, or a table with --column",
            )
        if self.column:
            if self.by or path.is_dir():
                raise UsageError(
                    "the rows of a table's column are passages as they are",
                    expected="a table, without --by",
                    received=f"--by {self.by}" if self.by else f"the folder {path}",
                )
            return self._cells(path)
        if self.id:
            raise UsageError("--id names passages of a table", do="add --column with the column that holds the texts")
        return self._files(path) if path.is_dir() else self._file(path, self.by or "line")

    def _cells(self, path: Path) -> Iterator[Passage]:
        """Yield the cells of a table's column."""
        from layerwise.data.tables import table_files  # pyarrow is slow to import

        row = 0
        for table in table_files.iterate_tables(path, encoding=self.encoding):
            for column in filter(None, (self.column, self.id)):
                if column not in table.column_names:
                    raise make_unknown_name_error("column", column, table.column_names, where=str(path))
            cells = table[self.column].to_pylist()
            names = table[self.id].to_pylist() if self.id else range(row + 1, row + 1 + len(cells))
            for name, cell in zip(names, cells, strict=True):
                row += 1
                if self.id and name is None:
                    raise DataError(f"{path} row {row} has no {self.id}", expected="a name for each passage")
                if cell is not None and str(cell).strip():
                    yield Passage(str(name), str(cell).strip())

    def _files(self, path: Path) -> Iterator[Passage]:
        """Yield the passages of a folder's texts; other files are skipped."""
        names = [name for name in FolderStore(str(path)).names() if not name.endswith("/")]
        text_names = [name for name in names if text_files.is_text(path / name, self.encoding)]
        if not text_names:
            raise DataError(
                f"the folder {path} holds no texts",
                expected=f"text files in {self.encoding}",
                received=format_names(names) or "nothing",
            )
        for name in text_names:
            by = self.by or "file"
            for passage in self._file(path / name, by):
                yield passage._replace(name=name if by == "file" else f"{name}:{passage.name}")

    def _file(self, path: Path, by: Unit) -> Iterator[Passage]:
        """Yield the passages of a text file, each named by its first line's number."""
        if by == "line":
            yield from (Passage(str(n), line.strip()) for n, line in self._lines(path) if line.strip())
            return
        lines: list[str] = []
        first = 1
        for number, line in self._lines(path):
            if line.strip():
                first = first if lines else number
                lines.append(line.strip())
            elif by == "paragraph" and lines:
                yield Passage(str(first), " ".join(lines))
                lines = []
        if lines:
            yield Passage(str(first), " ".join(lines))

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Yield a text's lines with their numbers, from packed files too."""
        decoder, rest, number, bytes_read = codecs.getincrementaldecoder("utf-8")(), "", 0, 0
        for chunk in text_files.read_pieces(str(path), self.encoding):
            try:
                *lines, rest = (rest + decoder.decode(chunk.data)).split("\n")
            except UnicodeDecodeError as error:
                raise text_files.make_not_text_error(
                    str(path), bytes_read + error.start, error.object[error.start], chunk.data
                ) from error
            bytes_read += len(chunk.data)
            for line in lines:
                number += 1
                yield number, line
            if len(rest) > MAX_LINE:
                raise DataError(
                    f"{path} line {number + 1} has no end", expected=f"lines of at most {MAX_LINE:,} characters"
                )
        if rest:
            yield number + 1, rest

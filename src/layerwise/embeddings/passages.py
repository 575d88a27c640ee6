"""Passages: the texts that an index finds, each with a name: lines of a file, files of a folder, cells of a table's
column.

They are read again whenever they are gone through, some at a time; nothing is kept.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from layerwise.data.images.folders import FolderPlace, some
from layerwise.data.text import texts
from layerwise.errors import DataError, UsageError, unknown

By = Literal["line", "paragraph", "file"]
AT_ONCE = 4096  # passages at a time
LONGEST = 1 << 24  # characters of a line: more is no text


class Passage(NamedTuple):
    """A text and its name: the line's number in a file, the file in a folder (and the line in it), the row or the
    ``id`` of a table."""

    name: str
    text: str


@dataclass(frozen=True)
class Passages:
    """Where passages come from.

    Args:
        source: a text file (packed or not), a folder of them, or a table.
        by: what is one passage: a ``line``, a ``paragraph`` (lines between blank ones) or a whole ``file``; the empty
            text: lines of a file, files of a folder.
        column: of a table, the column with the texts; a table has no other use.
        id: of a table, the column with the passages' names; the empty text: rows are numbered from 1.
        encoding: of text files and text tables.
    """

    source: str
    by: By | Literal[""] = ""
    column: str = ""
    id: str = ""
    encoding: str = "utf-8"

    def chunks(self) -> Iterator[list[Passage]]:
        """Yield all passages that are not blank, some thousands at a time.

        Raises `UsageError` for a source that is not there, for a table without a column named, and options that the
        source has no use for; `DataError` for what cannot be read, is no text, or holds two passages of one name.
        """
        found = self._all()
        while chunk := list(islice(found, AT_ONCE)):
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
        for table in table_files.pieces(path, encoding=self.encoding):
            for wanted in filter(None, (self.column, self.id)):
                if wanted not in table.column_names:
                    raise unknown("column", wanted, table.column_names, where=str(path))
            cells = table[self.column].to_pylist()
            names = table[self.id].to_pylist() if self.id else range(row + 1, row + 1 + len(cells))
            for name, cell in zip(names, cells, strict=True):
                row += 1
                if self.id and name is None:
                    raise DataError(f"{path} row {row} has no {self.id}", expected="a name for each passage")
                if cell is not None and str(cell).strip():
                    yield Passage(str(name), str(cell).strip())

    def _files(self, path: Path) -> Iterator[Passage]:
        """Yield the passages of a folder's texts; other files are left out."""
        names = [name for name in FolderPlace(str(path)).names() if not name.endswith("/")]
        chosen = [name for name in names if texts.is_text(path / name, self.encoding)]
        if not chosen:
            raise DataError(
                f"the folder {path} holds no texts",
                expected=f"text files in {self.encoding}",
                received=some(names) or "nothing",
            )
        for name in chosen:
            by = self.by or "file"
            for passage in self._file(path / name, by):
                yield passage._replace(name=name if by == "file" else f"{name}:{passage.name}")

    def _file(self, path: Path, by: By) -> Iterator[Passage]:
        """Yield the passages of a text file, each named by its first line's number."""
        if by == "line":
            yield from (Passage(str(n), line.strip()) for n, line in self._lines(path) if line.strip())
            return
        held: list[str] = []
        first = 1
        for number, line in self._lines(path):
            if line.strip():
                first = first if held else number
                held.append(line.strip())
            elif by == "paragraph" and held:
                yield Passage(str(first), " ".join(held))
                held = []
        if held:
            yield Passage(str(first), " ".join(held))

    def _lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Yield a text's lines with their numbers, however it is packed."""
        decoder, rest, number, read = codecs.getincrementaldecoder("utf-8")(), "", 0, 0
        for piece in texts.pieces(str(path), self.encoding):
            try:
                *lines, rest = (rest + decoder.decode(piece.data)).split("\n")
            except UnicodeDecodeError as error:
                raise texts.not_text(str(path), read + error.start, error.object[error.start], piece.data) from error
            read += len(piece.data)
            for line in lines:
                number += 1
                yield number, line
            if len(rest) > LONGEST:
                raise DataError(
                    f"{path} line {number + 1} has no end", expected=f"lines of at most {LONGEST:,} characters"
                )
        if rest:
            yield number + 1, rest

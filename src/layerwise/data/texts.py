"""Where running text comes from: a file, a folder of them, packed or not, standard input; always as pieces of UTF-8."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

from layerwise.data import encodings
from layerwise.data.folders import PARTS, FolderPlace, some
from layerwise.data.images import shown
from layerwise.errors import DataError, UsageError
from layerwise.input_files import open_regular_file

STANDARD_INPUT = "-"
PIECE = 1 << 20  # bytes read at once
HEAD = 1 << 16  # bytes that are looked at to tell what a file is
LINES = 20  # lines that tell a table from running text
MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
ENDINGS = (".txt", ".text")  # of files that are text whatever is in them: one in another encoding is an error by name
BOM = codecs.BOM_UTF8
PART_NAMES = PARTS | {"dev": "val", "testing": "test"}


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to so many bytes, none at the end."""
        ...


class Piece(NamedTuple):
    """Bytes of a text, and how many bytes of its file have been read."""

    data: bytes
    read: int


@dataclass(frozen=True)
class Texts:
    """Texts that are read one after the other. ``origin`` is what messages call them; no paths: standard input."""

    origin: str
    paths: tuple[str, ...]
    encoding: str = "utf-8"

    @property
    def piped(self) -> bool:
        """Whether this is standard input."""
        return not self.paths

    def marks(self) -> list[tuple[str, int, int]]:
        """Return path, size and time of each file: what tells that nothing has changed."""
        stats = [(path, Path(path).stat()) for path in self.paths]
        return [(str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(size for _, size, _ in self.marks())


def parts_of(folder: Path, may_run: Callable[[Path], bool], *, encoding: str, files: str) -> dict[str, Texts]:
    """Return the texts of a folder by part, if all of its files may be running text; none if they are not.

    Files are read sorted, at any depth; ``files`` picks those whose names match this pattern. Where every file is named for a part
    (``train.txt``, ``val/one.txt``) they are kept apart; else all of them are one text.
    """
    names = [name for name in FolderPlace(str(folder)).names() if not name.endswith("/")]
    picked = [name for name in names if not files or fnmatch(name.rsplit("/", 1)[-1], files)]
    if files and not picked:
        raise UsageError(f"no file in {folder} matches data.files", expected=f"one of {some(names)}", received=files)
    paths = {name: folder / name for name in picked}
    if not paths or not all(path.suffix.lower() in ENDINGS or may_run(path) for path in paths.values()):
        return {}
    by_part: dict[str, list[str]] = {}
    for name, path in paths.items():
        by_part.setdefault(part_of(name), []).append(str(path))
    if "" in by_part:
        by_part = {"train": [str(path) for path in paths.values()]}
    origins = {part: shown(found[0] if len(found) == 1 else str(folder)) for part, found in by_part.items()}
    return {part: Texts(origins[part], tuple(found), encoding) for part, found in by_part.items()}


def part_of(name: str) -> str:
    """Return the part that a file's name or its uppermost folder says it is, or the empty text."""
    words = re.split(r"[^a-z]+", name.split("/", 1)[0].lower())
    found = [PART_NAMES[word] for word in words if word in PART_NAMES]
    return found[-1] if found else ""


def standard_input(encoding: str) -> Texts:
    """Return what is piped in. Raises `UsageError` where that is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "'-' reads text from standard input, and nothing is piped in",
            expected="a pipe or a file: layerwise … --data - < corpus.txt",
            do="give the file's path instead of '-'",
        )
    return Texts("standard input", (), encoding)


def pieces(path: str, encoding: str = "utf-8") -> Iterator[Piece]:
    """Yield a text piece by piece, unpacked and as UTF-8, without a byte-order mark; ``path`` empty: standard input.

    Bytes of UTF-8 are not checked here (the tokeniser does). Raises `DataError` for a file that cannot be read, unpacked, or decoded
    from another encoding.
    """
    try:
        if path:
            with open_regular_file(path) as stream:
                yield from _recoded(_unpacked(stream, path), path, encoding)
        else:
            yield from _recoded(_unpacked(sys.stdin.buffer, ""), "standard input", encoding)
    except OSError as error:
        raise DataError(f"{shown(path) or 'standard input'} cannot be read: {error.strerror or error}") from error


def _unpacked(stream: Readable, path: str, size: int = PIECE) -> Iterator[Piece]:
    """Yield the bytes of a stream, up to ``size`` at a time, unpacked if it is gzip or zstd, without a byte-order mark."""
    head = stream.read(size)
    packing = next((kind for mark, kind in MARKS.items() if head.startswith(mark)), "")
    if packing:
        yield from _inflated(_Joined(head, stream), packing, path, size)
        return
    read = len(head)
    yield Piece(head.removeprefix(BOM), read)
    while data := stream.read(size):
        read += len(data)
        yield Piece(data, read)


class _Joined:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self.head, self.rest, self.at = head, rest, 0
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        """Return up to so many bytes."""
        data = self.head[:size] if self.head else self.rest.read(size)
        self.head = self.head[len(data) :] if self.head else b""
        self.at += len(data)
        return data

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self.at

    # what pyarrow asks of a file
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _inflated(stream: _Joined, packing: str, path: str, size: int) -> Iterator[Piece]:
    """Yield the unpacked bytes of a stream."""
    import pyarrow as pa  # slow to import

    first = True
    try:
        with _open_packed(stream, packing) as unpacked:
            while data := unpacked.read(size):
                yield Piece(data.removeprefix(BOM) if first else data, stream.tell())
                first = False
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(
            f"{shown(path) or 'standard input'} cannot be unpacked: {error}",
            expected=f"a whole {packing} file",
            do="fetch or pack it again",
        ) from error


def _open_packed(stream: _Joined, packing: str) -> AbstractContextManager[Any]:
    """Return the unpacked bytes of a stream, as a stream."""
    if packing == "gzip":  # pyarrow keeps 80 KB of each file that it refuses
        return gzip.GzipFile(fileobj=cast(IO[bytes], stream))
    import pyarrow as pa

    return cast(AbstractContextManager[Any], pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), packing))


def _recoded(found: Iterator[Piece], path: str, encoding: str) -> Iterator[Piece]:
    """Yield pieces in another encoding as UTF-8."""
    if encodings.is_utf8(encoding):
        yield from found
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    read = 0
    try:
        for piece in found:
            read = piece.read
            yield Piece(decoder.decode(piece.data).encode(), read)
        yield Piece(decoder.decode(b"", True).encode(), read)
    except UnicodeError as error:
        raise DataError(f"{shown(path)} is not written in {encoding}: {error}", expected=f"text in {encoding}") from error


def not_text(path: str, at: int, byte: int, head: bytes) -> DataError:
    """Make the error for a byte that is no UTF-8."""
    probably = encodings.marked(head) or encodings.guess(head, "utf-8")
    return DataError(
        f"{shown(path) or 'standard input'} is not written in utf-8",
        expected="text in utf-8",
        received=f"the byte 0x{byte:02x} at {at}; it is probably {probably}",
        do=f"--set data.encoding={probably}, or convert the file to utf-8",
    )


def is_text(path: Path, encoding: str = "utf-8") -> bool:
    """Tell by content whether a file is text, packed or not: its first bytes decode, and hold no control characters but blanks."""
    head = head_of(path)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except (UnicodeError, LookupError):
        return False
    return not any((ord(c) < 32 and not c.isspace()) or ord(c) == 127 for c in text[:HEAD])


def is_table(path: Path, encoding: str = "utf-8") -> bool:
    """Tell whether text looks like a table: its first lines have as many cells each, and there are numbers among them, or tabs between."""
    lines = head_of(path).decode(encoding, "ignore").splitlines()[: LINES + 1]
    lines = [line for line in lines[: max(2, min(LINES, len(lines) - 1))] if line.strip()]
    for mark in "\t;|,":
        rows = list(csv.reader(lines, delimiter=mark))
        if len(rows) > 1 and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            return mark == "\t" or sum(any(map(_is_number, row)) for row in rows) * 2 >= len(rows)
    return False


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked (few where it breaks off early); NUL if it cannot be unpacked."""
    for size in (HEAD, HEAD >> 8):
        with open_regular_file(path) as stream:
            try:
                return next(_unpacked(stream, str(path), size), Piece(b"", 0)).data
            except DataError:
                continue
    return b"\0"

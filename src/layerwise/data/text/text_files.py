"""Reading running text from a file, a folder of files, compressed or not, or standard input, as pieces of UTF-8."""

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

from layerwise.data.images.decoding import escape_name
from layerwise.data.images.folders import PARTS, FolderStore, format_names
from layerwise.data.text import encodings
from layerwise.errors import DataError, UsageError
from layerwise.runtime.input_files import open_regular_file

STANDARD_INPUT = "-"
PIECE_BYTES = 1 << 20  # bytes read at once
HEAD_BYTES = 1 << 16  # bytes that decide what a file is
SAMPLE_LINES = 20  # lines that decide whether a file is a table or running text
PACKING_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
ENDINGS = (".txt", ".text")  # of files that are text whatever is in them: one in another encoding is an error by name
BOM = codecs.BOM_UTF8
PART_NAMES = PARTS | {"dev": "val", "testing": "test"}


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; empty at the end."""
        ...


class Piece(NamedTuple):
    """Bytes of a text, and how many bytes of its file have been read."""

    data: bytes
    read: int


@dataclass(frozen=True)
class TextFiles:
    """Text files to read one after the other. ``origin`` is their name for messages; no paths: standard input."""

    origin: str
    paths: tuple[str, ...]
    encoding: str = "utf-8"

    @property
    def is_piped(self) -> bool:
        """Whether this is standard input."""
        return not self.paths

    def get_file_stats(self) -> list[tuple[str, int, int]]:
        """Return path, size and time of each file, which change with the file."""
        stats = [(path, Path(path).stat()) for path in self.paths]
        return [(str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def get_size(self) -> int:
        """Return the bytes of all files together."""
        return sum(size for _, size, _ in self.get_file_stats())


def find_text_parts(
    folder: Path, can_be_text: Callable[[Path], bool], *, encoding: str, files: str
) -> dict[str, TextFiles]:
    """Return the text files of a folder by part, if all of its files can be running text; else an empty dict.

    Files are read sorted, at any depth; ``files`` selects those whose names match this pattern. If every file is named
    for a part (``train.txt``, ``val/one.txt``) there is a text for each part; else all of them are one text.
    """
    names = [name for name in FolderStore(str(folder)).names() if not name.endswith("/")]
    matching = [name for name in names if not files or fnmatch(name.rsplit("/", 1)[-1], files)]
    if files and not matching:
        raise UsageError(
            f"no file in {folder} matches data.files", expected=f"one of {format_names(names)}", received=files
        )
    paths = {name: folder / name for name in matching}
    if not paths or not all(path.suffix.lower() in ENDINGS or can_be_text(path) for path in paths.values()):
        return {}
    by_part: dict[str, list[str]] = {}
    for name, path in paths.items():
        by_part.setdefault(find_text_part(name), []).append(str(path))
    if "" in by_part:
        by_part = {"train": [str(path) for path in paths.values()]}
    origins = {
        part: escape_name(part_paths[0] if len(part_paths) == 1 else str(folder))
        for part, part_paths in by_part.items()
    }
    return {part: TextFiles(origins[part], tuple(part_paths), encoding) for part, part_paths in by_part.items()}


def find_text_part(name: str) -> str:
    """Return the part that a file's name or its uppermost folder names, or an empty string."""
    words = re.split(r"[^a-z]+", name.split("/", 1)[0].lower())
    parts = [PART_NAMES[word] for word in words if word in PART_NAMES]
    return parts[-1] if parts else ""


def open_standard_input(encoding: str) -> TextFiles:
    """Return standard input as text. Raises `UsageError` if it is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "'-' reads text from standard input, and nothing is piped in",
            expected="a pipe or a file: layerwise … --data - < corpus.txt",
            do="give the file's path instead of '-'",
        )
    return TextFiles("standard input", (), encoding)


def read_pieces(path: str, encoding: str = "utf-8") -> Iterator[Piece]:
    """Yield a text piece by piece, unpacked and as UTF-8, without a byte-order mark; ``path`` empty: standard input.

    Bytes of UTF-8 are not checked here (the tokenizer does). Raises `DataError` for a file that cannot be read,
    unpacked, or decoded from another encoding.
    """
    try:
        if path:
            with open_regular_file(path) as stream:
                yield from _convert_to_utf8(_unpack(stream, path), path, encoding)
        else:
            yield from _convert_to_utf8(_unpack(sys.stdin.buffer, ""), "standard input", encoding)
    except OSError as error:
        raise DataError(f"{escape_name(path) or 'standard input'} cannot be read: {error.strerror or error}") from error


def _unpack(stream: Readable, path: str, size: int = PIECE_BYTES) -> Iterator[Piece]:
    """Yield the bytes of a stream, up to ``size`` at a time, decompressed if it is gzip or zstd, without a byte-order
    mark."""
    head = stream.read(size)
    packing = next((kind for mark, kind in PACKING_MARKS.items() if head.startswith(mark)), "")
    if packing:
        yield from _decompress(_PrefixedStream(head, stream), packing, path, size)
        return
    read = len(head)
    yield Piece(head.removeprefix(BOM), read)
    while data := stream.read(size):
        read += len(data)
        yield Piece(data, read)


class _PrefixedStream:
    """A stream with its already-read first bytes put back."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self.head, self.rest, self.at = head, rest, 0
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        data = self.head[:size] if self.head else self.rest.read(size)
        self.head = self.head[len(data) :] if self.head else b""
        self.at += len(data)
        return data

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self.at

    # pyarrow needs these of a file
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _decompress(stream: _PrefixedStream, packing: str, path: str, size: int) -> Iterator[Piece]:
    """Yield the decompressed bytes of a stream."""
    import pyarrow as pa  # slow to import

    first = True
    try:
        with _open_packed(stream, packing) as unpacked:
            while data := unpacked.read(size):
                yield Piece(data.removeprefix(BOM) if first else data, stream.tell())
                first = False
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(
            f"{escape_name(path) or 'standard input'} cannot be decompressed: {error}",
            expected=f"a complete {packing} file",
            do="download or compress it again",
        ) from error


def _open_packed(stream: _PrefixedStream, packing: str) -> AbstractContextManager[Any]:
    """Return the unpacked bytes of a stream, as a stream."""
    if packing == "gzip":  # pyarrow keeps 80 KB of each file that it refuses
        return gzip.GzipFile(fileobj=cast(IO[bytes], stream))
    import pyarrow as pa

    return cast(AbstractContextManager[Any], pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), packing))


def _convert_to_utf8(pieces: Iterator[Piece], path: str, encoding: str) -> Iterator[Piece]:
    """Yield pieces in another encoding as UTF-8."""
    if encodings.is_utf8(encoding):
        yield from pieces
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    read = 0
    try:
        for piece in pieces:
            read = piece.read
            yield Piece(decoder.decode(piece.data).encode(), read)
        yield Piece(decoder.decode(b"", True).encode(), read)
    except UnicodeError as error:
        raise DataError(
            f"{escape_name(path)} is not encoded in {encoding}: {error}", expected=f"text in {encoding}"
        ) from error


def make_not_text_error(path: str, at: int, byte: int, head: bytes) -> DataError:
    """Make the error for a byte that is not valid UTF-8."""
    probably = encodings.detect_byte_order_mark(head) or encodings.guess_encoding(head, "utf-8")
    return DataError(
        f"{escape_name(path) or 'standard input'} is not valid UTF-8",
        expected="text in utf-8",
        received=f"the byte 0x{byte:02x} at {at}; it is probably {probably}",
        do=f"--set data.encoding={probably}, or convert the file to utf-8",
    )


def is_text(path: Path, encoding: str = "utf-8") -> bool:
    """Whether a file's content is text, compressed or not: its first bytes decode, and hold no control characters but
    blanks."""
    head = read_head(path)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except (UnicodeError, LookupError):
        return False
    return not any((ord(c) < 32 and not c.isspace()) or ord(c) == 127 for c in text[:HEAD_BYTES])


def is_table(path: Path, encoding: str = "utf-8") -> bool:
    """Whether text looks like a table: its first lines have the same number of cells, with numbers among them or tabs
    between."""
    lines = read_head(path).decode(encoding, "ignore").splitlines()[: SAMPLE_LINES + 1]
    lines = [line for line in lines[: max(2, min(SAMPLE_LINES, len(lines) - 1))] if line.strip()]
    for mark in "\t;|,":
        rows = list(csv.reader(lines, delimiter=mark))
        if len(rows) > 1 and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            return mark == "\t" or sum(any(map(_is_number_text, row)) for row in rows) * 2 >= len(rows)
    return False


def _is_number_text(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed (few if it breaks off early); NUL if it cannot be decompressed."""
    for size in (HEAD_BYTES, HEAD_BYTES >> 8):
        with open_regular_file(path) as stream:
            try:
                return next(_unpack(stream, str(path), size), Piece(b"", 0)).data
            except DataError:
                continue
    return b"\0"

"""Word vectors in files: word2vec text and binary, GloVe text, safetensors; the form is detected from the content.

``V`` words, ``D`` dimensions. Text: ``word x₁ … x_D`` a line, in word2vec's form under a line ``V D``. Binary: that
line, then for each word its bytes, a space, D little-endian float32, and in the C program's files a newline. Files of
gensim are read bit for bit, and files written here are byte for byte those of gensim. T. Mikolov et al. (2013),
word2vec.c; J. Pennington et al. (2014), GloVe.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import safetensors
import safetensors.numpy

from layerwise.errors import DamagedError, DataError, UsageError
from layerwise.runtime.atomic_io import open_replacing
from layerwise.runtime.checksums import convert_safetensors_errors
from layerwise.runtime.folder_io import stage_file
from layerwise.runtime.in_place_io import create_for_library
from layerwise.runtime.input_files import open_regular_file, refuse_special_file
from layerwise.runtime.write_checks import check_target
from layerwise.weights.vectors import Counts, Floats, VectorTable

Kind = Literal["word2vec", "word2vec-binary", "glove", "safetensors"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ENDINGS: dict[str, Kind] = {
    ".vec": "word2vec",
    ".txt": "word2vec",
    ".bin": "word2vec-binary",
    ".safetensors": "safetensors",
}
FORMAT = 1  # of the safetensors form
CHUNK_BYTES = 1 << 22  # read at a time
MAX_WORD_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 25  # over a million numbers
HEADER = re.compile(rb" *(\d{1,12})[ \t]+(\d{1,9})[ \t\r]*")
RANDOM_NUMBERS = "a file of other things, or one that was cut or changed on the way"


class Header(NamedTuple):
    """The first line of word2vec's files."""

    words: int
    dimensions: int


def read_vectors(path: str | Path) -> VectorTable:
    """Read word vectors from a file of any form.

    Raises `DataError` where the file cannot be read or holds no word vectors, and `DamagedError`, naming the row, for
    one that is cut off, has more or fewer rows than it says, numbers that are not finite, words twice or words that are
    not UTF-8.
    """
    path = Path(path)
    try:
        kind = detect_kind(path)
        words, matrix, counts = READERS[kind](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", expected="a file of word vectors") from error
    try:
        return VectorTable(words, matrix, counts)
    except DataError as error:
        raise DamagedError(
            f"{path} is damaged: {error.what}", expected=error.expected, received=error.received
        ) from error


def write_vectors(table: VectorTable, path: str | Path, *, kind: Kind | None = None, overwrite: bool = False) -> Path:
    """Write word vectors to a file, in the given form or that of its ending (`ENDINGS`).

    The text forms keep every bit: each number is the shortest decimal that is read back as the same float32. Only
    ``safetensors`` keeps the counts. The file is written under a temporary name and then renamed.

    Raises `UsageError` for an unknown ending and for a file that exists, `DataError` for words that the
    text and binary forms cannot hold (empty, with a space or a line break), and `StorageError` for a full disk.
    """
    path = Path(path)
    format_kind = kind or ENDINGS.get(path.suffix.lower())
    if format_kind not in KINDS:
        raise UsageError(
            f"{path} does not say how vectors are to be written",
            expected=f"an ending of {', '.join(ENDINGS)}, or one of {', '.join(KINDS)} as its kind",
            received=f"'{kind or path.suffix}'",
        )
    check_target(path, overwrite=overwrite)
    if format_kind != "safetensors":
        check_words(table)
    if format_kind == "safetensors":
        with stage_file(path, overwrite=overwrite) as path_inside:
            _save_table(table, path_inside)
    else:
        with open_replacing(path, overwrite=overwrite) as stream:
            write_table(table, stream, kind=format_kind)
    return path


def write_table(table: VectorTable, stream: BinaryIO, *, kind: Kind) -> None:
    """Write word vectors to a stream, in one of the text and binary `KINDS`."""
    WRITERS[kind](table, stream)


# -- detection -------------------------------------------------------------------------------------------------------


def detect_kind(path: Path) -> Kind:
    """Detect the form of a file of word vectors. Raises `DataError` if it holds none."""
    size = path.stat().st_size
    with open_regular_file(path) as file:
        head = file.read(MAX_WORD_BYTES)
        first, _, rest = head.partition(b"\n")
        if 8 < int.from_bytes(head[:8], "little") < size and head[8:9] == b"{":
            return "safetensors"
        header = _parse_header(first)
        if header is None:
            if _count_numbers(first) > 0:
                return "glove"
            raise DataError(
                f"{path} holds no word vectors",
                expected="word2vec text or binary, GloVe text, or safetensors",
                received=_preview(head[:40]) or "an empty file",
            )
        rest += file.read(min(40 * header.dimensions, size))  # a row of text, whatever its numbers
    row = rest.partition(b"\n")[0]
    numbers = _count_numbers(row)
    return "word2vec" if numbers >= header.dimensions or (numbers and _is_text(row)) else "word2vec-binary"


def _is_text(line: bytes) -> bool:
    """Whether a line is text: UTF-8 without control characters."""
    try:
        return line.strip().decode().isprintable()
    except UnicodeDecodeError:
        return False


def _parse_header(line: bytes) -> Header | None:
    """Parse word2vec's first line; None for any other line."""
    match = HEADER.fullmatch(line)
    return Header(int(match[1]), int(match[2])) if match else None


def _count_numbers(line: bytes) -> int:
    """Return how many numbers a line of text has after its word, 0 for other lines."""
    count = 0
    for cell in reversed(line.rstrip(b" \t\r").split(b" ")[1:]):
        try:
            float(cell)
        except ValueError:
            break
        count += 1
    return count


def _preview(data: bytes) -> str:
    """Return bytes as text for a message."""
    return repr(data.decode("utf-8", "replace"))[1:-1] if data else ""


# -- reading -----------------------------------------------------------------------------------------------------------

ReadResult = tuple[list[str], Floats, Counts | None]


def _read_text(path: Path) -> ReadResult:
    """Read word2vec text."""
    with open_regular_file(path) as file:
        header = _check_header(file.readline(), path, least=2)
        matrix = np.empty(header, dtype=np.float32)
        words: list[str] = []
        for lines in _read_lines(file, path):
            start = len(words)
            if start + len(lines) > header.words:
                raise _make_damaged_error(path, "it has more rows than it says", f"{header.words:,} rows", "more")
            matrix[start : start + len(lines)] = _parse_rows(lines, header.dimensions, path, words, before=1)
    if len(words) < header.words:
        raise _make_damaged_error(path, "it is cut off", f"{header.words:,} rows", f"{len(words):,}")
    return words, matrix, None


def _read_glove(path: Path) -> ReadResult:
    """Read GloVe text, whose number of rows is known only at its end."""
    words: list[str] = []
    parts: list[Floats] = []
    with open_regular_file(path) as file:
        dimensions = _count_numbers(file.readline(MAX_LINE_BYTES).rstrip(b"\n"))
        file.seek(0)
        for lines in _read_lines(file, path):
            parts.append(_parse_rows(lines, dimensions, path, words))
    return words, np.concatenate(parts), None


def _read_lines(file: IO[bytes], path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a text, some megabytes at a time. Raises `DamagedError` for a last line without an end."""
    rest = b""
    while data := file.read(CHUNK_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise _make_damaged_error(
                path, "a line has no end", f"lines of at most {MAX_LINE_BYTES:,} bytes", _preview(rest[:40])
            )
        if lines:
            yield [line for line in lines if line.strip()]
    if rest.strip():
        raise _make_damaged_error(
            path, "its last line is not whole", "a newline at the end", f"… {_preview(rest[-40:])}"
        )


def _parse_rows(lines: list[bytes], dimensions: int, path: Path, words: list[str], before: int = 0) -> Floats:
    """Parse lines of text: add their words to ``words``, return their numbers (len(lines), D). A word may have spaces,
    as in GloVe's files."""
    tails = []
    for line in lines:
        line = line.rstrip(b" \t\r")
        if line.count(b" ") == dimensions:  # the common case, without splitting every number
            head, _, tail = line.partition(b" ")
        else:
            cells = line.rsplit(b" ", dimensions)
            head, tail = cells[0], b" ".join(cells[1:])
        if not head or tail.count(b" ") != dimensions - 1:
            raise _make_row_error(path, len(words) + before + 1, f"a word and {dimensions} numbers", line)
        words.append(_decode_word(head, path, len(words) + before + 1))
        tails.append(tail)
    values = _parse_floats(b" ".join(tails))
    if values is None or len(values) != len(lines) * dimensions:
        for index, tail in enumerate(tails):
            row = _parse_floats(tail)
            if row is None or len(row) != dimensions:
                raise _make_row_error(
                    path, len(words) - len(tails) + before + index + 1, f"a word and {dimensions} numbers", lines[index]
                )
    assert values is not None
    return values.reshape(-1, dimensions)


def _parse_floats(text: bytes) -> Floats | None:
    """Parse numbers separated by spaces; None if anything else is among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy warns of what it cannot read to the end
        try:
            return np.fromstring(text, dtype=np.float32, sep=" ")
        except (ValueError, DeprecationWarning, RuntimeWarning):
            return None


def _read_binary(path: Path) -> ReadResult:
    """Read word2vec binary: word, space, float32, and a newline or none."""
    words: list[str] = []
    with open_regular_file(path) as file:
        header = _check_header(file.readline(), path, least=4)
        matrix = np.empty(header, dtype=np.float32)
        width = 4 * header.dimensions
        data, offset = b"", 0
        for row in range(header.words):
            while (end := data.find(b" ", offset)) < 0 or len(data) < end + 1 + width:
                chunk = file.read(max(CHUNK_BYTES, width))
                if not chunk or (end < 0 and len(data) - offset > MAX_WORD_BYTES):
                    raise _make_damaged_error(
                        path,
                        f"row {row + 1} is not whole",
                        f"{header.words:,} words of {header.dimensions} numbers",
                        f"{row:,}",
                    )
                data, offset = data[offset:] + chunk, 0
            words.append(_decode_word(data[offset:end].lstrip(b"\n"), path, row + 1))
            matrix[row] = np.frombuffer(data, dtype="<f4", count=header.dimensions, offset=end + 1)
            offset = end + 1 + width
        if (data[offset:] + file.read(2)).strip(b"\n"):
            raise _make_damaged_error(path, "it has more rows than it says", f"{header.words:,} rows", "more")
    return words, matrix, None


def _check_header(line: bytes, path: Path, *, least: int) -> Header:
    """Parse word2vec's first line, and check that the file is large enough for it before memory is allocated."""
    header = _parse_header(line.rstrip(b"\n"))
    assert header is not None
    if not all(header):
        raise DataError(
            f"{path} holds no word vectors",
            expected="one word or more, of one number or more",
            received=f"{header.words} words of {header.dimensions} numbers",
        )
    needed, available = header.words * (header.dimensions * least + 2), path.stat().st_size - len(line)
    if available < needed:
        raise _make_damaged_error(
            path,
            "it is cut off",
            f"{header.words:,} words of {header.dimensions} numbers, {needed:,} bytes or more",
            f"{available:,} bytes",
        )
    return header


def _read_safetensors(path: Path) -> ReadResult:
    """Read our own form: ``vectors`` (V, D), ``words`` as bytes, the ``ends`` of each word in them, and ``counts`` if
    known."""
    refuse_special_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            if not {"vectors", "words", "ends"} <= names:
                raise DataError(
                    f"{path} holds no word vectors",
                    expected="tensors vectors, words, ends",
                    received=", ".join(sorted(names)),
                )
            version = metadata.get("format", "")
            if version.isdecimal() and int(version) > FORMAT:
                raise DamagedError(
                    f"{path} was written by a newer version",
                    expected=f"format {FORMAT}",
                    received=f"format {version}",
                    do="update layerwise",
                )
            matrix, data, ends = (file.get_tensor(name) for name in ("vectors", "words", "ends"))
            counts = file.get_tensor("counts") if "counts" in names else None
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise _make_damaged_error(
            path, f"it is not a whole safetensors file ({error})", "the file as it was written", ""
        ) from error
    return unpack_texts(data, ends, path), matrix, counts


def unpack_texts(data: np.ndarray, ends: np.ndarray, path: Path) -> list[str]:
    """Return the texts that `pack_texts` concatenated. Raises `DamagedError` for ends that are not ascending within the
    bytes, and for invalid UTF-8."""
    starts = np.concatenate([[0], ends[:-1]]) if ends.ndim and len(ends) else ends
    is_valid_type = data.dtype == np.uint8 and ends.dtype == np.int64 and data.ndim == ends.ndim == 1
    if not is_valid_type or (int(ends[-1]) if len(ends) else 0) != len(data) or (starts > ends).any():
        raise _make_damaged_error(path, "its texts do not end where it says", "the file as it was written", "")
    buffer = data.tobytes()
    return [
        _decode_word(buffer[a:b], path, row)
        for row, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), start=1)
    ]


def pack_texts(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate texts as UTF-8 bytes; return the bytes and the end of each text, (N,)."""
    parts = [text.encode() for text in texts]
    return np.frombuffer(b"".join(parts), dtype=np.uint8), np.cumsum([len(part) for part in parts], dtype=np.int64)


def _decode_word(data: bytes, path: Path, row: int) -> str:
    """Return a word's text."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _make_damaged_error(
            path, f"the word of row {row} is not UTF-8", "words in UTF-8", _preview(data[:40])
        ) from error


def _make_row_error(path: Path, row: int, expected: str, line: bytes) -> DamagedError:
    """Return the error for a line of text that is not a row."""
    return _make_damaged_error(path, f"line {row} is no row of vectors", expected, _preview(line[:60]))


def _make_damaged_error(path: Path, why: str, expected: str, received: str) -> DamagedError:
    """Return the error for a damaged file."""
    return DamagedError(f"{path} is damaged: {why}", expected=expected, received=received, do="fetch or write it again")


# -- writing -----------------------------------------------------------------------------------------------------------


def check_words(table: VectorTable) -> None:
    """Raise `DataError` for words that text and binary forms cannot hold: their ends would be ambiguous."""
    for word in table.words:
        if not word or " " in word or "\n" in word:
            raise DataError(
                f"the word '{word}' cannot be written: in this form a word ends at a space",
                do="write .safetensors, or join its parts with an underscore",
            )


def _write_text(table: VectorTable, file: BinaryIO) -> None:
    """Write word2vec text, byte for byte as gensim does."""
    file.write(f"{len(table)} {table.dimensions}\n".encode())
    _write_rows(table, file)


def _write_rows(table: VectorTable, file: BinaryIO) -> None:
    """Write GloVe text: a line for each word, each number as the shortest decimal of the same float32."""
    for word, row in zip(table.words, table.matrix, strict=True):
        file.write(f"{word} {' '.join(map(str, row))}\n".encode())


def _write_binary(table: VectorTable, file: BinaryIO) -> None:
    """Write word2vec binary, byte for byte as gensim does."""
    file.write(f"{len(table)} {table.dimensions}\n".encode())
    for word, row in zip(table.words, table.matrix.astype("<f4", copy=False), strict=True):
        file.write(word.encode() + b" " + row.tobytes())


def _save_table(table: VectorTable, path: Path) -> None:
    """Write our own form, by the library, to a file of an unfinished folder."""
    data, ends = pack_texts(table.words)
    tensors = {"vectors": table.matrix, "words": data, "ends": ends}
    if table.counts is not None:
        tensors["counts"] = table.counts
    save_arrays(tensors, path, {"format": str(FORMAT), "kind": "word vectors"})


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write arrays as safetensors into an unfinished folder of our own, without a copy of them in memory."""
    with create_for_library(path, root=path.parent), convert_safetensors_errors(path):
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata=metadata
        )


READERS: dict[Kind, Callable[[Path], ReadResult]] = {
    "word2vec": _read_text,
    "word2vec-binary": _read_binary,
    "glove": _read_glove,
    "safetensors": _read_safetensors,
}
WRITERS: dict[Kind, Callable[[VectorTable, BinaryIO], None]] = {
    "word2vec": _write_text,
    "word2vec-binary": _write_binary,
    "glove": _write_rows,
}

"""Word vectors in files: word2vec text and binary, GloVe text, safetensors; told apart by content, read in pieces,
never executed.

``V`` words, ``D`` dimensions. Text: ``word x₁ … x_D`` a line, in word2vec's form under a line ``V D``. Binary: that
line, then for each word its bytes, a space, D little-endian float32, and in the C program's files a newline. What
gensim writes is read bit for bit, and what is written here has gensim's bytes. T. Mikolov et al. (2013), word2vec.c; J.
Pennington et al. (2014), GloVe.
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
from layerwise.runtime.atomic_io import check_target, let_library_write, open_replacing
from layerwise.runtime.checksums import safetensors_errors
from layerwise.runtime.folder_io import open_staged
from layerwise.runtime.input_files import open_regular_file, refuse_special_file
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
PIECE = 1 << 22  # bytes that are looked at together
LONGEST = 1 << 16  # bytes of a word
LONGEST_LINE = 1 << 25  # bytes of a line of text: over a million numbers
HEADER = re.compile(rb" *(\d{1,12})[ \t]+(\d{1,9})[ \t\r]*")
RANDOM_NUMBERS = "a file of other things, or one that was cut or changed on the way"


class Header(NamedTuple):
    """What word2vec's first line says."""

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
        kind = kind_of(path)
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
    """Write word vectors to a file, of the form that its ending says unless told: `ENDINGS`.

    The text forms keep every bit: each number is written as the shortest decimal that is read back as the same float32.
    Only ``safetensors`` keeps the counts. The file is written beside its place and then renamed.

    Raises `UsageError` for an ending that says nothing and for a file that is there, `DataError` for words that the
    text and binary forms cannot hold (empty, with a space or a line break), and `StorageError` for a full disk.
    """
    path = Path(path)
    chosen = kind or ENDINGS.get(path.suffix.lower())
    if chosen not in KINDS:
        raise UsageError(
            f"{path} does not say how vectors are to be written",
            expected=f"an ending of {', '.join(ENDINGS)}, or one of {', '.join(KINDS)} as its kind",
            received=f"'{kind or path.suffix}'",
        )
    check_target(path, overwrite=overwrite)
    if chosen != "safetensors":
        check_words(table)
    if chosen == "safetensors":
        with open_staged(path, overwrite=overwrite) as place:
            _save_table(table, place)
    else:
        with open_replacing(path, overwrite=overwrite) as stream:
            write_table(table, stream, kind=chosen)
    return path


def write_table(table: VectorTable, stream: BinaryIO, *, kind: Kind) -> None:
    """Write word vectors to a stream, in one of the text and binary `KINDS`."""
    WRITERS[kind](table, stream)


# -- what a file is ----------------------------------------------------------------------------------------------------


def kind_of(path: Path) -> Kind:
    """Tell by content how a file holds word vectors. Raises `DataError` if it holds none."""
    size = path.stat().st_size
    with open_regular_file(path) as file:
        head = file.read(LONGEST)
        first, _, rest = head.partition(b"\n")
        if 8 < int.from_bytes(head[:8], "little") < size and head[8:9] == b"{":
            return "safetensors"
        header = _header(first)
        if header is None:
            if _numbers(first) > 0:
                return "glove"
            raise DataError(
                f"{path} holds no word vectors",
                expected="word2vec text or binary, GloVe text, or safetensors",
                received=_shown(head[:40]) or "an empty file",
            )
        rest += file.read(min(40 * header.dimensions, size))  # a row of text, whatever its numbers
    row = rest.partition(b"\n")[0]
    found = _numbers(row)
    return "word2vec" if found >= header.dimensions or (found and _plain(row)) else "word2vec-binary"


def _plain(line: bytes) -> bool:
    """Whether a line is text: UTF-8 without control characters."""
    try:
        return line.strip().decode().isprintable()
    except UnicodeDecodeError:
        return False


def _header(line: bytes) -> Header | None:
    """Read word2vec's first line, None if it is another."""
    found = HEADER.fullmatch(line)
    return Header(int(found[1]), int(found[2])) if found else None


def _numbers(line: bytes) -> int:
    """Return how many numbers end a line of text after its word, 0 if it is no such line."""
    count = 0
    for cell in reversed(line.rstrip(b" \t\r").split(b" ")[1:]):
        try:
            float(cell)
        except ValueError:
            break
        count += 1
    return count


def _shown(data: bytes) -> str:
    """Return bytes as a message shows them."""
    return repr(data.decode("utf-8", "replace"))[1:-1] if data else ""


# -- reading -----------------------------------------------------------------------------------------------------------

Read = tuple[list[str], Floats, Counts | None]


def _read_text(path: Path) -> Read:
    """Read word2vec text."""
    with open_regular_file(path) as file:
        header = _checked(file.readline(), path, least=2)
        matrix = np.empty(header, dtype=np.float32)
        words: list[str] = []
        for lines in _pieces(file, path):
            start = len(words)
            if start + len(lines) > header.words:
                raise _damaged(path, "it has more rows than it says", f"{header.words:,} rows", "more")
            matrix[start : start + len(lines)] = _parsed(lines, header.dimensions, path, words, before=1)
    if len(words) < header.words:
        raise _damaged(path, "it is cut off", f"{header.words:,} rows", f"{len(words):,}")
    return words, matrix, None


def _read_glove(path: Path) -> Read:
    """Read GloVe text: how many rows there are is known at its end."""
    words: list[str] = []
    parts: list[Floats] = []
    with open_regular_file(path) as file:
        dimensions = _numbers(file.readline(LONGEST_LINE).rstrip(b"\n"))
        file.seek(0)
        for lines in _pieces(file, path):
            parts.append(_parsed(lines, dimensions, path, words))
    return words, np.concatenate(parts), None


def _pieces(file: IO[bytes], path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a text, some megabytes at a time. Raises `DamagedError` for a last line without an end."""
    rest = b""
    while data := file.read(PIECE):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise _damaged(path, "a line has no end", f"lines of at most {LONGEST_LINE:,} bytes", _shown(rest[:40]))
        if lines:
            yield [line for line in lines if line.strip()]
    if rest.strip():
        raise _damaged(path, "its last line is not whole", "a newline at the end", f"… {_shown(rest[-40:])}")


def _parsed(lines: list[bytes], dimensions: int, path: Path, words: list[str], before: int = 0) -> Floats:
    """Read lines of text: add their words to ``words``, return their numbers (len(lines), D). A word may have spaces,
    as in GloVe's."""
    tails = []
    for line in lines:
        line = line.rstrip(b" \t\r")
        if line.count(b" ") == dimensions:  # the common case, without making a piece of every number
            head, _, tail = line.partition(b" ")
        else:
            cells = line.rsplit(b" ", dimensions)
            head, tail = cells[0], b" ".join(cells[1:])
        if not head or tail.count(b" ") != dimensions - 1:
            raise _bad_row(path, len(words) + before + 1, f"a word and {dimensions} numbers", line)
        words.append(_word(head, path, len(words) + before + 1))
        tails.append(tail)
    found = _floats(b" ".join(tails))
    if found is None or len(found) != len(lines) * dimensions:
        for at, tail in enumerate(tails):
            row = _floats(tail)
            if row is None or len(row) != dimensions:
                raise _bad_row(
                    path, len(words) - len(tails) + before + at + 1, f"a word and {dimensions} numbers", lines[at]
                )
    assert found is not None
    return found.reshape(-1, dimensions)


def _floats(text: bytes) -> Floats | None:
    """Read numbers between spaces, None if something else is among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy warns of what it cannot read to the end
        try:
            return np.fromstring(text, dtype=np.float32, sep=" ")
        except (ValueError, DeprecationWarning, RuntimeWarning):
            return None


def _read_binary(path: Path) -> Read:
    """Read word2vec binary: word, space, float32, and a newline or none."""
    words: list[str] = []
    with open_regular_file(path) as file:
        header = _checked(file.readline(), path, least=4)
        matrix = np.empty(header, dtype=np.float32)
        width = 4 * header.dimensions
        data, at = b"", 0
        for row in range(header.words):
            while (end := data.find(b" ", at)) < 0 or len(data) < end + 1 + width:
                more = file.read(max(PIECE, width))
                if not more or (end < 0 and len(data) - at > LONGEST):
                    raise _damaged(
                        path,
                        f"row {row + 1} is not whole",
                        f"{header.words:,} words of {header.dimensions} numbers",
                        f"{row:,}",
                    )
                data, at = data[at:] + more, 0
            words.append(_word(data[at:end].lstrip(b"\n"), path, row + 1))
            matrix[row] = np.frombuffer(data, dtype="<f4", count=header.dimensions, offset=end + 1)
            at = end + 1 + width
        if (data[at:] + file.read(2)).strip(b"\n"):
            raise _damaged(path, "it has more rows than it says", f"{header.words:,} rows", "more")
    return words, matrix, None


def _checked(line: bytes, path: Path, *, least: int) -> Header:
    """Read word2vec's first line, and make sure that the file is large enough for what it says, before memory is taken
    for it."""
    header = _header(line.rstrip(b"\n"))
    assert header is not None
    if not all(header):
        raise DataError(
            f"{path} holds no word vectors",
            expected="one word or more, of one number or more",
            received=f"{header.words} words of {header.dimensions} numbers",
        )
    size, room = header.words * (header.dimensions * least + 2), path.stat().st_size - len(line)
    if room < size:
        raise _damaged(
            path,
            "it is cut off",
            f"{header.words:,} words of {header.dimensions} numbers, {size:,} bytes or more",
            f"{room:,} bytes",
        )
    return header


def _read_safetensors(path: Path) -> Read:
    """Read our own form: ``vectors`` (V, D), ``words`` as bytes, the ``ends`` of each word in them, and ``counts`` if
    known."""
    refuse_special_file(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            about, names = file.metadata() or {}, set(file.keys())
            if not {"vectors", "words", "ends"} <= names:
                raise DataError(
                    f"{path} holds no word vectors",
                    expected="tensors vectors, words, ends",
                    received=", ".join(sorted(names)),
                )
            version = about.get("format", "")
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
        raise _damaged(
            path, f"it is not a whole safetensors file ({error})", "the file as it was written", ""
        ) from error
    return unpacked(data, ends, path), matrix, counts


def unpacked(data: np.ndarray, ends: np.ndarray, path: Path) -> list[str]:
    """Return texts that `packed` joined. Raises `DamagedError` for ends that do not lie in order within the bytes, and
    bad UTF-8."""
    starts = np.concatenate([[0], ends[:-1]]) if ends.ndim and len(ends) else ends
    kinds = data.dtype == np.uint8 and ends.dtype == np.int64 and data.ndim == ends.ndim == 1
    if not kinds or (int(ends[-1]) if len(ends) else 0) != len(data) or (starts > ends).any():
        raise _damaged(path, "its texts do not end where it says", "the file as it was written", "")
    whole = data.tobytes()
    return [
        _word(whole[a:b], path, row)
        for row, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), start=1)
    ]


def packed(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return texts as one array of UTF-8 bytes, and where each ends in it, (N,)."""
    parts = [text.encode() for text in texts]
    return np.frombuffer(b"".join(parts), dtype=np.uint8), np.cumsum([len(part) for part in parts], dtype=np.int64)


def _word(data: bytes, path: Path, row: int) -> str:
    """Return a word's text."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _damaged(path, f"the word of row {row} is not UTF-8", "words in UTF-8", _shown(data[:40])) from error


def _bad_row(path: Path, row: int, expected: str, line: bytes) -> DamagedError:
    """Make the error for a line of text that is no row."""
    return _damaged(path, f"line {row} is no row of vectors", expected, _shown(line[:60]))


def _damaged(path: Path, why: str, expected: str, received: str) -> DamagedError:
    """Make the error for a damaged file."""
    return DamagedError(f"{path} is damaged: {why}", expected=expected, received=received, do="fetch or write it again")


# -- writing -----------------------------------------------------------------------------------------------------------


def check_words(table: VectorTable) -> None:
    """Refuse words that text and binary forms cannot hold: their ends would be lost."""
    for word in table.words:
        if not word or " " in word or "\n" in word:
            raise DataError(
                f"the word '{word}' cannot be written: in this form a word ends at a space",
                do="write .safetensors, or join its parts with an underscore",
            )


def _write_text(table: VectorTable, file: BinaryIO) -> None:
    """Write word2vec text: gensim's bytes."""
    file.write(f"{len(table)} {table.dimensions}\n".encode())
    _write_rows(table, file)


def _write_rows(table: VectorTable, file: BinaryIO) -> None:
    """Write GloVe text: a line for each word, each number as short as will be read back as the same float32."""
    for word, row in zip(table.words, table.matrix, strict=True):
        file.write(f"{word} {' '.join(map(str, row))}\n".encode())


def _write_binary(table: VectorTable, file: BinaryIO) -> None:
    """Write word2vec binary: gensim's bytes."""
    file.write(f"{len(table)} {table.dimensions}\n".encode())
    for word, row in zip(table.words, table.matrix.astype("<f4", copy=False), strict=True):
        file.write(word.encode() + b" " + row.tobytes())


def _save_table(table: VectorTable, path: Path) -> None:
    """Write our own form, by the library, to a file of an unfinished folder."""
    data, ends = packed(table.words)
    tensors = {"vectors": table.matrix, "words": data, "ends": ends}
    if table.counts is not None:
        tensors["counts"] = table.counts
    save_arrays(tensors, path, {"format": str(FORMAT), "kind": "word vectors"})


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write arrays as safetensors into an unfinished folder of our own, without a copy of them in memory."""
    with let_library_write(path, root=path.parent), safetensors_errors(path):
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata=metadata
        )


READERS: dict[Kind, Callable[[Path], Read]] = {
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

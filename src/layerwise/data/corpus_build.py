"""Text to a corpus: tokenised once into a folder, which is found again while the text and how it is cut stay the same.

The text is read in pieces and the tokens are written as they are made, so that neither is ever in memory; what is, is the table of
words (`kernels.tokenize.Tokenizer`). Folders are bounded together (`cache_folders`).
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from layerwise.data import alphabet, cache_folders, texts
from layerwise.data.corpus import COUNTS, FORMAT, INDEX, STARTS, SUMS, TOKENS, WORDS, Corpus, Index
from layerwise.data.reading import Tokens
from layerwise.data.texts import HEAD, PIECE, Texts
from layerwise.errors import DataError
from layerwise.kernels.tokenize import MOST, Ids, NotUtf8, Tokenizer, recode
from layerwise.kernels.tokens import END

BLOCK = 1024  # tokens of an example
Told = Callable[[int, int], None]  # bytes read, of how many (0: not known)


class Cutting(msgspec.Struct, frozen=True):
    """How text becomes tokens: what a token is (`alphabet`), and whether capitals become small letters."""

    tokens: Tokens = "words"
    lower: bool = True


def opened(place: Path, source: Texts, cutting: Cutting, *, limit: int, told: Told = lambda *_: None, most: int = MOST) -> Corpus:
    """Return the corpus of these texts, built if it is not there or not whole.

    Args:
        place: the folder that holds corpora.
        source: what is read.
        cutting: how it is cut.
        limit: bytes; the least recently used corpora beyond it are removed first.
        told: called with how many bytes are read, of how many.
        most: different words that are kept (`Tokenizer`).

    Raises `DataError` for a text that cannot be read, has no words, or has no room.
    """
    if not source.piped:
        found = place / _name(source, cutting, most)
        corpus = whole(found)
        if corpus is not None:
            with suppress(OSError):
                os.utime(found / INDEX)
            return corpus
    folder = place / (_name(source, cutting, most) if not source.piped else f"pipe-{os.getpid()}")
    size = 0 if source.piped else source.size()
    try:
        cache_folders.tidy(place, limit - size, large=TOKENS)
        with cache_folders.unfinished(folder) as part:
            index = _write(part, source, cutting, told=told, most=most)
            if reason := cache_folders.no_room(place, (part / TOKENS).stat().st_size, limit):
                raise DataError(
                    f"there is no room for the tokens of {source.origin}: {reason}", do="make room, or set data.cache to another folder"
                )
            if source.piped:
                folder = place / index.digest
            cache_folders.settle(part, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}", do="make room, or set data.cache to a folder that can be written"
        ) from error
    return Corpus(str(folder), index)


def _name(source: Texts, cutting: Cutting, most: int) -> str:
    """Return the name of the folder for these texts as they are now."""
    parts = (FORMAT, BLOCK, source.marks(), source.encoding, _of(cutting), most)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _of(cutting: Cutting) -> str:
    """Return what decides how text is cut."""
    return f"{cutting} unicode {unicodedata.unidata_version}"


def whole(folder: Path) -> Corpus | None:
    """Return the corpus in a folder, by its index and the sizes of its files; None if there is none, or not all of it."""
    try:
        index = msgspec.json.decode((folder / INDEX).read_bytes(), type=Index)
        starts, counts, sums = (np.load(folder / name, mmap_mode="r") for name in (STARTS, COUNTS, SUMS))
        sizes = ((folder / TOKENS).stat().st_size, (folder / WORDS).stat().st_size)
        blocks = -(-index.tokens // index.block)
        good = (
            index.format == FORMAT
            and sizes == (blocks * index.block * 4, starts[-1])
            and (len(starts), len(counts), len(sums)) == (index.words + 1, index.words, blocks)
        )
    except (OSError, ValueError, EOFError, IndexError, msgspec.DecodeError):
        return None
    return Corpus(str(folder), index) if good else None


class _TokenFile:
    """A file of tokens that is being written."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.tokens = 0

    def write(self, tokens: Ids) -> None:
        """Add tokens."""
        self.stream.write(tokens.data)
        self.tokens += len(tokens)

    def renumber(self, mapping: Ids) -> None:
        """Send all ids through a mapping, piece by piece."""
        self.stream.seek(0)
        while len(tokens := np.frombuffer(self.stream.read(PIECE), dtype=np.int32)):
            tokens = tokens.copy()
            recode(tokens, mapping)
            self.stream.seek(-tokens.nbytes, os.SEEK_CUR)
            self.stream.write(tokens.data)
        self.stream.seek(0, os.SEEK_END)


def _write(part: Path, source: Texts, cutting: Cutting, *, told: Told, most: int) -> Index:
    """Tokenise into a new folder."""
    digest = hashlib.blake2b(_of(cutting).encode(), digest_size=16)
    with (part / TOKENS).open("w+b") as stream:
        file = _TokenFile(stream)
        tokenizer = Tokenizer(alphabet.classes(cutting.tokens), alphabet.folds(cutting.tokens, cutting.lower), file, most=most)
        done, size = 0, 0 if source.piped else source.size()
        for path in source.paths or ("",):
            head, read = b"", 0
            try:
                for piece in texts.pieces(path, source.encoding):
                    head = head or piece.data[:HEAD]
                    digest.update(piece.data)
                    tokenizer.feed(piece.data)
                    read = piece.read
                    told(done + read, size)
                tokenizer.feed(b"", last=True)
            except NotUtf8 as error:
                raise texts.not_text(path, error.at, error.byte, head) from error
            digest.update(b"\0end of file\0")
            done += read
        if not len(tokenizer.counts):
            raise DataError(f"{source.origin} has no words", expected="text", received=f"{done} bytes")
        _pad(stream, file.tokens)
        np.save(part / SUMS, _sums(stream))
    np.save(part / STARTS, tokenizer.starts)
    np.save(part / COUNTS, tokenizer.counts)
    (part / WORDS).write_bytes(tokenizer.arena.data)
    notes = () if not tokenizer.forgotten else (_forgot(source.origin, tokenizer, most),)
    index = Index(FORMAT, source.origin, BLOCK, file.tokens, len(tokenizer.counts), digest.hexdigest(), notes)
    (part / INDEX).write_bytes(msgspec.json.encode(index))
    return index


def _forgot(origin: str, tokenizer: Tokenizer, most: int) -> str:
    """Return the note on words that were forgotten."""
    return (
        f"{origin} has more than {most:,} different words: the rarest were left out on the way, "
        f"those with at most {tokenizer.forgotten} occurrences by then"
    )


def _pad(stream: BinaryIO, tokens: int) -> None:
    """Fill the last block with sentence ends."""
    stream.write(np.full(-tokens % BLOCK, END, dtype=np.int32).data)


def _sums(stream: BinaryIO) -> np.ndarray:
    """Return the CRC-32 of each block, (blocks,) uint32."""
    stream.seek(0)
    out = []
    while data := stream.read(256 * BLOCK * 4):
        view = memoryview(data)
        out += [zlib.crc32(view[at : at + BLOCK * 4]) for at in range(0, len(view), BLOCK * 4)]
    return np.array(out, dtype=np.uint32)


@contextmanager
def shown(name: str, *, quiet: bool = False) -> Iterator[Told]:
    """Show a bar on standard error if that is a terminal; give what moves it."""
    import sys

    if quiet or not sys.stderr.isatty():
        yield lambda _done, _size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"reading {name}", total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size or None)

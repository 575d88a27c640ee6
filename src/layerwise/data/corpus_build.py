"""Text to a corpus: tokenised once into a folder, which is found again while the text and how it is cut stay the same.

The text is read in pieces and the tokens are written as they are made, so that neither is ever in memory; what is, is the table of
words (`kernels.tokenizer.WordTable`), and of pairs where phrases are looked for. Folders are bounded together (`cache_folders`).
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np

from layerwise.atomic_io import is_plain_file, open_own, save_array, write_file
from layerwise.data import alphabet, cache_folders, phrases, segments, texts
from layerwise.data.corpus import COUNTS, FORMAT, PHRASES, SMALL, STARTS, SUMS, TOKENS, WORDS, Corpus, Index
from layerwise.data.phrases import Passes
from layerwise.data.reading import Tokens
from layerwise.data.texts import HEAD, Texts
from layerwise.data.token_file import TokenFile
from layerwise.errors import DataError, LayerwiseError
from layerwise.kernels.pairs import SLOTS, Pairs
from layerwise.kernels.tokenizer import MOST, NotUtf8, Tokenizer, WordTable

BLOCK = 1024  # tokens of an example
Told = Callable[[int, int], None]  # bytes read, of how many (0: not known)


class Cutting(msgspec.Struct, frozen=True):
    """How text becomes tokens.

    ``tokens`` says what one is (`alphabet`), ``lower`` whether capitals become small letters. ``phrases`` passes join words
    (`data.phrases`), by ``threshold`` and ``discount``. At most ``most`` different words and ``slots`` slots for pairs are held.
    """

    tokens: Tokens = "words"
    lower: bool = True
    phrases: int = 0
    threshold: float = 100.0
    discount: float = 5.0
    most: int = MOST
    slots: int = SLOTS

    def decides(self) -> str:
        """Return all that decides what becomes of a text."""
        found = f"{self} unicode {unicodedata.unidata_version}"
        return f"{found} jieba {segments.version()}" if self.tokens == "jieba" else found


def opened(
    place: Path, source: Texts, cutting: Cutting, *, limit: int, told: Told = lambda *_: None, joined: Passes | None = None
) -> Corpus:
    """Return the corpus of these texts, built if it is not there or not whole.

    Args:
        place: the folder that holds corpora.
        source: what is read.
        cutting: how it is cut.
        limit: bytes; the least recently used corpora beyond it are removed first.
        told: called with how many bytes are read, of how many.
        joined: phrases of another text that are joined here, pass by pass, instead of looking for some.

    Raises `DataError` for a text that cannot be read, has no words, or has no room.
    """
    key = "" if joined is None else hashlib.sha256(repr(joined).encode()).hexdigest()
    folder = place / (f"pipe-{os.getpid()}" if source.piped else _name(source, cutting, key))
    try:
        with nullcontext() if source.piped else cache_folders.lock_cache(folder):
            corpus = None if source.piped else whole(folder)
            if corpus is None:
                return _built(folder, source, cutting, limit=limit, told=told, joined=joined, key=key)
        cache_folders.mark_used(folder)
        return corpus
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}", do="make room, or set data.cache to a folder that can be written"
        ) from error


def _built(
    folder: Path, source: Texts, cutting: Cutting, *, limit: int, told: Told, joined: Passes | None, key: str
) -> Corpus:
    """Build a corpus into a folder, or, of standard input, into one beside it that is named by the text."""
    cache_folders.make_room(folder.parent, limit - source.size(), large=TOKENS)
    with cache_folders.open_part(folder) as part:

        def told_with_room(done: int, size: int) -> None:
            taken = (part / TOKENS).stat().st_size
            if reason := cache_folders.no_room(folder.parent, taken, limit, written=taken):
                raise DataError(
                    f"there is no room for the tokens of {source.origin}: {reason}", do="make room, or set data.cache to another folder"
                )
            told(done, size)

        index = _write(part, source, cutting, told=told_with_room, joined=joined, key=key)
        kept = folder.with_name(index.digest) if source.piped else folder
        cache_folders.put_cache(part, kept)
    return Corpus(str(kept), index)


def _name(source: Texts, cutting: Cutting, key: str) -> str:
    """Return the name of the folder for these texts as they are now."""
    parts = (FORMAT, BLOCK, source.marks(), source.encoding, cutting.decides(), key)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def whole(folder: Path) -> Corpus | None:
    """Return the corpus in a folder, by its index and the sizes of its files; None if there is none, or not all of it."""
    index = cache_folders.read_index(folder, Index, *SMALL)
    if index is None:
        return None
    corpus = Corpus(str(folder), index)
    if not is_plain_file(folder / WORDS, root=folder):
        return None
    try:
        starts, counts = corpus.words.starts, corpus.counts  # of the types and lengths that the index says
        cache_folders.load_array(folder / SUMS, np.uint32, (len(corpus),))
        in_order = starts[0] == 0 and bool((np.diff(starts) >= 0).all())
        good = in_order and cache_folders.has_size(folder / WORDS, int(starts[-1])) and int(counts.min()) >= 0
        corpus.phrases  # noqa: B018 - of the type that is meant
    except (OSError, ValueError, EOFError, LayerwiseError):
        return None
    tokens = cache_folders.has_size(folder / TOKENS, len(corpus) * index.block * 4)
    return corpus if good and tokens and index.format == FORMAT else None


def _write(part: Path, source: Texts, cutting: Cutting, *, told: Told, joined: Passes | None, key: str) -> Index:
    """Tokenise into a new folder."""
    table = WordTable(most=cutting.most)
    with open_own(part / TOKENS, root=part, mode="w+b") as stream:
        file = TokenFile(stream)
        digest = _read(source, cutting, table, file, told)
        if not len(table):
            raise DataError(f"{source.origin} has no words", expected="text")
        notes = [_forgot(source.origin, table.forgotten, cutting.most, "words")] if table.forgotten else []
        if cutting.phrases:
            found, more = _joined(file, table, cutting, joined, source.origin)
            notes += more
            write_file(part / PHRASES, msgspec.json.encode(found), root=part)
        save_array(part / SUMS, file.finish(BLOCK), root=part)
    save_array(part / STARTS, table.starts, root=part)
    save_array(part / COUNTS, table.counts, root=part)
    with open_own(part / WORDS, root=part) as stream:
        stream.write(table.arena.data)
    digest = hashlib.sha256(f"{digest} {key}".encode()).hexdigest()[:32]
    index = Index(FORMAT, source.origin, BLOCK, file.tokens, len(table), digest, tuple(notes))
    cache_folders.write_index(part, index, *SMALL)
    return index


def _read(source: Texts, cutting: Cutting, table: WordTable, file: TokenFile, told: Told) -> str:
    """Tokenise all texts into a file; return a digest of them and of how they were cut."""
    digest = hashlib.blake2b(cutting.decides().encode(), digest_size=16)
    tokenizer = Tokenizer(alphabet.classes(cutting.tokens), alphabet.folds(cutting.tokens, cutting.lower), table, file)
    done, size = 0, source.size()
    for path in source.paths or ("",):
        head, read = b"", 0
        found = texts.pieces(path, source.encoding)
        try:
            for piece in segments.segmented(found) if cutting.tokens == "jieba" else found:
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
    return digest.hexdigest()


def _joined(
    file: TokenFile, table: WordTable, cutting: Cutting, joined: Passes | None, origin: str
) -> tuple[Passes, list[str]]:
    """Join phrases, those given or those found; return them, and notes."""
    passes, notes = [], []
    for number in range(cutting.phrases if joined is None else len(joined)):
        if joined is None:
            pairs = Pairs(slots=cutting.slots)
            found = phrases.find(file, table, pairs, threshold=cutting.threshold, discount=cutting.discount)
            if pairs.forgotten:
                notes.append(_forgot(origin, pairs.forgotten, pairs.most, "pairs of words"))
        else:
            found = [*joined[number]]
        phrases.write(file, table, found)
        passes.append(found)
    phrases.drop_unused(file, table)
    return passes, notes


def _forgot(origin: str, limit: int, most: int, what: str) -> str:
    """Return the note on words or pairs that were forgotten."""
    return (
        f"{origin} has more than {most:,} different {what}: the rarest were left out on the way, "
        f"those with at most {limit} occurrences by then"
    )

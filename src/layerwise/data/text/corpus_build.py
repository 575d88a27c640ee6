"""Text to a corpus: tokenized once into a folder, which is reused while the text and the options stay the same.

The text is read in pieces and the tokens are written at once, so neither is ever in memory; only the table of words is
(`kernels.tokenizer.WordTable`), and the pairs where phrases are joined. Folders are bounded in size together
(`cache_folders`).
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np

from layerwise.data import cache_folders
from layerwise.data.cache_folders import GIB, INDEX, ProgressCallback
from layerwise.data.source import SPLITS
from layerwise.data.tables.table_options import Tokens
from layerwise.data.text import char_classes, jieba_segmenter, phrases, text_files
from layerwise.data.text.corpus import COUNTS, FORMAT, PHRASES, SMALL, STARTS, SUMS, TOKENS, WORDS, Corpus, Index
from layerwise.data.text.phrases import Passes
from layerwise.data.text.text_files import HEAD_BYTES, TextFiles
from layerwise.data.text.token_file import TokenFile
from layerwise.errors import DamagedError, DataError, LayerwiseError
from layerwise.kernels.text.bigrams import MAX_SLOTS, PairCounter
from layerwise.kernels.text.tokenizer import MAX_WORDS, InvalidUtf8Error, Tokenizer, WordTable
from layerwise.runtime.atomic_io import write_file
from layerwise.runtime.in_place_io import open_in_place, save_array
from layerwise.runtime.write_checks import is_plain_file
from layerwise.text_display import show_byte_progress

BLOCK = 1024  # tokens of an example
CORPORA = "corpora"  # the folder of corpora in the user's cache folder


class TokenizerOptions(msgspec.Struct, frozen=True):
    """How text becomes tokens.

    ``tokens`` is their kind (`char_classes`), ``lower`` makes letters lower case. ``phrases`` passes join words
    (`data.text.phrases`), by ``threshold`` and ``discount``. Memory holds at most ``max_words`` different words and
    ``slots`` slots for pairs.
    """

    tokens: Tokens = "words"
    lower: bool = True
    phrases: int = 0
    threshold: float = 100.0
    discount: float = 5.0
    max_words: int = MAX_WORDS
    slots: int = MAX_SLOTS

    def describe(self) -> str:
        """Return all that decides the tokens of a text, as text."""
        description = f"{self} unicode {unicodedata.unidata_version}"
        return f"{description} jieba {jieba_segmenter.get_version()}" if self.tokens == "jieba" else description


def open_corpus(
    root: Path,
    source: TextFiles,
    options: TokenizerOptions,
    *,
    limit: int,
    progress: ProgressCallback = lambda *_: None,
    known_phrases: Passes | None = None,
) -> Corpus:
    """Return the corpus of these texts, built if it is missing or incomplete.

    Args:
        root: the folder that holds corpora.
        source: the text files.
        options: of the tokenizer.
        limit: bytes; the least recently used corpora beyond it are removed first.
        progress: called with how many bytes are read, of how many.
        known_phrases: phrases of another text to join here, pass by pass, instead of finding new ones.

    Raises `DataError` for a text that cannot be read, has no words, or does not fit on the disk.
    """
    key = "" if known_phrases is None else hashlib.sha256(repr(known_phrases).encode()).hexdigest()
    folder = root / (f"pipe-{os.getpid()}" if source.is_piped else _compute_name(source, options, key))
    try:
        with nullcontext() if source.is_piped else cache_folders.lock_cache(folder):
            corpus = None if source.is_piped else load_corpus(folder)
            if corpus is None:
                return _build_corpus(
                    folder, source, options, limit=limit, progress=progress, known_phrases=known_phrases, key=key
                )
        cache_folders.mark_used(folder)
        return corpus
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}",
            do="make room, or set data.cache to a folder that can be written",
        ) from error


def _build_corpus(
    folder: Path,
    source: TextFiles,
    options: TokenizerOptions,
    *,
    limit: int,
    progress: ProgressCallback,
    known_phrases: Passes | None,
    key: str,
) -> Corpus:
    """Build a corpus into a folder, or, for standard input, into one beside it with a name by the text."""
    cache_folders.evict_caches(folder.parent, limit - source.get_size(), large=TOKENS)
    with cache_folders.open_part(folder) as part:

        def check_space(done: int, size: int) -> None:
            taken = (part / TOKENS).stat().st_size
            if reason := cache_folders.explain_no_space(folder.parent, taken, limit, already_written=taken):
                raise DataError(
                    f"there is no room for the tokens of {source.origin}: {reason}",
                    do="make room, or set data.cache to another folder",
                )
            progress(done, size)

        index = _write_corpus(part, source, options, progress=check_space, known_phrases=known_phrases, key=key)
        target = folder.with_name(index.digest) if source.is_piped else folder
        cache_folders.install_cache(part, target)
    return Corpus(str(target), index)


def _compute_name(source: TextFiles, options: TokenizerOptions, key: str) -> str:
    """Return the name of the folder for these texts as they are now."""
    parts = (FORMAT, BLOCK, source.get_file_stats(), source.encoding, options.describe(), key)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def load_corpus(folder: Path) -> Corpus | None:
    """Return the corpus in a folder, checked by its index and file sizes; None if it is missing or incomplete."""
    index = cache_folders.read_index(folder, Index, *SMALL)
    if index is None:
        return None
    corpus = Corpus(str(folder), index)
    if not is_plain_file(folder / WORDS, root=folder):
        return None
    try:
        starts, counts = corpus.words.starts, corpus.counts  # with the dtypes and lengths in the index
        cache_folders.load_array(folder / SUMS, np.uint32, (len(corpus),))
        is_sorted = starts[0] == 0 and bool((np.diff(starts) >= 0).all())
        is_valid = is_sorted and cache_folders.has_size(folder / WORDS, int(starts[-1])) and int(counts.min()) >= 0
        corpus.phrases  # noqa: B018 - checks their type
    except (OSError, ValueError, EOFError, LayerwiseError):
        return None
    has_tokens = cache_folders.has_size(folder / TOKENS, len(corpus) * index.block * 4)
    return corpus if is_valid and has_tokens and index.format == FORMAT else None


def _write_corpus(
    part: Path,
    source: TextFiles,
    options: TokenizerOptions,
    *,
    progress: ProgressCallback,
    known_phrases: Passes | None,
    key: str,
) -> Index:
    """Tokenize into a new folder."""
    table = WordTable(max_words=options.max_words)
    with open_in_place(part / TOKENS, root=part, mode="w+b") as stream:
        file = TokenFile(stream)
        digest = _tokenize(source, options, table, file, progress)
        if not len(table):
            raise DataError(f"{source.origin} has no words", expected="text")
        notes = (
            [_describe_forgotten(source.origin, table.forgotten, options.max_words, "words")] if table.forgotten else []
        )
        if options.phrases:
            applied, phrase_notes = _join_phrases(file, table, options, known_phrases, source.origin)
            notes += phrase_notes
            write_file(part / PHRASES, msgspec.json.encode(applied), root=part)
        save_array(part / SUMS, file.finish(BLOCK), root=part)
    save_array(part / STARTS, table.starts, root=part)
    save_array(part / COUNTS, table.counts, root=part)
    with open_in_place(part / WORDS, root=part) as stream:
        stream.write(table.arena.data)
    digest = hashlib.sha256(f"{digest} {key}".encode()).hexdigest()[:32]
    index = Index(FORMAT, source.origin, BLOCK, file.tokens, len(table), digest, tuple(notes))
    cache_folders.write_index(part, index, *SMALL)
    return index


def _tokenize(
    source: TextFiles, options: TokenizerOptions, table: WordTable, file: TokenFile, progress: ProgressCallback
) -> str:
    """Tokenize all texts into a file; return a digest of them and of the options."""
    digest = hashlib.blake2b(options.describe().encode(), digest_size=16)
    tokenizer = Tokenizer(
        char_classes.compute_char_classes(options.tokens),
        char_classes.compute_char_folds(options.tokens, options.lower),
        table,
        file,
    )
    done, size = 0, source.get_size()
    for path in source.paths or ("",):
        head, read = b"", 0
        pieces = text_files.read_pieces(path, source.encoding)
        try:
            for piece in jieba_segmenter.segment_words(pieces) if options.tokens == "jieba" else pieces:
                head = head or piece.data[:HEAD_BYTES]
                digest.update(piece.data)
                tokenizer.feed(piece.data)
                read = piece.read
                progress(done + read, size)
            tokenizer.feed(b"", last=True)
        except InvalidUtf8Error as error:
            raise text_files.make_not_text_error(path, error.at, error.byte, head) from error
        digest.update(b"\0end of file\0")
        done += read
    return digest.hexdigest()


def _join_phrases(
    file: TokenFile, table: WordTable, options: TokenizerOptions, known_phrases: Passes | None, origin: str
) -> tuple[Passes, list[str]]:
    """Join phrases, known ones or new ones; return them, and notes."""
    passes, notes = [], []
    for number in range(options.phrases if known_phrases is None else len(known_phrases)):
        if known_phrases is None:
            pairs = PairCounter(slots=options.slots)
            found_phrases = phrases.find_phrases(
                file, table, pairs, threshold=options.threshold, discount=options.discount
            )
            if pairs.forgotten:
                notes.append(_describe_forgotten(origin, pairs.forgotten, pairs.max_pairs, "pairs of words"))
        else:
            found_phrases = [*known_phrases[number]]
        phrases.write_phrases(file, table, found_phrases)
        passes.append(found_phrases)
    phrases.drop_unused(file, table)
    return passes, notes


def _describe_forgotten(origin: str, limit: int, limit_count: int, unit: str) -> str:
    """Return a note on words or pairs that were forgotten."""
    return (
        f"{origin} has more than {limit_count:,} different {unit}: the rarest were left out on the way, "
        f"those with at most {limit} occurrences by then"
    )


def open_corpora(
    texts_by_part: Mapping[str, TextFiles], options: TokenizerOptions, *, cache: str, limit: int
) -> dict[str, Corpus]:
    """Return a corpus for each part, built into ``cache`` (`cache_folders.get_cache_root`) where it is missing.

    All corpora there take at most ``limit`` bytes. All parts have the phrases of the training part.
    """
    root = cache_folders.get_cache_root(cache, CORPORA)
    parts: dict[str, Corpus] = {}
    for part in sorted(texts_by_part, key=SPLITS.index):
        text, train = texts_by_part[part], parts.get("train")
        with show_byte_progress(f"reading {text.origin}") as progress:
            known_phrases = train.phrases if train is not None and options.phrases else None
            parts[part] = open_corpus(root, text, options, limit=limit, progress=progress, known_phrases=known_phrases)
    if not all(Path(corpus.folder, INDEX).is_file() for corpus in parts.values()):  # one was evicted for another
        raise DataError(
            f"the cache is too small for the tokens of all splits: {', '.join(parts)}",
            received=f"data.cache_gib = {limit / GIB:g}",
            do="raise data.cache_gib",
        )
    return parts


def load_built_corpus(folder: Path) -> Corpus:
    """Return the corpus in a folder that was built before. Raises `DamagedError` if it is incomplete."""
    corpus = load_corpus(folder)
    if corpus is None:
        raise DamagedError(
            f"{folder} holds a corpus that is not whole",
            expected="the files that were written",
            do="make it anew from its text",
        )
    return corpus

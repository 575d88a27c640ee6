"""Text as a source: blocks of word numbers from a memory-mapped file.

A corpus is one stream of int32 (`kernels.text`): `END` closes a sentence, which is a line; numbers from 0 on are
words, all that the text has, in order of first occurrence. Example i is the tokens ``[i·block, (i+1)·block)``. The
vocabulary is chosen later, on the training part (`Recoded`). `corpus_build` writes the file once, from the text.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from layerwise.data.cache_folders import find_damaged, load_array, make_damaged_error
from layerwise.data.source import Array, Example, Examples, Schema, Source, Subset, fetch
from layerwise.errors import DamagedError
from layerwise.kernels.text import GAP
from layerwise.runtime.bounded_decoding import decode_json

FORMAT = 2
CHUNK = 256  # blocks to count at once
TOKENS = "tokens.bin"
SMALL = SUMS, WORDS, STARTS, COUNTS, PHRASES = "sums.npy", "words.bin", "starts.npy", "counts.npy", "phrases.json"


class Index(msgspec.Struct, frozen=True):
    """The contents of a folder with a corpus.

    ``origin`` is the name of the text for messages; ``tokens`` counts sentence ends too, without the padding;
    ``digest`` covers the text and the tokenizer's options; ``notes`` come from reading the text.
    """

    format: int
    origin: str
    block: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
    words: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words(Sequence[str]):
    """Words by number, decoded on access: ``starts`` (V + 1,) are their offsets in ``arena``, bytes of UTF-8."""

    arena: NDArray[np.uint8]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return _decode_word(self.arena[self.starts[at] : self.starts[at + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), 1 << 16):
            starts = self.starts[first : first + (1 << 16) + 1].tolist()
            data = self.arena[starts[0] : starts[-1]].tobytes()
            for begin, end in itertools.pairwise(starts):
                yield _decode_word(data[begin - starts[0] : end - starts[0]])


def _decode_word(data: bytes) -> str:
    """Return a word's text. Raises `DamagedError` for bytes that are not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedError(
            "a word of a kept text is not UTF-8",
            expected="the words as they were written",
            do="name another place with --set data.cache=FOLDER: the text is read again",
        ) from error


@dataclass(frozen=True)
class Corpus:
    """The blocks of a corpus in a folder. Their checksums are verified as they are read."""

    folder: str
    index: Index

    @property
    def schema(self) -> Schema:
        """What the examples are: blocks of tokens, nothing to predict."""
        return Schema("text", (self.index.block,), "none")

    @property
    def targets(self) -> None:
        """Nothing is to be predicted."""
        return None

    @cached_property
    def _tokens(self) -> tuple[Array, Array]:
        """The blocks, memory-mapped, and their checksums."""
        tokens = np.memmap(Path(self.folder, TOKENS), dtype=np.int32, mode="r").reshape(-1, self.index.block)
        return tokens, load_array(Path(self.folder, SUMS), np.uint32, (len(self),))

    @cached_property
    def words(self) -> Words:
        """The different words, by their numbers."""
        arena = np.memmap(Path(self.folder, WORDS), dtype=np.uint8, mode="r")
        return Words(arena, load_array(Path(self.folder, STARTS), np.int64, (self.index.words + 1,)))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How often each word comes, (V,); read-only."""
        return load_array(Path(self.folder, COUNTS), np.int64, (self.index.words,))

    @property
    def phrases(self) -> list[list[tuple[str, str]]]:
        """The pairs of words that are joined, pass by pass; empty without phrases."""
        path = Path(self.folder, PHRASES)
        if not path.is_file():
            return []
        phrases: list[list[tuple[str, str]]] = decode_json(
            path.read_bytes(), what=str(path), as_type=list[list[tuple[str, str]]]
        )
        return phrases

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory maps out: a worker opens its own."""
        return {"folder": self.folder, "index": self.index}

    def __len__(self) -> int:
        return -(-self.index.tokens // self.index.block)

    def __getitem__(self, index: int) -> Example:
        return Example(self.fetch([range(len(self))[index]]).inputs[0], None)

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order: ``inputs`` are (N, block) int32.

        Raises `DamagedError` for a block that is not what was written.
        """
        at = np.asarray(indices, dtype=np.int64)
        tokens, sums = self._tokens
        out = tokens[at]
        if find_damaged(self.folder, out, sums[at]):
            raise make_damaged_error(self.folder, TOKENS, f"the tokens of {self.index.origin}")
        if out.size and (
            out.min() < GAP or out.max() >= self.index.words
        ):  # compiled loops look words up without a check
            raise make_damaged_error(
                self.folder, TOKENS, f"numbers of the {self.index.words:,} words of {self.index.origin}"
            )
        return Examples(out, None, at)

    def name_of(self, index: int) -> str:
        """Return the text and the tokens of the block, counted from 0."""
        first = index * self.index.block
        return f"{self.index.origin}, tokens {first} to {min(first + self.index.block, self.index.tokens) - 1}"

    def fingerprint(self) -> str:
        """Return a digest of the text and of the tokenizer's options; the folder's path does not count."""
        return hashlib.sha256(f"{self.index.digest} {self.index.block}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Recoded:
    """A corpus with its words sent through a mapping: ``mapping[number]`` (V,) int32 is the new number, or `GAP` for a
    word left out."""

    base: Source
    mapping: NDArray[np.int32]

    @property
    def schema(self) -> Schema:
        """What the examples are: as before."""
        return self.base.schema

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Example:
        return Example(self.fetch([range(len(self))[index]]).inputs[0], None)

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        from layerwise.kernels.text.tokenizer_loops import (
            recode,  # numba is slow to import, and not everyone who looks for texts has one
        )

        examples = fetch(self.base, indices)
        tokens = np.asarray(examples.inputs)  # its own copy: `Corpus.fetch` makes one
        recode(tokens, self.mapping)
        return examples._replace(inputs=tokens)

    def name_of(self, index: int) -> str:
        """Return the name the example has in the base source."""
        return self.base.name_of(index)

    def fingerprint(self) -> str:
        """Return a digest of the base source and of the mapping."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update(np.ascontiguousarray(self.mapping).data)
        return digest.hexdigest()[:32]


def find_corpus(source: Source) -> Corpus | None:
    """Return the corpus under subsets, if there is one."""
    while isinstance(source, Subset):
        source = source.base
    return source if isinstance(source, Corpus) else None


def count_words(source: Source) -> NDArray[np.int64]:
    """Return how often each word of the corpus comes in the blocks of a corpus or of a part of one, (V,)."""
    from layerwise.kernels.text.tokenizer_loops import tally  # numba is slow to import

    if isinstance(source, Corpus):
        return np.array(source.counts)
    corpus = find_corpus(source)
    assert corpus is not None  # only texts are counted
    counts = np.zeros(len(corpus.words), dtype=np.int64)
    for first in range(0, len(source), CHUNK):
        tally(np.asarray(fetch(source, np.arange(first, min(first + CHUNK, len(source)))).inputs), counts)
    return counts

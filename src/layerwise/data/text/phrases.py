"""Phrases: words that follow each other more often than by chance become one word, ``new_york``.

A pass joins a and b where (count(ab) − δ) · N / (count(a) · count(b)) exceeds a threshold; N counts all words, and a
word belongs to at most one pair. Further passes make longer phrases. Source: Mikolov et al., Distributed
representations of words and phrases (2013), section 4, and the program word2phrase.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerwise.data.text.token_file import TokenFile
from layerwise.kernels.text.bigrams import PairCounter, PairCounts, PairMerger
from layerwise.kernels.text.tokenizer import WordTable, index_words
from layerwise.kernels.text.tokenizer_loops import MAX_TOKEN_BYTES

JOINT = "_"
Phrase = tuple[str, str]
Passes = Sequence[Sequence[Phrase]]


def score_pairs(pairs: PairCounts, counts: NDArray[np.int64], discount: float) -> NDArray[np.float64]:
    """Return the score of each pair, (P,), by the count of each word, (V,)."""
    single = counts[pairs.first].astype(np.float64) * counts[pairs.second]
    return (pairs.counts - discount) * float(counts.sum()) / single


def find_phrases(
    file: TokenFile, table: WordTable, pairs: PairCounter, *, threshold: float, discount: float
) -> list[Phrase]:
    """Return the phrases of one pass over a file, in order of their words' numbers; ``pairs`` counts them."""
    for tokens in file.read_pieces():
        pairs.count(tokens)
    counted = pairs.find_frequent(discount)
    is_phrase = score_pairs(counted, table.counts, discount) > threshold
    chosen = zip(counted.first[is_phrase].tolist(), counted.second[is_phrase].tolist(), strict=True)
    words = [(table.word(first), table.word(second)) for first, second in chosen]
    return [(a.decode(), b.decode()) for a, b in words if len(a) + len(b) < MAX_TOKEN_BYTES]


def write_phrases(file: TokenFile, table: WordTable, phrases: Sequence[Phrase]) -> None:
    """Write phrases as one word each, and count all words again. Words of phrases that the table lacks are added with
    count 0."""
    first = index_words(table, [word.encode() for word, _ in phrases])
    second = index_words(table, [word.encode() for _, word in phrases])
    joint = index_words(table, [JOINT.join(phrase).encode() for phrase in phrases])
    file.join(PairMerger(first, second, joint))
    table.counts[:] = file.tally(len(table))


def drop_unused(file: TokenFile, table: WordTable) -> None:
    """Remove words from the table that no longer occur."""
    if not table.counts.all():
        file.renumber(table.keep(table.counts > 0))

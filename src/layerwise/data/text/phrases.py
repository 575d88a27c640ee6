"""Phrases: words that come side by side more often than by chance are written as one, ``new_york``.

A pass joins a and b where (count(ab) − δ) · N / (count(a) · count(b)) exceeds a threshold; N counts all words, and what
a pair was made of is in no other. Further passes make longer ones. Source: Mikolov et al., Distributed representations
of words and phrases (2013), section 4, and the program word2phrase.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerwise.data.text.token_file import TokenFile
from layerwise.kernels.text.pairs import Counted, Joiner, Pairs
from layerwise.kernels.text.tokenize import LONGEST
from layerwise.kernels.text.tokenizer import WordTable, numbered

JOINT = "_"
Phrase = tuple[str, str]
Passes = Sequence[Sequence[Phrase]]


def scores(pairs: Counted, counts: NDArray[np.int64], discount: float) -> NDArray[np.float64]:
    """Return the score of each pair, (P,), by how often each word comes, (V,)."""
    single = counts[pairs.first].astype(np.float64) * counts[pairs.second]
    return (pairs.counts - discount) * float(counts.sum()) / single


def find(file: TokenFile, table: WordTable, pairs: Pairs, *, threshold: float, discount: float) -> list[Phrase]:
    """Return the phrases of one pass over a file, in order of their words' numbers. ``pairs`` is what counts them."""
    for tokens in file.pieces():
        pairs.count(tokens)
    found = pairs.found(discount)
    kept = scores(found, table.counts, discount) > threshold
    chosen = zip(found.first[kept].tolist(), found.second[kept].tolist(), strict=True)
    words = [(table.word(first), table.word(second)) for first, second in chosen]
    return [(a.decode(), b.decode()) for a, b in words if len(a) + len(b) < LONGEST]


def write(file: TokenFile, table: WordTable, found: Sequence[Phrase]) -> None:
    """Write phrases as one word each, and count all words anew. Words of phrases that the table lacks are entered, with
    count 0."""
    first, second, joint = (
        numbered(table, [word.encode() for word in words])
        for words in ([a for a, _ in found], [b for _, b in found], [JOINT.join(phrase) for phrase in found])
    )
    file.join(Joiner(first, second, joint))
    table.counts[:] = file.tally(len(table))


def drop_unused(file: TokenFile, table: WordTable) -> None:
    """Take words that no longer come out of the table."""
    if not table.counts.all():
        file.renumber(table.keep(table.counts > 0))

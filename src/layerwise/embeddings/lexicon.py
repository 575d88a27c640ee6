"""Pairs of words with the same meaning in two languages: from a table, or from sentences and their translations.

``S`` sentences. Words that occur in the same pairs of sentences are translations of each other, measured by Dice's
coefficient 2 n(x, y) / (n(x) + n(y)) over sentences (L. R. Dice 1945; for translations F. Smadja et al., Computational
Linguistics 22, 1996). A pair is accepted if each word is the other's best.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.embeddings.embedders import WordEmbedder
from layerwise.embeddings.passages import Passages
from layerwise.errors import DataError
from layerwise.runtime.atomic_io import write_file
from layerwise.text_display import format_row
from layerwise.weights.vectors import VectorTable

Ids = NDArray[np.int64]
MIN_SENTENCES, MIN_DICE = 5, 0.3  # of a word; of Dice's coefficient of a pair


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a table of two columns, each once, in order. Raises `DataError` for rows without both."""
    from layerwise.embeddings.sources import read_labeled_queries

    sources, targets = read_labeled_queries(path)
    return [(source, target) for source, translations in zip(sources, targets, strict=True) for target in translations]


def learn_pairs(
    files: tuple[Path, Path],
    source: VectorTable,
    target: VectorTable,
    *,
    min_sentences: int = MIN_SENTENCES,
    min_dice: float = MIN_DICE,
) -> list[tuple[str, str]]:
    """Return pairs of words of two tables, learned from two files of sentences; line i of one translates line i of the
    other.

    The most frequent source words come first. Raises `DataError` for files of unequal length, and where no pair is
    found.
    """
    sides = [_read_word_rows(path, table) for path, table in zip(files, (source, target), strict=True)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{files[0]} and {files[1]} are no translations of each other line by line",
            expected="as many lines",
            received=f"{len(sides[0]):,} and {len(sides[1]):,}",
        )
    rows = find_best_pairs(
        _build_incidence(sides[0], len(source)),
        _build_incidence(sides[1], len(target)),
        min_sentences=min_sentences,
        min_dice=min_dice,
    )
    if not len(rows):
        raise DataError(
            f"{files[0]} and {files[1]} tell no pairs of words",
            expected=f"words that stand in {min_sentences} sentences or more",
        )
    return [(source.words[a], target.words[b]) for a, b in rows.tolist()]


def _read_word_rows(path: Path, table: VectorTable) -> list[Ids]:
    """Return the distinct words of each line, including blank lines, as rows of a table."""
    embedder = WordEmbedder(table)
    word_rows: list[Ids] = []
    for number, text in _iterate_lines(path):
        word_rows += [np.zeros(0, dtype=np.int64)] * (number - 1 - len(word_rows))
        word_rows.append(np.unique(np.array(embedder.rows(text), dtype=np.int64)))
    return word_rows


def _iterate_lines(path: Path) -> Iterable[tuple[int, str]]:
    """Yield a file's lines that are not blank, with their numbers."""
    return ((int(passage.name), passage.text) for chunk in Passages(str(path), "line").chunks() for passage in chunk)


def _build_incidence(lines: Sequence[Ids], words: int) -> Any:
    """Return the incidence of words in sentences, a sparse (S, V) of ones."""
    from scipy.sparse import csr_array  # slow to import

    ends = np.cumsum([0, *(len(line) for line in lines)])
    flat = np.concatenate(lines) if lines else np.zeros(0, dtype=np.int64)
    return csr_array((np.ones(len(flat), dtype=np.int64), flat, ends), shape=(len(lines), words))


def find_best_pairs(x: Any, y: Any, *, min_sentences: int, min_dice: float) -> Ids:
    """Return the pairs (P, 2) of words that are each other's best by Dice's coefficient, from the incidences: sparse
    (S, V) and (S, W).

    Of equals the earlier word wins. Words in fewer than ``min_sentences`` sentences and pairs below ``min_dice``
    are left out.
    """
    counts = [np.asarray(side.sum(axis=0)).ravel() for side in (x, y)]
    both = (x.T @ y).tocoo()  # n(x, y), (V, W)
    frequent = (counts[0][both.row] >= min_sentences) & (counts[1][both.col] >= min_sentences)
    a, b, joint = both.row[frequent], both.col[frequent], both.data[frequent]
    dice = 2 * joint / (counts[0][a] + counts[1][b])
    is_strong = dice >= min_dice
    a, b, dice = a[is_strong], b[is_strong], dice[is_strong]
    first = _first_of_each(a, np.lexsort((b, -dice, a)))
    second = _first_of_each(b, np.lexsort((a, -dice, b)))
    chosen = np.intersect1d(first, second)
    pairs = np.stack([a[chosen], b[chosen]], 1).astype(np.int64)
    return pairs[np.lexsort((pairs[:, 0], -counts[0][pairs[:, 0]]))]


def _first_of_each(words: Ids, order: Ids) -> Ids:
    """Return the first entry of each word in an order that is sorted by words."""
    ordered = words[order]
    first: Ids = order[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(order) else order
    return first


def write_pairs(pairs: Iterable[tuple[str, str]], path: Path, *, overwrite: bool = False) -> None:
    """Write pairs as a table of two columns, separated by tabs. Raises `UsageError` for a file that exists."""
    rows = "".join(format_row(pair, "\t") for pair in pairs)
    write_file(path, f"source\ttarget\n{rows}".encode(), overwrite=overwrite)

"""Pairs of words that mean the same in two languages: from a table, or from sentences and their translations.

``S`` sentences. The one idea: words that stand in the same pairs of sentences are translations. How often is measured
by Dice's coefficient 2 n(x, y) / (n(x) + n(y)) over sentences (L. R. Dice 1945; for translations F. Smadja et al.,
Computational Linguistics 22, 1996), and a pair is taken if each is the other's best.
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
LEAST, STRONG = 5, 0.3  # sentences that a word must stand in; Dice's coefficient that a pair must have


def from_table(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a table of two columns, each once, in order. Raises `DataError` for rows without both."""
    from layerwise.embeddings.labeled import read

    sources, targets = read(path)
    return [(source, target) for source, mine in zip(sources, targets, strict=True) for target in mine]


def from_sentences(
    files: tuple[Path, Path], source: VectorTable, target: VectorTable, *, least: int = LEAST, strong: float = STRONG
) -> list[tuple[str, str]]:
    """Return the pairs of words of two tables that two files of sentences tell; line i of one translates line i of the
    other.

    The most frequent source words come first. Raises `DataError` for files of unequal length, and where no pair is
    found.
    """
    sides = [_lines(path, table) for path, table in zip(files, (source, target), strict=True)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{files[0]} and {files[1]} are no translations of each other line by line",
            expected="as many lines",
            received=f"{len(sides[0]):,} and {len(sides[1]):,}",
        )
    rows = best_pairs(_stands(sides[0], len(source)), _stands(sides[1], len(target)), least=least, strong=strong)
    if not len(rows):
        raise DataError(
            f"{files[0]} and {files[1]} tell no pairs of words",
            expected=f"words that stand in {least} sentences or more",
        )
    return [(source.words[a], target.words[b]) for a, b in rows.tolist()]


def _lines(path: Path, table: VectorTable) -> list[Ids]:
    """Return the different words of each line, blank ones too, as rows of a table."""
    embedder = WordEmbedder(table)
    found: list[Ids] = []
    for number, text in _numbered(path):
        found += [np.zeros(0, dtype=np.int64)] * (number - 1 - len(found))
        found.append(np.unique(np.array(embedder.rows(text), dtype=np.int64)))
    return found


def _numbered(path: Path) -> Iterable[tuple[int, str]]:
    """Yield a file's lines that are not blank, with their numbers."""
    return ((int(passage.name), passage.text) for chunk in Passages(str(path), "line").chunks() for passage in chunk)


def _stands(lines: Sequence[Ids], words: int) -> Any:
    """Return which words stand in which sentence, a sparse (S, V) of ones."""
    from scipy.sparse import csr_array  # slow to import

    ends = np.cumsum([0, *(len(line) for line in lines)])
    flat = np.concatenate(lines) if lines else np.zeros(0, dtype=np.int64)
    return csr_array((np.ones(len(flat), dtype=np.int64), flat, ends), shape=(len(lines), words))


def best_pairs(x: Any, y: Any, *, least: int, strong: float) -> Ids:
    """Return the pairs (P, 2) of words, each the other's best by Dice's coefficient, from where they stand: sparse (S,
    V) and (S, W).

    Of equally good ones the earlier word is taken. Words in fewer than ``least`` sentences and pairs below ``strong``
    are left out.
    """
    counts = [np.asarray(side.sum(axis=0)).ravel() for side in (x, y)]
    both = (x.T @ y).tocoo()  # n(x, y), (V, W)
    frequent = (counts[0][both.row] >= least) & (counts[1][both.col] >= least)
    a, b, together = both.row[frequent], both.col[frequent], both.data[frequent]
    dice = 2 * together / (counts[0][a] + counts[1][b])
    kept = dice >= strong
    a, b, dice = a[kept], b[kept], dice[kept]
    first = _best(a, np.lexsort((b, -dice, a)))
    second = _best(b, np.lexsort((a, -dice, b)))
    chosen = np.intersect1d(first, second)
    found = np.stack([a[chosen], b[chosen]], 1).astype(np.int64)
    return found[np.lexsort((found[:, 0], -counts[0][found[:, 0]]))]


def _best(words: Ids, order: Ids) -> Ids:
    """Return the first entry of each word in an order that is sorted by words."""
    ordered = words[order]
    found: Ids = order[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(order) else order
    return found


def write(pairs: Iterable[tuple[str, str]], path: Path, *, overwrite: bool = False) -> None:
    """Write pairs as a table of two columns between tabs. Raises `UsageError` for a file that is there."""
    rows = "".join(format_row(pair, "\t") for pair in pairs)
    write_file(path, f"source\ttarget\n{rows}".encode(), overwrite=overwrite)

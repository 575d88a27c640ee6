"""Counting co-occurrences with bounded memory: stretches of the text to runs on disk, runs to one, its records dealt
out over blocks.

A run holds rows: for each word its columns (int32) and counts (float32), words in order. In memory are one stretch of
tokens with the places of its words, a row for each thread, and some groups of rows on their way to the disk.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from layerwise.data import cache_folders
from layerwise.data.source import Array, Source, fetch
from layerwise.data.text.cooccurrence import FORMAT, MOST, RECORDS, SUMS, Cooccurrences, Index, whole
from layerwise.errors import DataError, UsageError
from layerwise.kernels.text import cooccurrence as kernel
from layerwise.kernels.text.tokens import END
from layerwise.runtime.atomic_io import map_new_array, open_own, save_array
from layerwise.runtime.owned_folders import make_owned, remove_owned

BLOCK = 1 << 16  # records of an example, or a little less
MEMORY = 1 << 26  # bytes of a stretch: eight for each token
BLOCKS = 256  # blocks of the text that are read at once
GROUP = 1 << 20  # counts that a group of rows has room for, unless one row alone needs more
PAIRS = 1 << 22  # pairs that are counted for a group, unless one row alone has more
RUNS = "runs"  # the folder of passing files
SEED = 0x676C6F7665
Told = Callable[[int, int], None]  # tokens counted, of how many


class Rows(NamedTuple):
    """Rows of consecutive words: row k is ``columns`` and ``counts`` [ends[k−1], ends[k])."""

    columns: NDArray[np.int32]
    counts: NDArray[np.float32]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class Hands:
    """Threads, and for each of them a row (V,) float64 of zeros to work on."""

    pool: Executor
    rows: SimpleQueue[NDArray[np.float64]]
    threads: int


def opened(
    place: Path,
    source: Source,
    words: int,
    *,
    origin: str,
    limit: int,
    window: int = 15,
    block: int = BLOCK,
    memory: int = MEMORY,
    threads: int | None = None,
    told: Told = lambda *_: None,
) -> Cooccurrences:
    """Return the co-occurrences of a text, counted if they are not there or not whole (E31).

    Each word is counted with those at most ``window`` before and after it, by 1/distance. A sentence's end is a wall;
    words left out (GAP) are as if they were not there.

    Args:
        place: the folder that holds counts.
        source: blocks of tokens in the order of the text, (block,) int32 each.
        words: V, how many words there are.
        origin: what messages call the text.
        limit: bytes; the least recently used counts beyond it are removed first.
        window: the largest distance.
        block: the most records of an example.
        memory: bytes for a stretch of the text; less makes more runs on disk, and changes counts by float32's rounding
            at most.
        threads: that count; torch's number when not given. The result has the same bits for any number.
        told: called with how many tokens are counted, of how many.

    Raises:
        UsageError: for more than 2²⁴ words, and a window below 1.
        DataError: for a text where no word is near another, and without room on the disk.
    """
    if not 0 < words <= MOST:
        raise UsageError(
            "words too many, or too few, to be counted in pairs",
            expected=f"1 to {MOST:,} words",
            received=f"{words:,}",
            do="change the minimum count",
        )
    if window < 1:
        raise UsageError("a window without words", expected="a window of 1 or more", received=str(window))
    parts = (FORMAT, source.fingerprint(), words, window, block)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    folder = place / digest
    try:
        with cache_folders.lock_cache(folder):  # another process that counts the same is waited for
            if (found := whole(folder)) is not None and found.index.words == words:
                cache_folders.mark_used(folder)
                return found
            count = max(1, torch.get_num_threads() if threads is None else threads)
            with cache_folders.open_part(folder) as part, ThreadPoolExecutor(count) as pool:
                rows: SimpleQueue[NDArray[np.float64]] = SimpleQueue()
                for _ in range(count):
                    rows.put(np.zeros(words))
                run = _counted(part / RUNS, source, words, window, max(1, memory // 8), Hands(pool, rows, count), told)
                blocks, size = _dealt(part, run, words, block, place=place, limit=limit, origin=origin)
                index = Index(FORMAT, origin, words, window, size, blocks, int(run.ends[-1]), digest)
                del run  # Windows removes no file that is mapped
                remove_owned(part / RUNS, cache_folders.KIND)
                cache_folders.write_index(part, index, SUMS)
                cache_folders.put_cache(part, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}",
            do="make room, or set data.cache to a folder that can be written",
        ) from error
    return Cooccurrences(str(folder), index)


def _counted(runs: Path, source: Source, words: int, window: int, room: int, hands: Hands, told: Told) -> Rows:
    """Return all rows, mapped from files in ``runs``: counted stretch by stretch, and merged if there are several."""
    weights = np.concatenate([[0.0], 1.0 / np.arange(1, window + 1)])
    found: list[Rows] = []
    make_owned(runs, cache_folders.KIND, durable=False)
    for tokens, last in _stretches(source, words, window, room, told):
        starts, places = np.zeros(words + 1, dtype=np.int64), np.empty(last - window, dtype=np.int32)
        kernel.index(tokens, window, last, starts, places)
        most = np.minimum(2 * window * np.diff(starts), words)
        groups = _groups(np.maximum(most / GROUP, 2 * window * np.diff(starts) / PAIRS))

        rows_of = partial(_rows, (tokens, starts, places), most, weights, hands)
        found.append(_written(runs / f"run-{len(found)}", _in_order(hands, rows_of, groups)))
    return found[0] if len(found) == 1 else _merged(runs / "merged", found, hands)


def _rows(
    text: tuple[Array, Array, Array],
    most: NDArray[np.int64],
    weights: NDArray[np.float64],
    hands: Hands,
    first: int,
    last: int,
) -> Rows:
    """Return the rows of the words first ≤ w < last in a stretch: its tokens, and the places of its words; ``most``
    (V,) bounds a row."""
    row = hands.rows.get()
    out = _empty(int(most[first:last].sum()), last - first)
    size = kernel.count(*text, first, last, weights, row, *out)
    hands.rows.put(row)
    return Rows(out.columns[:size], out.counts[:size], out.ends)


def _merged(name: Path, runs: Sequence[Rows], hands: Hands) -> Rows:
    """Return the sum of runs, mapped from files of this name."""
    begins = np.stack([np.concatenate([[0], run.ends[:-1]]) for run in runs], axis=1)  # (V, runs)
    ends = np.stack([run.ends for run in runs], axis=1)
    sizes = (ends - begins).sum(1)

    def rows_of(first: int, stop: int) -> Rows:
        spans = [slice(begins[first, k], ends[stop - 1, k]) for k in range(len(runs))]
        offsets = np.cumsum([0] + [span.stop - span.start for span in spans[:-1]]) - begins[first]
        edges = np.stack([begins[first:stop] + offsets, ends[first:stop] + offsets], axis=2)
        columns = np.concatenate([run.columns[span] for run, span in zip(runs, spans, strict=True)])
        counts = np.concatenate([run.counts[span] for run, span in zip(runs, spans, strict=True)])
        row = hands.rows.get()
        out = _empty(len(columns), stop - first)
        size = kernel.merge(edges, columns, counts, row, *out)
        hands.rows.put(row)
        return Rows(out.columns[:size], out.counts[:size], out.ends)

    return _written(name, _in_order(hands, rows_of, _groups(sizes / GROUP)))


def _stretches(
    source: Source, words: int, window: int, room: int, told: Told
) -> Iterator[tuple[NDArray[np.int32], int]]:
    """Yield (tokens, last): the places window ≤ p < last are to be counted, and ``window`` tokens lie before and after
    them.

    Tokens are compact; the array is used again. At most ``room`` places, and what one reading gives.
    """
    total, block = len(source), source.schema.shape[0]
    held = np.empty(min(room, total * block) + BLOCKS * block + 3 * window, dtype=np.int32)
    held[:window] = END
    at = window
    for first in range(0, total, BLOCKS):
        read = np.ascontiguousarray(
            fetch(source, np.arange(first, min(first + BLOCKS, total))).inputs, dtype=np.int32
        ).reshape(-1)
        if read.max(initial=END) >= words:
            raise UsageError(
                "a word that is not in the vocabulary", expected=f"numbers below {words}", received=str(read.max())
            )
        at = kernel.compact(read, held, at)
        if at - 2 * window >= room:
            yield held[:at], at - window
            held[: 2 * window] = held[at - 2 * window : at].copy()
            at = 2 * window
        told(min(first + BLOCKS, total) * block, total * block)
    held[at : at + window] = END
    yield held[: at + window], at


def _groups(weights: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return ranges of words whose weights sum to about 1, or more where one word alone weighs more."""
    sums = np.cumsum(weights)
    edges = [0, *(np.flatnonzero(np.diff(np.floor(sums))) + 1).tolist(), len(weights)]
    return [(first, last) for first, last in itertools.pairwise(edges) if last > first]


def _empty(counts: int, words: int) -> Rows:
    """Return room for rows."""
    return Rows(np.empty(counts, dtype=np.int32), np.empty(counts, dtype=np.float32), np.empty(words, dtype=np.int64))


def _in_order(hands: Hands, function: Callable[[int, int], Rows], ranges: Sequence[tuple[int, int]]) -> Iterator[Rows]:
    """Yield what the function gives for each range, in order; the threads are at most a few ranges ahead."""
    waiting: deque[Future[Rows]] = deque()
    for first, last in ranges:
        waiting.append(hands.pool.submit(function, first, last))
        if len(waiting) > 2 * hands.threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _written(name: Path, groups: Iterator[Rows]) -> Rows:
    """Write groups of rows one after the other into files of this name, and return them mapped."""
    ends, total = [], 0
    files = [name.with_suffix(ending) for ending in (".columns", ".counts")]
    with open_own(files[0], root=name.parent) as columns, open_own(files[1], root=name.parent) as counts:
        for group in groups:
            columns.write(group.columns.data)
            counts.write(group.counts.data)
            ends.append(group.ends + total)
            total += len(group.columns)
    save_array(name.with_suffix(".ends.npy"), np.concatenate(ends), root=name.parent)
    return Rows(
        _mapped(files[0], np.int32),
        _mapped(files[1], np.float32),
        np.load(name.with_suffix(".ends.npy"), mmap_mode="r"),
    )


def _mapped(file: Path, kind: type) -> Array:
    """Return a file as an array; an empty file cannot be mapped."""
    return np.memmap(file, dtype=kind, mode="r") if file.stat().st_size else np.empty(0, dtype=kind)


def _dealt(part: Path, run: Rows, words: int, block: int, *, place: Path, limit: int, origin: str) -> tuple[int, int]:
    """Deal the records out over blocks in a new file; return how many blocks there are, and how many records each
    has."""
    records = int(run.ends[-1])
    if not records:
        raise DataError(f"in {origin} no word is near another", expected="sentences of two known words or more")
    blocks = -(-records // block)
    size = -(-records // blocks)
    needed = blocks * size * 12
    cache_folders.make_room(place, limit - needed, large=RECORDS)
    if reason := cache_folders.no_room(place, needed, limit):
        raise DataError(
            f"there is no room for the co-occurrences of {origin}: {reason}",
            do="make room, or set data.cache to another folder",
        )
    out = map_new_array(part / RECORDS, (blocks, size, 3), np.float32, root=part)
    starts = np.concatenate([[0], run.ends])
    order, state = np.empty(blocks, dtype=np.int32), np.array([SEED, 0], dtype=np.uint64)
    kernel.deal(starts, run.columns, run.counts, 0, words, order, state, out)
    out.flush()
    save_array(part / SUMS, np.array([zlib.crc32(one) for one in out], dtype=np.uint32), root=part)
    return blocks, size

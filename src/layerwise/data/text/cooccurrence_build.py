"""Counting co-occurrences with bounded memory: stretches of the text become runs on disk, runs are merged, and the
records are distributed over blocks.

A run holds rows: for each word its columns (int32) and counts (float32), words in order. In memory are one stretch of
tokens with the positions of its words, a row for each thread, and some groups of rows that wait to be written.
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
from layerwise.data.cache_folders import ProgressCallback
from layerwise.data.source import Array, Source, fetch
from layerwise.data.text.cooccurrence import FORMAT, MAX_WORDS, RECORDS, SUMS, Cooccurrences, Index, load_cooccurrences
from layerwise.errors import DataError, UsageError
from layerwise.kernels.text import END
from layerwise.kernels.text import cooccurrence as kernel
from layerwise.runtime.in_place_io import map_new_array, open_in_place, save_array
from layerwise.runtime.owned_folders import make_owned, remove_owned

BLOCK = 1 << 16  # records of an example, or a little less
MEMORY = 1 << 26  # bytes of a stretch: eight for each token
BLOCKS = 256  # blocks of the text that are read at once
GROUP = 1 << 20  # counts in a group of rows, unless one row alone has more
PAIRS = 1 << 22  # pairs that are counted for a group, unless one row alone has more
RUNS = "runs"  # the folder of temporary files
SEED = 0x676C6F7665


class Rows(NamedTuple):
    """Rows of consecutive words: row k is ``columns`` and ``counts`` [ends[k−1], ends[k])."""

    columns: NDArray[np.int32]
    counts: NDArray[np.float32]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class WorkerPool:
    """A pool of threads, and one zeroed float64 row buffer (V,) for each thread."""

    executor: Executor
    buffers: SimpleQueue[NDArray[np.float64]]
    threads: int


def open_cooccurrences(
    root: Path,
    source: Source,
    words: int,
    *,
    origin: str,
    limit: int,
    window: int = 15,
    block: int = BLOCK,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: ProgressCallback = lambda *_: None,
) -> Cooccurrences:
    """Return the co-occurrences of a text, counted if they are missing or incomplete (E31).

    Each word is counted with those at most ``window`` before and after it, by 1/distance. No pair crosses the end of a
    sentence; omitted words (GAP) are skipped and add no distance.

    Args:
        root: the folder that holds counts.
        source: blocks of tokens in the order of the text, (block,) int32 each.
        words: V, how many words there are.
        origin: the name of the text for messages.
        limit: bytes; the least recently used counts beyond it are removed first.
        window: the largest distance.
        block: the most records of an example.
        memory: bytes for a stretch of the text; less makes more runs on disk, and changes counts by float32's rounding
            at most.
        threads: how many to use; torch's number when not given. The result has the same bits for any number.
        progress: called with how many tokens are counted, of how many.

    Raises:
        UsageError: for more than 2²⁴ words, and a window below 1.
        DataError: for a text where no word is near another, and for a full disk.
    """
    if not 0 < words <= MAX_WORDS:
        raise UsageError(
            "words too many, or too few, to be counted in pairs",
            expected=f"1 to {MAX_WORDS:,} words",
            received=f"{words:,}",
            do="change the minimum count",
        )
    if window < 1:
        raise UsageError("a window without words", expected="a window of 1 or more", received=str(window))
    parts = (FORMAT, source.fingerprint(), words, window, block)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    folder = root / digest
    try:
        with cache_folders.lock_cache(folder):  # another process that counts the same is waited for
            if (counts := load_cooccurrences(folder)) is not None and counts.index.words == words:
                cache_folders.mark_used(folder)
                return counts
            count = max(1, torch.get_num_threads() if threads is None else threads)
            with cache_folders.open_part(folder) as part, ThreadPoolExecutor(count) as executor:
                buffers: SimpleQueue[NDArray[np.float64]] = SimpleQueue()
                for _ in range(count):
                    buffers.put(np.zeros(words))
                run = _count_runs(
                    part / RUNS,
                    source,
                    words,
                    window,
                    max(1, memory // 8),
                    WorkerPool(executor, buffers, count),
                    progress,
                )
                blocks, block_size = _deal_records(part, run, words, block, root=root, limit=limit, origin=origin)
                index = Index(FORMAT, origin, words, window, block_size, blocks, int(run.ends[-1]), digest)
                del run  # Windows removes no file that is mapped
                remove_owned(part / RUNS, cache_folders.KIND)
                cache_folders.write_index(part, index, SUMS)
                cache_folders.install_cache(part, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror or error}",
            do="make room, or set data.cache to a folder that can be written",
        ) from error
    return Cooccurrences(str(folder), index)


def _count_runs(
    runs: Path, source: Source, words: int, window: int, capacity: int, workers: WorkerPool, progress: ProgressCallback
) -> Rows:
    """Return all rows, memory-mapped from files in ``runs``: counted stretch by stretch, and merged if there are
    several."""
    weights = np.concatenate([[0.0], 1.0 / np.arange(1, window + 1)])
    run_rows: list[Rows] = []
    make_owned(runs, cache_folders.KIND, durable=False)
    for tokens, last in _iterate_stretches(source, words, window, capacity, progress):
        starts, positions = np.zeros(words + 1, dtype=np.int64), np.empty(last - window, dtype=np.int32)
        kernel.sort_positions(tokens, window, last, starts, positions)
        largest = np.minimum(2 * window * np.diff(starts), words)
        groups = _group_words(np.maximum(largest / GROUP, 2 * window * np.diff(starts) / PAIRS))

        count_rows = partial(_count_rows, (tokens, starts, positions), largest, weights, workers)
        run_rows.append(_write_rows(runs / f"run-{len(run_rows)}", _map_in_order(workers, count_rows, groups)))
    return run_rows[0] if len(run_rows) == 1 else _merge_runs(runs / "merged", run_rows, workers)


def _count_rows(
    text: tuple[Array, Array, Array],
    largest: NDArray[np.int64],
    weights: NDArray[np.float64],
    workers: WorkerPool,
    first: int,
    last: int,
) -> Rows:
    """Return the rows of the words first ≤ w < last in a stretch ``text``: its tokens, and the positions of its words;
    ``largest`` (V,) bounds the size of a row."""
    buffer = workers.buffers.get()
    out = _allocate_rows(int(largest[first:last].sum()), last - first)
    size = kernel.count_rows(*text, first, last, weights, buffer, *out)
    workers.buffers.put(buffer)
    return Rows(out.columns[:size], out.counts[:size], out.ends)


def _merge_runs(name: Path, runs: Sequence[Rows], workers: WorkerPool) -> Rows:
    """Return the sum of runs, memory-mapped from files of this name."""
    begins = np.stack([np.concatenate([[0], run.ends[:-1]]) for run in runs], axis=1)  # (V, runs)
    ends = np.stack([run.ends for run in runs], axis=1)
    sizes = (ends - begins).sum(1)

    def merge_rows(first: int, stop: int) -> Rows:
        spans = [slice(begins[first, k], ends[stop - 1, k]) for k in range(len(runs))]
        offsets = np.cumsum([0] + [span.stop - span.start for span in spans[:-1]]) - begins[first]
        edges = np.stack([begins[first:stop] + offsets, ends[first:stop] + offsets], axis=2)
        columns = np.concatenate([run.columns[span] for run, span in zip(runs, spans, strict=True)])
        counts = np.concatenate([run.counts[span] for run, span in zip(runs, spans, strict=True)])
        buffer = workers.buffers.get()
        out = _allocate_rows(len(columns), stop - first)
        size = kernel.merge_counts(edges, columns, counts, buffer, *out)
        workers.buffers.put(buffer)
        return Rows(out.columns[:size], out.counts[:size], out.ends)

    return _write_rows(name, _map_in_order(workers, merge_rows, _group_words(sizes / GROUP)))


def _iterate_stretches(
    source: Source, words: int, window: int, capacity: int, progress: ProgressCallback
) -> Iterator[tuple[NDArray[np.int32], int]]:
    """Yield (tokens, last): the positions window ≤ p < last are to be counted, with ``window`` tokens before and after
    them.

    Tokens are compact; the array is reused. A stretch has at most ``capacity`` positions plus one reading.
    """
    total, block = len(source), source.schema.shape[0]
    tokens = np.empty(min(capacity, total * block) + BLOCKS * block + 3 * window, dtype=np.int32)
    tokens[:window] = END
    end = window
    for first in range(0, total, BLOCKS):
        block_tokens = np.ascontiguousarray(
            fetch(source, np.arange(first, min(first + BLOCKS, total))).inputs, dtype=np.int32
        ).reshape(-1)
        if block_tokens.max(initial=END) >= words:
            raise UsageError(
                "a word that is not in the vocabulary",
                expected=f"numbers below {words}",
                received=str(block_tokens.max()),
            )
        end = kernel.compact(block_tokens, tokens, end)
        if end - 2 * window >= capacity:
            yield tokens[:end], end - window
            tokens[: 2 * window] = tokens[end - 2 * window : end].copy()
            end = 2 * window
        progress(min(first + BLOCKS, total) * block, total * block)
    tokens[end : end + window] = END
    yield tokens[: end + window], end


def _group_words(weights: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return ranges of words whose weights sum to about 1, or more where one word alone weighs more."""
    sums = np.cumsum(weights)
    edges = [0, *(np.flatnonzero(np.diff(np.floor(sums))) + 1).tolist(), len(weights)]
    return [(first, last) for first, last in itertools.pairwise(edges) if last > first]


def _allocate_rows(counts: int, words: int) -> Rows:
    """Return uninitialized arrays for rows."""
    return Rows(np.empty(counts, dtype=np.int32), np.empty(counts, dtype=np.float32), np.empty(words, dtype=np.int64))


def _map_in_order(
    workers: WorkerPool, function: Callable[[int, int], Rows], ranges: Sequence[tuple[int, int]]
) -> Iterator[Rows]:
    """Yield the function's result for each range, in order; the threads are at most a few ranges ahead."""
    futures: deque[Future[Rows]] = deque()
    for first, last in ranges:
        futures.append(workers.executor.submit(function, first, last))
        if len(futures) > 2 * workers.threads:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _write_rows(path: Path, groups: Iterator[Rows]) -> Rows:
    """Write groups of rows one after the other into files of this name, and return them memory-mapped."""
    ends, total = [], 0
    files = [path.with_suffix(ending) for ending in (".columns", ".counts")]
    with open_in_place(files[0], root=path.parent) as columns, open_in_place(files[1], root=path.parent) as counts:
        for group in groups:
            columns.write(group.columns.data)
            counts.write(group.counts.data)
            ends.append(group.ends + total)
            total += len(group.columns)
    save_array(path.with_suffix(".ends.npy"), np.concatenate(ends), root=path.parent)
    return Rows(
        _map_file(files[0], np.int32),
        _map_file(files[1], np.float32),
        np.load(path.with_suffix(".ends.npy"), mmap_mode="r"),
    )


def _map_file(file: Path, kind: type) -> Array:
    """Return a file as a memory-mapped array; an empty file, which cannot be mapped, as an empty array."""
    return np.memmap(file, dtype=kind, mode="r") if file.stat().st_size else np.empty(0, dtype=kind)


def _deal_records(
    part: Path, run: Rows, words: int, block: int, *, root: Path, limit: int, origin: str
) -> tuple[int, int]:
    """Distribute the records over blocks in a new file; return how many blocks there are, and how many records each
    has."""
    records = int(run.ends[-1])
    if not records:
        raise DataError(f"in {origin} no word is near another", expected="sentences of two known words or more")
    blocks = -(-records // block)
    size = -(-records // blocks)
    needed = blocks * size * 12
    cache_folders.evict_caches(root, limit - needed, large=RECORDS)
    if reason := cache_folders.explain_no_space(root, needed, limit):
        raise DataError(
            f"there is no room for the co-occurrences of {origin}: {reason}",
            do="make room, or set data.cache to another folder",
        )
    out = map_new_array(part / RECORDS, (blocks, size, 3), np.float32, root=part)
    starts = np.concatenate([[0], run.ends])
    order, state = np.empty(blocks, dtype=np.int32), np.array([SEED, 0], dtype=np.uint64)
    kernel.distribute(starts, run.columns, run.counts, 0, words, order, state, out)
    out.flush()
    save_array(part / SUMS, np.array([zlib.crc32(one) for one in out], dtype=np.uint32), root=part)
    return blocks, size

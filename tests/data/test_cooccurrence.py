"""Counting co-occurrences against a plain loop over the stream, however it is cut into stretches and over threads."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerwise.data.cache_folders import INDEX
from layerwise.data.source import ArraySource, Schema
from layerwise.data.text import cooccurrence_build as building
from layerwise.data.text.cooccurrence import RECORDS, Cooccurrences
from layerwise.errors import DamagedError, DataError, UsageError
from layerwise.kernels.text import END, GAP
from layerwise.runtime.owned_folders import MARKER

BLOCK = 8


def make_source(tokens: list[int] | np.ndarray) -> ArraySource:
    """A stream as a source of blocks, the last one filled up with END."""
    stream = np.asarray(tokens, dtype=np.int32)
    stream = np.concatenate([stream, np.full(-len(stream) % BLOCK, END, dtype=np.int32)])
    return ArraySource(Schema("text", (BLOCK,), "none"), stream.reshape(-1, BLOCK), None, "text")


def count_naively(tokens: list[int], window: int) -> dict[tuple[int, int], float]:
    """Sentence by sentence, in float64."""
    counts: dict[tuple[int, int], float] = defaultdict(float)
    sentences: list[list[int]] = [[]]
    for token in tokens:
        if token == END:
            sentences.append([])
        elif token != GAP:
            sentences[-1].append(token)
    for words in sentences:
        for at, word in enumerate(words):
            for distance in range(1, min(window, at) + 1):
                counts[word, words[at - distance]] += 1 / distance
                counts[words[at - distance], word] += 1 / distance
    return counts


def count_pairs(place: Path, source: ArraySource, words: int, **options: int) -> Cooccurrences:
    return building.open_cooccurrences(place, source, words, origin="text", limit=1 << 30, **options)


def get_records(counts: Cooccurrences) -> np.ndarray:
    """All records with a count, as they lie."""
    records = counts.fetch(np.arange(len(counts))).inputs
    assert isinstance(records, np.ndarray)
    records = records.reshape(-1, 3)
    return records[records[:, 2] > 0]


def to_dict(counts: Cooccurrences) -> dict[tuple[int, int], float]:
    records = get_records(counts)
    out = {(int(i), int(j)): float(x) for i, j, x in records}
    assert len(out) == len(records) == counts.index.records  # no pair twice
    return out


@given(
    tokens=st.lists(st.integers(GAP, 6), min_size=0, max_size=120),
    window=st.integers(1, 6),
    memory=st.sampled_from([8, 64, 400, 1 << 20]),  # stretches of a token, of a block, of several, of all
    threads=st.integers(1, 3),
    block=st.integers(1, 40),
    rest=st.integers(0, 3000),  # words that never come: with many, rows are listed by neighbors
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_is_the_plain_count(
    tmp_path_factory: pytest.TempPathFactory,
    tokens: list[int],
    window: int,
    memory: int,
    threads: int,
    block: int,
    rest: int,
) -> None:
    want, place = count_naively(tokens, window), tmp_path_factory.mktemp("counts")
    before, building.BLOCKS = building.BLOCKS, 1  # blocks read at once: stretches can be as short
    try:
        if not want:
            with pytest.raises(DataError, match="no word is near another"):
                count_pairs(
                    place, make_source(tokens), 7 + rest, window=window, memory=memory, threads=threads, block=block
                )
            return
        counts = count_pairs(
            place, make_source(tokens), 7 + rest, window=window, memory=memory, threads=threads, block=block
        )
    finally:
        building.BLOCKS = before
    got = to_dict(counts)
    assert got.keys() == want.keys()
    assert list(got.values()) == pytest.approx([want[pair] for pair in got], rel=1e-6)
    assert [got[j, i] for i, j in got] == pytest.approx(list(got.values()), rel=1e-6)
    assert counts.schema.shape[0] <= block
    assert [one.name for one in place.iterdir() if one.suffix != ".lock"] == [
        Path(counts.folder).name
    ]  # nothing is left of the runs
    assert {one.name for one in Path(counts.folder).iterdir()} == {RECORDS, INDEX, "sums.npy", MARKER}


def draw_zipf(length: int, words: int, *, seed: int = 0) -> np.ndarray:
    """A stream with sentences, where some words come much more often than others."""
    draw = np.random.default_rng(seed)
    stream = np.minimum(draw.zipf(1.3, length) - 1, words - 1).astype(np.int32)
    stream[draw.random(length) < 0.06] = END
    return stream


def test_the_same_bits_for_any_number_of_threads_and_nearly_for_any_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "GROUP", 500)
    monkeypatch.setattr(building, "PAIRS", 2000)
    monkeypatch.setattr(building, "BLOCKS", 16)
    source = make_source(draw_zipf(6000, 300))
    one, two, spilled = (
        get_records(count_pairs(tmp_path / name, source, 300, threads=threads, memory=memory, block=1000))
        for name, threads, memory in (("one", 1, 1 << 20), ("two", 4, 1 << 20), ("spilled", 2, 8000))
    )
    np.testing.assert_array_equal(one, two)
    assert sort_records(spilled)[:, :2].tolist() == sort_records(one)[:, :2].tolist()
    np.testing.assert_allclose(sort_records(spilled)[:, 2], sort_records(one)[:, 2], rtol=1e-6)


def sort_records(records: np.ndarray) -> np.ndarray:
    return records[np.lexsort((records[:, 1], records[:, 0]))]


def test_all_counts_sum_to_what_the_lengths_of_sentences_say(tmp_path: Path) -> None:
    """A sentence of n words has n − d pairs at distance d, each counted from both sides: 2 Σ_d (n − d)/d."""
    window, stream = 15, draw_zipf(4000, 50)
    lengths = np.diff(np.flatnonzero(np.concatenate([[END], stream, [END]]) == END)) - 1
    want = sum(2 * (n - d) / d for n in lengths for d in range(1, min(window, n - 1) + 1))
    counts = get_records(count_pairs(tmp_path, make_source(stream), 50, window=window))
    assert counts[:, 2].sum(dtype=np.float64) == pytest.approx(want, rel=1e-6)


def test_each_block_is_an_even_sample_in_the_order_of_words(tmp_path: Path) -> None:
    counts = count_pairs(tmp_path, make_source(draw_zipf(20000, 200)), 200, block=900)
    blocks = counts.fetch(np.arange(len(counts))).inputs
    assert isinstance(blocks, np.ndarray)
    assert len(blocks) == -(-counts.index.records // 900) > 5
    assert (np.diff((blocks[:, :, 2] > 0).sum(1)) <= 1).all()  # as many records in each, or one less
    rows = np.bincount(get_records(counts)[:, 0].astype(int))
    for block in blocks:
        assert (np.diff(block[block[:, 2] > 0, 0]) >= 0).all()
        share = np.bincount(block[block[:, 2] > 0, 0].astype(int), minlength=len(rows))
        assert (
            abs(share - rows / len(blocks)).max() < 2
        )  # so many rounds lie within a row, and two are shared with its neighbors
    first = np.array([block[block[:, 0] == 0, 1] for block in blocks[:2]], dtype=object)
    assert not np.array_equal(first[0], first[1])


def test_counts_are_found_again_and_made_anew_when_something_changes(tmp_path: Path) -> None:
    stream = draw_zipf(500, 20)
    counts = count_pairs(tmp_path, make_source(stream), 20)
    inode = (Path(counts.folder) / INDEX).stat().st_ino
    again = count_pairs(tmp_path, make_source(stream), 20, threads=2, memory=1 << 20)
    assert (again.folder, (Path(again.folder) / INDEX).stat().st_ino) == (counts.folder, inode)
    others = [
        count_pairs(tmp_path, make_source(stream), 20, window=4),
        count_pairs(tmp_path, make_source(stream[::-1]), 20),
        count_pairs(tmp_path, make_source(stream), 21),
    ]
    assert len({one.fingerprint() for one in (counts, *others)}) == 4
    all_counts = to_dict(counts)
    with (Path(counts.folder) / RECORDS).open("r+b") as file:
        file.truncate(100)
    assert to_dict(count_pairs(tmp_path, make_source(stream), 20)) == all_counts


def test_a_damaged_block_is_told_and_the_next_run_counts_anew(tmp_path: Path) -> None:
    stream = draw_zipf(500, 20)
    counts = count_pairs(tmp_path, make_source(stream), 20, block=50)
    all_counts = to_dict(counts)
    with (Path(counts.folder) / RECORDS).open("r+b") as file:
        file.seek(50)
        file.write(b"\xff\xff")
    with pytest.raises(DamagedError, match="not what was written"):
        Cooccurrences(counts.folder, counts.index).fetch([0])
    assert to_dict(count_pairs(tmp_path, make_source(stream), 20, block=50)) == all_counts


def test_it_is_a_source(tmp_path: Path) -> None:
    counts = count_pairs(tmp_path, make_source(draw_zipf(500, 20)), 20, block=50)
    assert (counts.schema.kind, counts.schema.target) == ("counts", "none")
    assert counts[1].input.shape == counts.schema.shape
    np.testing.assert_array_equal(counts.fetch([1, 0]).inputs, np.stack([counts[1].input, counts[0].input]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(counts))[2].input, counts[2].input)
    assert counts.name_of(1).startswith("text, co-occurrences, block 1 of ")


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    stream = make_source([0, 1, 2])
    for words in (0, (1 << 24) + 1):
        with pytest.raises(UsageError, match="to be counted in pairs"):
            count_pairs(tmp_path, stream, words)
    with pytest.raises(UsageError, match="window"):
        count_pairs(tmp_path, stream, 3, window=0)
    with pytest.raises(UsageError, match="numbers below 2"):
        count_pairs(tmp_path, stream, 2)
    with pytest.raises(DataError, match="no room"):
        building.open_cooccurrences(tmp_path, stream, 3, origin="text", limit=10)
    assert all(one.suffix == ".lock" for one in tmp_path.iterdir())

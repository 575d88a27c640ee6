"""Text as a source, against a plain tokeniser."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from layerwise.data.corpus import Recoded, corpus_of, counted
from layerwise.data.open import Options, open_data
from layerwise.data.source import Splits, fetch
from layerwise.kernels.tokens import END, GAP

LINES = [f"The cat no. {k % 7} sat on the mat, didn't it? Yes: {k}." for k in range(600)]


def opened(source: str | Path, **more: object) -> Splits:
    """Open a text with its tokens kept in the test's own folder."""
    return open_data(Options(source=str(source), cache="cache", **more), seed=0)  # type: ignore[arg-type]


def plain(lines: list[str]) -> list[list[str]]:
    """Cut English text as `words` does."""
    return [re.findall(r"[a-z0-9]+(?:'[a-z0-9]+)*", line.lower()) for line in lines]


@pytest.fixture
def path() -> Path:
    Path("text.txt").write_text("\n".join(LINES), encoding="utf-8")
    return Path("text.txt")


def test_blocks_are_the_text_in_order(path: Path) -> None:
    found = opened(path)
    corpus = corpus_of(found.train)
    assert corpus is not None
    stream = np.concatenate([corpus[i].input for i in range(len(corpus))])
    wanted = [word for line in plain(LINES) for word in (*line, "\n")]
    assert [corpus.words[t] if t >= 0 else "\n" for t in stream[: len(wanted)]] == wanted
    assert (stream[len(wanted) :] == END).all()
    assert len(stream) == len(corpus) * corpus.schema.shape[0]
    assert list(corpus.words) == list(dict.fromkeys(w for w in wanted if w != "\n"))
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == Counter(w for w in wanted if w != "\n")


def test_parts_are_blocks_that_meet_nowhere_and_are_counted_alone(path: Path) -> None:
    found = opened(path)
    ids = [set(found.part(p).indices.tolist()) for p in ("train", "val", "test")]  # type: ignore[attr-defined]
    assert sum(map(len, ids)) == len(set().union(*ids))
    assert [len(i) for i in ids] == [6, 1, 1]
    for part in ("train", "val", "test"):
        tokens = np.asarray(fetch(found.part(part), np.arange(len(found.part(part)))).inputs)
        np.testing.assert_array_equal(counted(found.part(part)), np.bincount(tokens[tokens >= 0], minlength=len(counted(found.train))))


def test_recoded_sends_ids_through_a_mapping_and_leaves_the_corpus_as_it_is(path: Path) -> None:
    found = opened(path)
    counts = counted(found.train)
    mapping = np.where(counts > 100, np.arange(len(counts)) + 7, GAP).astype(np.int32)
    recoded, before = Recoded(found.train, mapping), np.array(found.train[2].input)
    np.testing.assert_array_equal(recoded[2].input, [END if t == END else mapping[t] for t in before])
    np.testing.assert_array_equal(found.train[2].input, before)
    other = pickle.loads(pickle.dumps(recoded))
    assert other.fingerprint() == recoded.fingerprint() != found.train.fingerprint()
    np.testing.assert_array_equal(other.fetch([1, 0]).inputs, recoded.fetch([1, 0]).inputs)

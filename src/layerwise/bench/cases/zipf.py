"""Skip-gram over a vocabulary of 200,000 words, whose tables no cache holds, beside gensim's."""

from __future__ import annotations

from functools import partial

from layerwise.bench import word_vectors
from layerwise.bench.base import Case, Row, Spec
from layerwise.bench.cases.skipgram import SPEC
from layerwise.bench.side import Measurement
from layerwise.bench.word_vectors import get_skip_reason


def measure_ours(spec: Spec) -> Measurement:
    """Train as ``layerwise train`` does."""
    with word_vectors.open_zipf(spec["words"], spec["tokens"]) as texts:
        return word_vectors.train_ours(spec, texts)[0]


def measure_gensim(spec: Spec) -> Measurement:
    """Train gensim's ``Word2Vec``."""
    with word_vectors.open_zipf(spec["words"], spec["tokens"]) as texts:
        return word_vectors.train_gensim(spec, texts)[0]


CASE = Case(
    name="zipf",
    unit="words/s",
    spec={**SPEC, "words": 200_000, "tokens": 2_000_000, "min_count": 1, "epochs": 2},
    sides={"ours": measure_ours, "gensim": measure_gensim},
    rows=(Row("gensim Word2Vec, corpus_file, skip-gram, 200,000 words", "gensim", None),),
    min_runs=3,
    note="2 million words drawn ∝ 1/rank from 200,000, in sentences of 20; each occurs. Two tables of 80 MB. "
    "Otherwise as the case of "
    "skip-gram, with 2 epochs; no quality, as such text has nothing to learn",
    skip_reason=partial(get_skip_reason, "gensim"),
)

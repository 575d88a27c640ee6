"""Skip-gram over a vocabulary of 200,000 words, whose tables no cache holds, beside gensim's."""

from __future__ import annotations

from functools import partial

from layerwise.bench import words
from layerwise.bench.base import Case, Row, Spec
from layerwise.bench.cases.skipgram import SPEC
from layerwise.bench.corpora import lacking
from layerwise.bench.process import Measure


def ours(spec: Spec) -> Measure:
    """Train as ``layerwise train`` does."""
    with words.zipf(spec["words"], spec["tokens"]) as texts:
        return words.ours(spec, texts)[0]


def peer(spec: Spec) -> Measure:
    """Train gensim's ``Word2Vec``."""
    with words.zipf(spec["words"], spec["tokens"]) as texts:
        return words.gensim(spec, texts)[0]


CASE = Case(
    name="zipf",
    unit="words/s",
    spec={**SPEC, "words": 200_000, "tokens": 2_000_000, "min_count": 1, "epochs": 2},
    sides={"ours": ours, "gensim": peer},
    rows=(Row("gensim Word2Vec, corpus_file, skip-gram, 200,000 words", "gensim", None),),
    least=3,
    note="2 million words drawn ∝ 1/rank from 200,000, in sentences of 20; each occurs. Two tables of 80 MB. "
    "Otherwise as the case of "
    "skip-gram, with 2 epochs; no quality, as such text has nothing to learn",
    lacking=partial(lacking, "gensim"),
)

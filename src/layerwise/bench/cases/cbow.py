"""CBOW beside gensim's, as the case of skip-gram."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row
from layerwise.bench.cases.skipgram import NOTE, QUALITY, SPEC, measure_gensim, measure_ours
from layerwise.bench.word_vectors import get_skip_reason

CASE = Case(
    name="cbow",
    unit="words/s",
    spec={**SPEC, "model": "cbow"},
    sides={"ours": measure_ours, "gensim": measure_gensim},
    rows=(Row("gensim Word2Vec, corpus_file, CBOW", "gensim", Bound(2.0)),),
    quality=QUALITY,
    min_runs=3,
    note=NOTE,
    skip_reason=partial(get_skip_reason, "gensim", "kjv"),
)

"""CBOW beside gensim's, as the case of skip-gram."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row
from layerwise.bench.cases.skipgram import NOTE, QUALITY, SPEC, ours, peer
from layerwise.bench.corpora import lacking

CASE = Case(
    name="cbow",
    unit="words/s",
    spec={**SPEC, "model": "cbow"},
    sides={"ours": ours, "gensim": peer},
    rows=(Row("gensim Word2Vec, corpus_file, CBOW", "gensim", Bound(2.0)),),
    quality=QUALITY,
    least=3,
    note=NOTE,
    lacking=partial(lacking, "gensim", "kjv"),
)

"""Skip-gram beside gensim's, both reading the same file on two threads, with the quality of both."""

from __future__ import annotations

from functools import partial

from layerwise.bench import words
from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.corpora import lacking
from layerwise.bench.process import Measure

SPEC = {
    "model": "skipgram",
    "repeats": 7,
    "epochs": 5,
    "dim": 100,
    "window": 5,
    "negative": 5,
    "sample": 1e-3,
    "min_count": 5,
    "lr": 0.025,
    "threads": 2,
    "share": 3,
}
QUALITY = (Quality(words.LIKELIHOOD), Quality(words.AGREEMENT))
NOTE = (
    "the King James Bible in lower case, without every 20th line, seven times over, its lines in an order of "
    "their own each time and for "
    "each seed: about 5 million words. Raw words of training a second, the vocabulary's counting excluded on "
    "both sides; ours has logging "
    "and a checkpoint each epoch in its time. Both 2 threads, dimension 100, window 5, 5 negatives, sample "
    "1e-3, least count 5, 5 epochs, "
    "rate 0.025 falling linearly; skip-gram's negatives are new for every three pairs of a window in ours, "
    "for every pair in gensim's. "
    "Quality: E30 of the lines left out, in nats, with the same draws for both sides; Spearman of the "
    "cosines among the 2,000 most "
    "frequent words with those of one more run of gensim"
)


def ours(spec: Spec) -> Measure:
    """Train as ``layerwise train`` does."""
    return words.side(words.ours, spec)


def peer(spec: Spec) -> Measure:
    """Train gensim's ``Word2Vec``."""
    return words.side(words.gensim, spec)


CASE = Case(
    name="skipgram",
    unit="words/s",
    spec=SPEC,
    sides={"ours": ours, "gensim": peer},
    rows=(Row("gensim Word2Vec, corpus_file, skip-gram", "gensim", Bound(3.0)),),
    quality=QUALITY,
    least=3,
    note=NOTE,
    lacking=partial(lacking, "gensim", "kjv"),
)

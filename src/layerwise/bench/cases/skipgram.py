"""Skip-gram beside gensim's, both reading the same file on two threads, with the quality of both."""

from __future__ import annotations

from functools import partial

from layerwise.bench import word_vectors
from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement
from layerwise.bench.word_vectors import get_skip_reason

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
    "shared_negatives": 3,
}
QUALITY = (Quality(word_vectors.LIKELIHOOD), Quality(word_vectors.AGREEMENT))
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


def measure_ours(spec: Spec) -> Measurement:
    """Train as ``layerwise train`` does."""
    return word_vectors.measure_side(word_vectors.train_ours, spec)


def measure_gensim(spec: Spec) -> Measurement:
    """Train gensim's ``Word2Vec``."""
    return word_vectors.measure_side(word_vectors.train_gensim, spec)


CASE = Case(
    name="skipgram",
    unit="words/s",
    spec=SPEC,
    sides={"ours": measure_ours, "gensim": measure_gensim},
    rows=(Row("gensim Word2Vec, corpus_file, skip-gram", "gensim", Bound(3.0)),),
    quality=QUALITY,
    min_runs=3,
    note=NOTE,
    skip_reason=partial(get_skip_reason, "gensim", "kjv"),
)

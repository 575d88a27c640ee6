"""From a text file to the words, their counts and the numbered text, beside gensim's vocabulary of a
``corpus_file``."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.side import Measurement
from layerwise.bench.word_vectors import get_skip_reason
from layerwise.runtime.atomic_io import write_file
from layerwise.runtime.in_place_io import open_temporary_folder


def measure_ours(spec: Spec) -> Measurement:
    """Build the corpus: words, counts and the token file that training reads."""
    import time
    from pathlib import Path

    from layerwise.bench.word_vectors import write_corpus
    from layerwise.data.text import corpus_build
    from layerwise.data.text.text_files import TextFiles

    cutting = corpus_build.TokenizerOptions("whitespace", lower=False)
    with open_temporary_folder() as folder:
        path, words = write_corpus(folder, spec["data"], spec["words"])
        small = folder / "small.txt"
        write_file(small, b"warm up\n")
        corpus_build.open_corpus(folder / "first", TextFiles("", (str(small),)), cutting, limit=1 << 40)
        start = time.perf_counter()
        corpus = corpus_build.open_corpus(Path(folder, "second"), TextFiles("", (str(path),)), cutting, limit=1 << 40)
        seconds = time.perf_counter() - start
        return Measurement(
            words / seconds, {"different": len(corpus.words), "counted": int(corpus.counts.sum())}, {"words": words}
        )


def measure_gensim(spec: Spec) -> Measurement:
    """Build gensim's vocabulary; with vectors of one number, so that it has no tables to fill."""
    import time

    from gensim.models import Word2Vec

    from layerwise.bench.word_vectors import write_corpus

    with open_temporary_folder() as folder:
        path, words = write_corpus(folder, spec["data"], spec["words"])
        model = Word2Vec(vector_size=1, min_count=1, sample=0, workers=1)
        start = time.perf_counter()
        model.build_vocab(corpus_file=str(path))
        seconds = time.perf_counter() - start
        counted = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
        return Measurement(words / seconds, {"different": len(model.wv), "counted": int(counted)}, {"words": words})


CASE = Case(
    name="vocabulary",
    unit="words/s",
    spec={"data": "kjv", "words": 5_000_000},
    sides={"ours": measure_ours, "gensim": measure_gensim},
    rows=(Row("gensim Word2Vec.build_vocab(corpus_file=…)", "gensim", Bound(3.0)),),
    min_runs=3,
    note="the King James Bible in small letters without punctuation, repeated to about 5 million words. Both: "
    "every word kept and counted, "
    "one thread. Ours writes the numbered text to disk too, which gensim does not: it cuts the text anew in "
    "every epoch",
    skip_reason=partial(get_skip_reason, "gensim", "kjv"),
)

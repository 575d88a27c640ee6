"""From a text file to the words, their counts and the numbered text, beside gensim's vocabulary of a
``corpus_file``."""

from __future__ import annotations

from functools import partial

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.corpora import lacking
from layerwise.bench.process import Measure
from layerwise.runtime.atomic_io import open_temporary_folder, write_file


def ours(spec: Spec) -> Measure:
    """Build the corpus: words, counts and the token file that training reads."""
    import time
    from pathlib import Path

    from layerwise.bench.corpora import written
    from layerwise.data.text import corpus_build
    from layerwise.data.text.texts import Texts

    cutting = corpus_build.Cutting("whitespace", lower=False)
    with open_temporary_folder() as folder:
        path, words = written(folder, spec["data"], spec["words"])
        small = folder / "small.txt"
        write_file(small, b"warm up\n")
        corpus_build.opened(folder / "first", Texts("", (str(small),)), cutting, limit=1 << 40)
        began = time.perf_counter()
        corpus = corpus_build.opened(Path(folder, "second"), Texts("", (str(path),)), cutting, limit=1 << 40)
        seconds = time.perf_counter() - began
        return Measure(
            words / seconds, {"different": len(corpus.words), "counted": int(corpus.counts.sum())}, {"words": words}
        )


def gensim_side(spec: Spec) -> Measure:
    """Build gensim's vocabulary; with vectors of one number, so that it has no tables to fill."""
    import time

    from gensim.models import Word2Vec

    from layerwise.bench.corpora import written

    with open_temporary_folder() as folder:
        path, words = written(folder, spec["data"], spec["words"])
        model = Word2Vec(vector_size=1, min_count=1, sample=0, workers=1)
        began = time.perf_counter()
        model.build_vocab(corpus_file=str(path))
        seconds = time.perf_counter() - began
        counted = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
        return Measure(words / seconds, {"different": len(model.wv), "counted": int(counted)}, {"words": words})


CASE = Case(
    name="vocabulary",
    unit="words/s",
    spec={"data": "kjv", "words": 5_000_000},
    sides={"ours": ours, "gensim": gensim_side},
    rows=(Row("gensim Word2Vec.build_vocab(corpus_file=…)", "gensim", Bound(3.0)),),
    least=3,
    note="the King James Bible in small letters without punctuation, repeated to about 5 million words. Both: "
    "every word kept and counted, "
    "one thread. Ours writes the numbered text to disk too, which gensim does not: it cuts the text anew in "
    "every epoch",
    lacking=partial(lacking, "gensim", "kjv"),
)

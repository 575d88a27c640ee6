"""From a text file to counted pairs of words in random order, beside Stanford's C programs."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.side import Measurement
from layerwise.bench.stanford import get_skip_reason


def measure_ours(spec: Spec) -> Measurement:
    """Tokenize the text, build the vocabulary, count the pairs and shuffle them."""
    import time

    import torch

    from layerwise.bench import word_vectors

    torch.set_num_threads(spec["threads"])
    with word_vectors.open_texts([["warm", "up", "warm", "up"]], [], repeats=spec["min_count"], seed=0) as small:
        _count_pairs(spec, small)
    with word_vectors.open_bible(spec["repeats"], spec["seed"]) as texts:
        start = time.perf_counter()
        pairs, total = _count_pairs(spec, texts)
        return Measurement(texts.total / (time.perf_counter() - start), facts={"pairs": pairs, "sum": total})


def _count_pairs(spec: Spec, texts: object) -> tuple[int, float]:
    """Count a text's pairs as ``layerwise train glove`` does; return how many there are, and the sum of a block's
    counts."""
    from pathlib import Path

    from layerwise.bench.word_vectors import Texts
    from layerwise.data.text import cooccurrence_build, corpus_build
    from layerwise.data.text.text_files import TextFiles as Files
    from layerwise.tasks.vocabulary import WordInputs

    assert isinstance(texts, Texts)
    folder, cutting = Path(texts.folder), corpus_build.TokenizerOptions("whitespace", lower=False)
    corpus = corpus_build.open_corpus(folder / "corpora", Files("", (str(texts.train),)), cutting, limit=1 << 40)
    inputs = WordInputs.fit(corpus, min_count=spec["min_count"], largest=0)
    cooccurrences = cooccurrence_build.open_cooccurrences(
        folder / "pairs",
        inputs.convert_source(corpus),
        len(inputs.words),
        origin="text",
        limit=1 << 40,
        window=spec["window"],
    )
    return cooccurrences.index.records, float(cooccurrences[0].input[:, 2].sum())


def measure_stanford(spec: Spec, *, counting_alone: bool) -> Measurement:
    """Run the C programs: the counting of pairs alone, or with the vocabulary before and the shuffling after it."""
    from layerwise.bench import word_vectors
    from layerwise.bench.stanford import Programs
    from layerwise.runtime.in_place_io import open_temporary_folder

    with word_vectors.open_bible(spec["repeats"], spec["seed"]) as texts, open_temporary_folder() as work:
        programs = Programs(texts.train, work, spec)
        first, seconds = programs.count_words(), programs.count_pairs()
        if not counting_alone:
            seconds += first + programs.shuffle()
        return Measurement(texts.total / seconds, facts={"pairs": programs.records})


CASE = Case(
    name="cooccurrence",
    unit="words/s",
    spec={"repeats": 7, "window": 15, "min_count": 5, "threads": 2},
    sides={
        "ours": measure_ours,
        "cooccur": lambda spec: measure_stanford(spec, counting_alone=True),
        "all three": lambda spec: measure_stanford(spec, counting_alone=False),
    },
    rows=(
        Row("Stanford's cooccur alone, its vocabulary given", "cooccur", Bound(1.5)),
        Row("Stanford's vocab_count, cooccur and shuffle", "all three", None),
    ),
    min_runs=3,
    note="the King James Bible in lower case, without every 20th line, seven times over: about 5 million words, "
    "least count 5, window 15. "
    "Words of text a second, from the file to pairs on disk. Ours always has the cutting, the vocabulary and "
    "the random order in its time, "
    "and two threads for the pairs; the C programs have one",
    skip_reason=get_skip_reason,
)

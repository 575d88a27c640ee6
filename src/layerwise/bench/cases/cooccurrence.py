"""From a text file to counted pairs of words in random order, beside Stanford's C programs."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Row, Spec
from layerwise.bench.process import Measure
from layerwise.bench.stanford import lacking


def ours(spec: Spec) -> Measure:
    """Cut the text, make the vocabulary, count the pairs and deal them out."""
    import time

    import torch

    from layerwise.bench import words

    torch.set_num_threads(spec["threads"])
    with words.written([["warm", "up", "warm", "up"]], [], repeats=spec["min_count"], seed=0) as small:
        _counted(spec, small)
    with words.bible(spec["repeats"], spec["seed"]) as texts:
        began = time.perf_counter()
        pairs, total = _counted(spec, texts)
        return Measure(texts.total / (time.perf_counter() - began), facts={"pairs": pairs, "sum": total})


def _counted(spec: Spec, texts: object) -> tuple[int, float]:
    """Count a text's pairs as ``layerwise train glove`` does; return how many there are, and the sum of a block's
    counts."""
    from pathlib import Path

    from layerwise.bench.words import Texts
    from layerwise.data.text import cooccurrence_build, corpus_build
    from layerwise.data.text.texts import Texts as Files
    from layerwise.tasks.vocabulary import WordInputs

    assert isinstance(texts, Texts)
    place, cutting = Path(texts.folder), corpus_build.Cutting("whitespace", lower=False)
    corpus = corpus_build.opened(place / "corpora", Files("", (str(texts.train),)), cutting, limit=1 << 40)
    inputs = WordInputs.fit(corpus, min_count=spec["min_count"], largest=0)
    found = cooccurrence_build.opened(
        place / "pairs",
        inputs.adopt(corpus),
        len(inputs.words),
        origin="text",
        limit=1 << 40,
        window=spec["window"],
    )
    return found.index.records, float(found[0].input[:, 2].sum())


def theirs(spec: Spec, *, counting_alone: bool) -> Measure:
    """Run the C programs: the counting of pairs alone, or with the vocabulary before and the shuffling after it."""
    from layerwise.bench import words
    from layerwise.bench.stanford import Programs
    from layerwise.runtime.atomic_io import open_temporary_folder

    with words.bible(spec["repeats"], spec["seed"]) as texts, open_temporary_folder() as work:
        programs = Programs(texts.train, work, spec)
        first, seconds = programs.vocabulary(), programs.count()
        if not counting_alone:
            seconds += first + programs.shuffle()
        return Measure(texts.total / seconds, facts={"pairs": programs.records})


CASE = Case(
    name="cooccurrence",
    unit="words/s",
    spec={"repeats": 7, "window": 15, "min_count": 5, "threads": 2},
    sides={
        "ours": ours,
        "cooccur": lambda spec: theirs(spec, counting_alone=True),
        "all three": lambda spec: theirs(spec, counting_alone=False),
    },
    rows=(
        Row("Stanford's cooccur alone, its vocabulary given", "cooccur", Bound(1.5)),
        Row("Stanford's vocab_count, cooccur and shuffle", "all three", None),
    ),
    least=3,
    note="the King James Bible in lower case, without every 20th line, seven times over: about 5 million words, "
    "least count 5, window 15. "
    "Words of text a second, from the file to pairs on disk. Ours always has the cutting, the vocabulary and "
    "the random order in its time, "
    "and two threads for the pairs; the C programs have one",
    lacking=lacking,
)

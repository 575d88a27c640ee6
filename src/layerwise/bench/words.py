"""What the cases of word vectors share: the text, the peer, and how good vectors are.

The text is the King James Bible in lower case, letters only, without every 20th line, repeated, its lines in another
order each time.
Each seed has orders of its own: our side goes through the blocks of a text in random order, the peer from front to
back, and vectors learned over one and the same order are more alike than others. The lines left out tell how likely
their windows are; and over the most frequent words the cosines of a side are ranked beside those of one more run of the
peer.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerwise.bench.base import Spec
from layerwise.bench.process import Measure
from layerwise.functional.retrieval_metrics import spearman
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import make_folder, open_replacing, open_temporary_folder

Floats = NDArray[np.floating[Any]]
HELD_OUT = 20  # every so manyth line
COMPARED = 2000  # most frequent words whose cosines are compared
LIKELIHOOD, AGREEMENT = "held-out log-likelihood", "agreement with another run of the peer"
ANOTHER = 10_000  # the seed of the peer's run that both sides are compared with


@dataclass(frozen=True)
class Vectors:
    """What was learned: a row of ``vectors`` and of ``context`` for each word."""

    words: Sequence[str]
    vectors: Floats
    context: Floats


@dataclass(frozen=True)
class Texts:
    """A folder with the parts ``train``, ``val`` and ``test`` as text files; how often each word is in training; the
    lines left out."""

    folder: Path
    counts: Mapping[str, int]
    held_out: Sequence[Sequence[str]]

    @property
    def train(self) -> Path:
        """The file to train on."""
        return self.folder / "train" / "text.txt"

    @property
    def total(self) -> int:
        """The words to train on."""
        return sum(self.counts.values())


@contextmanager
def bible(repeats: int, seed: int) -> Iterator[Texts]:
    """Write the text of the cases, gone afterwards. Raises `DataError` where the King James Bible is nowhere."""
    from layerwise.data.download import datasets

    text = (datasets.folder_of("kjv") / "kjv.txt").read_text(encoding="utf-8")
    lines = [line for line in map(_words, text.splitlines()) if line]
    with written(
        [line for n, line in enumerate(lines) if n % HELD_OUT], lines[::HELD_OUT], repeats=repeats, seed=seed
    ) as texts:
        yield texts


@contextmanager
def zipf(words: int, tokens: int) -> Iterator[Texts]:
    """Write sentences of 20 words drawn ∝ 1/rank, each word at least once, gone afterwards."""
    draw = np.random.default_rng(0)
    chance = 1 / np.arange(1, words + 1)
    numbers = np.concatenate([np.arange(words), draw.choice(words, size=tokens - words, p=chance / chance.sum())])
    draw.shuffle(numbers)
    names = np.array([f"w{k}" for k in range(words)])
    lines = [names[part].tolist() for part in np.array_split(numbers, len(numbers) // 20)]
    with written(lines, lines[:HELD_OUT], repeats=1, seed=0) as texts:
        yield texts


@contextmanager
def written(
    train: Sequence[Sequence[str]], held_out: Sequence[Sequence[str]], *, repeats: int, seed: int
) -> Iterator[Texts]:
    """Write the parts as files of lines, in another order each time."""
    counts = Counter(word for line in train for word in line)
    draw = np.random.default_rng(seed)
    with open_temporary_folder() as place:
        folder = place / "text"
        for part, lines, times in (("train", train, repeats), ("val", held_out, 1), ("test", held_out, 1)):
            make_folder(folder / part)
            with open_replacing(folder / part / "text.txt") as file:
                for _ in range(times):
                    file.writelines((" ".join(lines[k]) + "\n").encode() for k in draw.permutation(len(lines)))
        yield Texts(folder, {word: repeats * count for word, count in counts.items()}, held_out)


def _words(line: str) -> list[str]:
    """Return a line's words, which every side's tokenizer then leaves as they are."""
    return re.findall("[a-z]+", line.lower().replace("'", "").replace("’", ""))


def ours(spec: Spec, texts: Texts) -> tuple[Measure, Vectors]:
    """Train as ``layerwise train`` does."""
    from layerwise.bench.training import request, trained
    from layerwise.inference.predict import load
    from layerwise.nn.word_vectors import Predictive
    from layerwise.tasks.words import Words

    settings = (
        f"model.dim={spec['dim']}",
        f"task.window={spec['window']}",
        f"task.negative={spec['negative']}",
        f"task.sample={spec['sample']}",
        f"task.min_count={spec['min_count']}",
        f"rule.lr={spec['lr']}",
        f"rule.share={spec['share'] if spec['model'] == 'skipgram' else 1}",
        "train.validate=false",
    )
    asked = request(spec["model"], {**spec, "data": str(texts.folder)}, settings)
    with trained(asked) as done:
        blocks = done.outcome.info["examples"]["train"]
        run = load(done.outcome.directory.path)
        assert isinstance(run.model, Predictive)
        assert isinstance(run.task, Words)
        tables = [p.detach().numpy() for p in (run.model.vectors.weight, run.model.context.weight)]
        found = Vectors(run.task.inputs.words, *tables)
        return Measure(done.examples_per_second * texts.total / blocks, facts=done.facts), found


def gensim(spec: Spec, texts: Texts) -> tuple[Measure, Vectors]:
    """Train gensim's ``Word2Vec`` from the file, which releases the GIL; its time is that of training alone, without
    the vocabulary."""
    import gensim as package
    from gensim.models import Word2Vec

    model = Word2Vec(
        vector_size=spec["dim"],
        window=spec["window"],
        negative=spec["negative"],
        sample=spec["sample"],
        min_count=spec["min_count"],
        alpha=spec["lr"],
        sg=int(spec["model"] == "skipgram"),
        workers=spec["threads"],
        seed=spec["seed"],
    )
    model.build_vocab(corpus_file=str(texts.train))
    began = time.perf_counter()
    model.train(
        corpus_file=str(texts.train),
        total_words=model.corpus_total_words,
        total_examples=model.corpus_count,
        epochs=spec["epochs"],
    )
    seconds = time.perf_counter() - began
    facts = {"gensim": package.__version__, "workers": spec["threads"]}
    return Measure(spec["epochs"] * texts.total / seconds, facts=facts), Vectors(
        model.wv.index_to_key, model.wv.vectors, model.syn1neg
    )


def judged(spec: Spec, texts: Texts, measure: Measure, found: Vectors) -> Measure:
    """Return a measurement with the quality of what was learned."""
    common = sorted(
        (w for w, count in texts.counts.items() if count >= spec["min_count"]), key=lambda w: (-texts.counts[w], w)
    )
    mine = aligned(found, common)
    other = another(spec, common)
    quality = {
        LIKELIHOOD: log_likelihood(spec, texts, mine),
        AGREEMENT: spearman(cosines(mine.vectors), cosines(other)),
    }
    return Measure(measure.value, quality, measure.facts)


def aligned(found: Vectors, words: Sequence[str]) -> Vectors:
    """Return the rows of these words, in this order."""
    place = {word: n for n, word in enumerate(found.words)}
    rows = [place[word] for word in words]
    return Vectors(words, found.vectors[rows], found.context[rows])


def another(spec: Spec, common: Sequence[str]) -> Floats:
    """Return the vectors of one more run of the peer; made once for a spec, kept among the temporary files."""
    told = {name: value for name, value in spec.items() if name != "seed"}
    key = hashlib.sha256(strict_json.dumps([told, len(common)], sort_keys=True).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"layerwise-bench-gensim-{key}.npy"
    if not path.is_file():
        with bible(spec["repeats"], ANOTHER) as texts:
            vectors = aligned(gensim({**spec, "seed": ANOTHER}, texts)[1], common).vectors
        with open_replacing(path) as file:
            np.save(file, vectors)
    vectors_: Floats = np.load(path)
    return vectors_


def log_likelihood(spec: Spec, texts: Texts, found: Vectors) -> float:
    """Return E30 of the lines left out, in nats: the mean over pairs (CBOW: windows), thinned out and with negatives as
    in training.

    The draws are the same for every side.
    """
    draw = np.random.default_rng(0)
    counts = np.array([texts.counts[word] for word in found.words], dtype=np.float64)
    f = counts / (spec["sample"] * counts.sum())
    keep = (np.sqrt(f) + 1) / f
    noise = counts**0.75 / (counts**0.75).sum()
    number = {word: n for n, word in enumerate(found.words)}
    windows: list[tuple[int, list[int]]] = []
    for line in texts.held_out:
        stay = [n for n in (number[word] for word in line if word in number) if draw.random() < keep[n]]
        for i, center in enumerate(stay):
            radius = int(draw.integers(1, spec["window"] + 1))
            windows.append((center, stay[max(0, i - radius) : i] + stay[i + 1 : i + radius + 1]))
    one_by_one = spec["model"] == "skipgram"
    pairs = (
        [(c, [w]) for c, around in windows for w in around]
        if one_by_one
        else [(c, around) for c, around in windows if around]
    )
    x = np.stack([found.vectors[around].mean(0) for _, around in pairs])
    centers = np.array([c for c, _ in pairs])
    total = -np.logaddexp(0, -(x * found.context[centers]).sum(1)).sum()
    for _ in range(spec["negative"]):
        total -= np.logaddexp(0, (x * found.context[draw.choice(len(counts), size=len(pairs), p=noise)]).sum(1)).sum()
    return float(total / len(pairs))


def cosines(vectors: Floats) -> Floats:
    """Return the cosines of the most frequent words with each other, each pair once."""
    top = vectors[:COMPARED] / np.linalg.norm(vectors[:COMPARED], axis=1, keepdims=True)
    found: Floats = (top @ top.T)[np.triu_indices(len(top), 1)]
    return found


def side(train: Any, spec: Spec) -> Measure:
    """Measure a side on the King James Bible, with quality."""
    with bible(spec["repeats"], spec["seed"]) as texts:
        return judged(spec, texts, *train(spec, texts))

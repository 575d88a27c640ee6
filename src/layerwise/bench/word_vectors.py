"""Shared by the cases of word vectors: the texts, the peer, and the quality of vectors.

The text is the King James Bible in lower case, letters only, without every 20th line, repeated, its lines in another
order each time.
Each seed has its own orders: our side reads the blocks of a text in random order, the peer from front to back, and
vectors learned over the same order are more alike than others. The lines left out give a log-likelihood; and the
cosines among the most frequent words are compared in rank with those of one more run of the peer.
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
from layerwise.bench.side import Measurement
from layerwise.functional.retrieval_metrics import spearman
from layerwise.runtime import strict_json
from layerwise.runtime.atomic_io import make_folder, open_replacing, write_file
from layerwise.runtime.in_place_io import open_temporary_folder

Floats = NDArray[np.floating[Any]]
WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
HELD_OUT = 20  # every 20th line is left out
COMPARED = 2000  # most frequent words whose cosines are compared
LIKELIHOOD, AGREEMENT = "held-out log-likelihood", "agreement with another run of the peer"
ANOTHER = 10_000  # the seed of the peer's run that both sides are compared with


@dataclass(frozen=True)
class Vectors:
    """The trained vectors: a row of ``vectors`` and of ``context`` for each word."""

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
def open_bible(repeats: int, seed: int) -> Iterator[Texts]:
    """Write the text of the cases into a temporary folder. Raises `DataError` if the King James Bible is missing."""
    from layerwise.data.download import datasets

    text = (datasets.get_dataset_folder("kjv") / "kjv.txt").read_text(encoding="utf-8")
    lines = [line for line in map(_split_words, text.splitlines()) if line]
    with open_texts(
        [line for n, line in enumerate(lines) if n % HELD_OUT], lines[::HELD_OUT], repeats=repeats, seed=seed
    ) as texts:
        yield texts


@contextmanager
def open_zipf(words: int, tokens: int) -> Iterator[Texts]:
    """Write sentences of 20 words drawn ∝ 1/rank, each word at least once, into a temporary folder."""
    generator = np.random.default_rng(0)
    probabilities = 1 / np.arange(1, words + 1)
    numbers = np.concatenate(
        [np.arange(words), generator.choice(words, size=tokens - words, p=probabilities / probabilities.sum())]
    )
    generator.shuffle(numbers)
    names = np.array([f"w{k}" for k in range(words)])
    lines = [names[part].tolist() for part in np.array_split(numbers, len(numbers) // 20)]
    with open_texts(lines, lines[:HELD_OUT], repeats=1, seed=0) as texts:
        yield texts


@contextmanager
def open_texts(
    train: Sequence[Sequence[str]], held_out: Sequence[Sequence[str]], *, repeats: int, seed: int
) -> Iterator[Texts]:
    """Write the parts as files of lines, in another order each time, into a temporary folder."""
    counts = Counter(word for line in train for word in line)
    generator = np.random.default_rng(seed)
    with open_temporary_folder() as root:
        folder = root / "text"
        for part, lines, times in (("train", train, repeats), ("val", held_out, 1), ("test", held_out, 1)):
            make_folder(folder / part)
            with open_replacing(folder / part / "text.txt") as file:
                for _ in range(times):
                    file.writelines((" ".join(lines[k]) + "\n").encode() for k in generator.permutation(len(lines)))
        yield Texts(folder, {word: repeats * count for word, count in counts.items()}, held_out)


def write_corpus(folder: Path, name: str, words: int) -> tuple[Path, int]:
    """Write a named English text, in small letters and without punctuation, repeated to about ``words``
    words.

    Returns the file and the words in it.
    """
    from layerwise.data.download import datasets

    lines = [
        WORD.findall(line.lower())
        for path in sorted(datasets.get_dataset_folder(name).iterdir())
        for line in path.open(encoding="utf-8")
    ]
    once = sum(map(len, lines))
    times = max(1, round(words / once))
    path = folder / f"{name}.txt"
    write_file(path, ("".join(" ".join(line) + "\n" for line in lines if line) * times).encode())
    return path, once * times


def get_skip_reason(package: str, name: str = "") -> str:
    """Return what is missing of a peer's package and a named text; empty: nothing."""
    from importlib.util import find_spec

    from layerwise.data.download import datasets

    if name and not datasets.is_available(name):
        return f"the text {name} is not here"
    return "" if find_spec(package) else f"the package {package} is not installed"


def _split_words(line: str) -> list[str]:
    """Return a line's words, which every side's tokenizer then leaves as they are."""
    return re.findall("[a-z]+", line.lower().replace("'", "").replace("’", ""))


def train_ours(spec: Spec, texts: Texts) -> tuple[Measurement, Vectors]:
    """Train as ``layerwise train`` does."""
    from layerwise.bench.training import make_request, train_run
    from layerwise.inference.predict import load_run
    from layerwise.nn.word_vectors import Word2VecModel
    from layerwise.tasks.words import Words

    settings = (
        f"model.dim={spec['dim']}",
        f"task.window={spec['window']}",
        f"task.negative={spec['negative']}",
        f"task.sample={spec['sample']}",
        f"task.min_count={spec['min_count']}",
        f"rule.lr={spec['lr']}",
        f"rule.shared_negatives={spec['shared_negatives'] if spec['model'] == 'skipgram' else 1}",
        "train.validate=false",
    )
    request = make_request(spec["model"], {**spec, "data": str(texts.folder)}, settings)
    with train_run(request) as run:
        blocks = run.outcome.info["examples"]["train"]
        loaded = load_run(run.outcome.directory.path)
        assert isinstance(loaded.model, Word2VecModel)
        assert isinstance(loaded.task, Words)
        tables = [p.detach().numpy() for p in (loaded.model.vectors.weight, loaded.model.context.weight)]
        vectors = Vectors(loaded.task.inputs.words, *tables)
        return Measurement(run.examples_per_second * texts.total / blocks, facts=run.facts), vectors


def train_gensim(spec: Spec, texts: Texts) -> tuple[Measurement, Vectors]:
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
    start = time.perf_counter()
    model.train(
        corpus_file=str(texts.train),
        total_words=model.corpus_total_words,
        total_examples=model.corpus_count,
        epochs=spec["epochs"],
    )
    seconds = time.perf_counter() - start
    facts = {"gensim": package.__version__, "workers": spec["threads"]}
    return Measurement(spec["epochs"] * texts.total / seconds, facts=facts), Vectors(
        model.wv.index_to_key, model.wv.vectors, model.syn1neg
    )


def score_vectors(spec: Spec, texts: Texts, measurement: Measurement, vectors: Vectors) -> Measurement:
    """Return a measurement with the quality of what was learned."""
    common = sorted(
        (w for w, count in texts.counts.items() if count >= spec["min_count"]), key=lambda w: (-texts.counts[w], w)
    )
    ours = select_rows(vectors, common)
    other = train_reference(spec, common)
    quality = {
        LIKELIHOOD: compute_log_likelihood(spec, texts, ours),
        AGREEMENT: spearman(compute_cosines(ours.vectors), compute_cosines(other)),
    }
    return Measurement(measurement.value, quality, measurement.facts)


def select_rows(vectors: Vectors, words: Sequence[str]) -> Vectors:
    """Return the rows of these words, in this order."""
    index = {word: n for n, word in enumerate(vectors.words)}
    rows = [index[word] for word in words]
    return Vectors(words, vectors.vectors[rows], vectors.context[rows])


def train_reference(spec: Spec, common: Sequence[str]) -> Floats:
    """Return the vectors of one more run of the peer; trained once for a spec and cached among the temporary files."""
    key_fields = {name: value for name, value in spec.items() if name != "seed"}
    key = hashlib.sha256(strict_json.dumps([key_fields, len(common)], sort_keys=True).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"layerwise-bench-gensim-{key}.npy"
    if not path.is_file():
        with open_bible(spec["repeats"], ANOTHER) as texts:
            vectors = select_rows(train_gensim({**spec, "seed": ANOTHER}, texts)[1], common).vectors
        with open_replacing(path) as file:
            np.save(file, vectors)
    reference: Floats = np.load(path)
    return reference


def compute_log_likelihood(spec: Spec, texts: Texts, vectors: Vectors) -> float:
    """Return E30 of the lines left out, in nats: the mean over pairs (CBOW: windows), with subsampling and negatives as
    in training.

    The draws are the same for every side.
    """
    generator = np.random.default_rng(0)
    counts = np.array([texts.counts[word] for word in vectors.words], dtype=np.float64)
    f = counts / (spec["sample"] * counts.sum())
    keep = (np.sqrt(f) + 1) / f
    noise = counts**0.75 / (counts**0.75).sum()
    number = {word: n for n, word in enumerate(vectors.words)}
    windows: list[tuple[int, list[int]]] = []
    for line in texts.held_out:
        stay = [n for n in (number[word] for word in line if word in number) if generator.random() < keep[n]]
        for i, center in enumerate(stay):
            radius = int(generator.integers(1, spec["window"] + 1))
            windows.append((center, stay[max(0, i - radius) : i] + stay[i + 1 : i + radius + 1]))
    one_by_one = spec["model"] == "skipgram"
    pairs = (
        [(c, [w]) for c, context in windows for w in context]
        if one_by_one
        else [(c, context) for c, context in windows if context]
    )
    x = np.stack([vectors.vectors[context].mean(0) for _, context in pairs])
    centers = np.array([c for c, _ in pairs])
    total = -np.logaddexp(0, -(x * vectors.context[centers]).sum(1)).sum()
    for _ in range(spec["negative"]):
        total -= np.logaddexp(
            0, (x * vectors.context[generator.choice(len(counts), size=len(pairs), p=noise)]).sum(1)
        ).sum()
    return float(total / len(pairs))


def compute_cosines(vectors: Floats) -> Floats:
    """Return the cosines of the most frequent words with each other, each pair once."""
    top = vectors[:COMPARED] / np.linalg.norm(vectors[:COMPARED], axis=1, keepdims=True)
    cosines: Floats = (top @ top.T)[np.triu_indices(len(top), 1)]
    return cosines


def measure_side(train: Any, spec: Spec) -> Measurement:
    """Measure a side on the King James Bible, with quality."""
    with open_bible(spec["repeats"], spec["seed"]) as texts:
        return score_vectors(spec, texts, *train(spec, texts))

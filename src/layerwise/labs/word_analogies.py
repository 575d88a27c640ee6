"""C20: word vectors put similar words close and carry analogies; GloVe adds global counts.

``V`` words, ``Q`` questions, ``R`` rows and ``C`` columns. T. Mikolov et al., NeurIPS 2013 and NAACL 2013; J.
Pennington et al., EMNLP 2014. The one idea: the text is in an artificial language whose similar and analogous words
are known, though the text never states them. A word belongs to a row (a country) and to a column (its capital, its
river …), and only its context tells which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from layerwise.data.loader import BatchSampler, MemoryBatches, collate_source
from layerwise.data.text.corpus import Corpus
from layerwise.data.text.corpus_build import TokenizerOptions, open_corpus
from layerwise.data.text.text_files import TextFiles
from layerwise.embeddings.sources import export_table
from layerwise.functional import similarity
from layerwise.functional.retrieval_metrics import mean_reciprocal_rank
from layerwise.labs.base import (
    Cell,
    Check,
    Column,
    Findings,
    Lab,
    Lang,
    Mode,
    Table,
    Text,
    compute_interval,
    format_signed,
    use_one_thread,
)
from layerwise.labs.figures import BLUE, GREEN, ORANGE, SIZE, add_headline
from layerwise.models.word_vectors import cbow, glove, skipgram
from layerwise.rules import hogwild
from layerwise.rules.base import Context
from layerwise.rules.hogwild import HogwildOptions
from layerwise.runtime import rng
from layerwise.runtime.atomic_io import write_file
from layerwise.runtime.distributed import World
from layerwise.runtime.in_place_io import open_temporary_folder
from layerwise.tasks.base import Task
from layerwise.tasks.cooccurrence import CoOccurrence, CoOccurrenceOptions
from layerwise.tasks.words import Words, WordsOptions
from layerwise.training.loop import Cursor, run_steps
from layerwise.weights.vectors import VectorTable

Ids = NDArray[np.int64]
Learner = Callable[["Language", Corpus, int], VectorTable]
DIM, BLOCKS, LEAST = 32, 32, 5  # of the vectors; blocks of text a batch; occurrences that a word needs
COLUMNS, NEAR, LENGTH = 4, 6, 9  # columns; words of the company of a row or column; words of a sentence
COMMON = 60  # words without information, as frequent as in any language
QUESTIONS = 400
NAMES = {
    "skipgram": Text("skip-gram", "skip-gram"),
    "cbow": Text("CBOW", "CBOW"),
    "glove": Text("GloVe", "GloVe"),
}
COLORS = {"skipgram": BLUE, "cbow": ORANGE, "glove": GREEN}


@dataclass(frozen=True)
class Plan:
    """Rows of the language, sentences of the text, passes over it for each learner, and seeds."""

    rows: int
    sentences: int
    epochs: Mapping[str, int]
    seeds: int


PLANS: dict[Mode, Plan] = {
    "quick": Plan(15, 5_000, {"skipgram": 5, "cbow": 10, "glove": 15}, 3),
    "normal": Plan(25, 20_000, {"skipgram": 5, "cbow": 10, "glove": 15}, 5),
    "full": Plan(40, 60_000, {"skipgram": 5, "cbow": 10, "glove": 15}, 8),
}


@dataclass(frozen=True)
class Language:
    """A language: the words of row r and column c are ``r3c1``; its sentences, drawn by a seed."""

    rows: int
    lines: tuple[str, ...]
    epochs: Mapping[str, int]

    @property
    def cells(self) -> list[list[str]]:
        """The words by row and column."""
        return [[f"r{r}c{c}" for c in range(COLUMNS)] for r in range(self.rows)]


def draw_language(plan: Plan, seed: int, *, company: bool = True) -> Language:
    """Draw a language's text: each sentence has one word of the table, some of its row's company, some of its column's,
    and common words.

    ``company=False`` shuffles the same words over all sentences, so that co-occurrences carry nothing.
    """
    generator = rng.make_numpy_generator("word-analogies", seed)
    count, common = plan.sentences, 1 / np.arange(1, COMMON + 1)
    row, column = generator.integers(plan.rows, size=count), generator.integers(COLUMNS, size=count)
    context = (("a", row), ("a", row), ("b", column), ("b", column))
    parts = [
        ("r{}c{}", row, column),
        *((f"{kind}{{}}x{{}}", of, generator.integers(NEAR, size=count)) for kind, of in context),
    ]
    words = []
    for form, first, second in parts:
        words.append([form.format(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    for _ in range(LENGTH - len(words)):
        drawn = generator.choice(COMMON, count, p=common / common.sum())
        words.append([f"w{n}" for n in drawn.tolist()])
    table = generator.permuted(np.array(words).T, axis=1)  # (sentences, LENGTH)
    if not company:
        table = generator.permutation(table.ravel()).reshape(table.shape)
    return Language(plan.rows, tuple(map(" ".join, table.tolist())), plan.epochs)


# -- learning ----------------------------------------------------------------------------------------------------------


def build_corpus(text: Language, folder: Path) -> Corpus:
    """Return a language's text as the corpus of a training."""
    path = folder / "text.txt"
    write_file(path, ("\n".join(text.lines) + "\n").encode())
    return open_corpus(folder / "corpora", TextFiles(str(path), (str(path),)), TokenizerOptions(), limit=1 << 32)


def train_vectors(
    net: nn.Module, task: Task, corpus: Corpus, *, options: HogwildOptions, epochs: int, seed: int
) -> None:
    """Train word vectors in place, as in a run."""
    batch = collate_source(task.convert_source(corpus), task.collate, 1)
    context = Context(
        net, task, dict(net.named_parameters()), World(), seed, "fp32", batch_size=BLOCKS, examples=len(batch)
    )
    rule = hogwild.build_hogwild(context, options)
    for _ in run_steps(rule, MemoryBatches(batch, BatchSampler(len(batch), BLOCKS, seed)), epochs, Cursor()):
        pass


def train_predictive(text: Language, corpus: Corpus, seed: int, *, pooled: bool) -> VectorTable:
    """Return the vectors of skip-gram or CBOW."""
    task = Words.prepare(corpus, WordsOptions(min_count=LEAST, sample=1e-2))
    name = "cbow" if pooled else "skipgram"
    torch.manual_seed(seed)
    net = (cbow if pooled else skipgram)(**task.model_args(), dim=DIM)
    train_vectors(
        net, task, corpus, options=HogwildOptions(lr=0.1 if pooled else 0.05), epochs=text.epochs[name], seed=seed
    )
    return export_table(net, task.inputs)  # type: ignore[arg-type]


def train_glove(text: Language, corpus: Corpus, seed: int) -> VectorTable:
    """Return the vectors of GloVe."""
    task = CoOccurrence.prepare(corpus, CoOccurrenceOptions(min_count=LEAST, window=LENGTH - 1, x_max=10.0))
    torch.manual_seed(seed)
    net = glove(words=len(task.inputs.words), dim=DIM)
    train_vectors(
        net, task, corpus, options=HogwildOptions(lr=0.02, schedule="constant"), epochs=text.epochs["glove"], seed=seed
    )
    return export_table(net, task.inputs)  # type: ignore[arg-type]


LEARNERS: dict[str, Learner] = {
    "skipgram": partial(train_predictive, pooled=False),
    "cbow": partial(train_predictive, pooled=True),
    "glove": train_glove,
}


# -- measuring ---------------------------------------------------------------------------------------------------------


def draw_questions(text: Language, seed: int) -> list[list[str]]:
    """Draw analogies: two rows and two columns, r₁c₁ : r₁c₂ = r₂c₁ : r₂c₂."""
    generator = rng.make_numpy_generator("word-analogies questions", seed)
    questions = []
    for _ in range(QUESTIONS):
        rows, columns = generator.choice(text.rows, 2, replace=False), generator.choice(COLUMNS, 2, replace=False)
        questions.append([f"r{r}c{c}" for r in rows for c in columns])
    return questions


def rank_analogies(vectors: VectorTable, rows: Ids) -> list[Ids]:
    """Return the rank of the correct word for each analogy (Q, 4) among all words but the three given."""
    scores = similarity.score_analogies(vectors.unit, *rows[:, :3].T)
    right = np.take_along_axis(scores, rows[:, 3:], 1)
    return list(1 + (scores > right).sum(1, keepdims=True))


def compute_closeness(vectors: VectorTable, text: Language) -> float:
    """Return how often a similar word is closer than a dissimilar one: the area under the ROC curve of
    cosines.

    Words of the same row or column are similar; chance is a half.
    """
    cells = [
        (r, c, vectors.index[word]) for r, row in enumerate(text.cells) for c, word in enumerate(row) if word in vectors
    ]
    r, c, index = (np.array(column) for column in zip(*cells, strict=True))
    first, second = np.triu_indices(len(index), 1)
    cosines = (vectors.unit[index] @ vectors.unit[index].T)[first, second]
    alike = (r[first] == r[second]) | (c[first] == c[second])
    near, far = cosines[alike], np.sort(cosines[~alike])
    below = (np.searchsorted(far, near, "left") + np.searchsorted(far, near, "right")) / 2  # of equals half
    return float(below.mean() / len(far))


@dataclass(frozen=True)
class Score:
    """Mean reciprocal rank of analogies and closeness of alike words, of the vectors and of these shuffled;
    coverage."""

    analogies: float
    chance: float
    alike: float
    alike_chance: float
    coverage: float

    @property
    def margin(self) -> float:
        """By how much analogies beat chance."""
        return self.analogies - self.chance


def score_vectors(vectors: VectorTable, text: Language, seed: int) -> Score:
    """Score vectors against the same vectors assigned to other words."""
    rows = vectors.rows([word for line in draw_questions(text, seed) for word in line]).reshape(-1, 4)
    known = rows[(rows >= 0).all(1)]
    order = rng.make_numpy_generator("word-analogies chance", seed).permutation(len(vectors))
    other = VectorTable(vectors.words, vectors.matrix[order])
    ranks = [mean_reciprocal_rank(rank_analogies(table, known)) for table in (vectors, other)]
    alike = [compute_closeness(table, text) for table in (vectors, other)]
    return Score(ranks[0], ranks[1], alike[0], alike[1], len(known) / len(rows))


def measure(
    mode: Mode,
    *,
    learners: Mapping[str, Learner] = LEARNERS,
    draw: Callable[[Plan, int], Language] = draw_language,
    plan: Plan | None = None,
) -> Findings:
    """Train each learner's vectors on a language, seed by seed, and test analogies and similar words.

    Args:
        mode: the size of the language, and seeds.
        learners: the learner of each role; an exchanged one is a counter-experiment.
        draw: draws the language.
        plan: other numbers than the mode's.
    """
    plan = plan or PLANS[mode]
    scores: dict[str, list[Score]] = {name: [] for name in learners}
    with use_one_thread():
        for seed in range(plan.seeds):
            text = draw(plan, seed)
            with open_temporary_folder() as folder:
                corpus = build_corpus(text, folder)
                for name, learner in learners.items():
                    scores[name].append(score_vectors(learner(text, corpus, seed), text, seed))
    margins = tuple(min(scores[name][seed].margin for name in scores) for seed in range(plan.seeds))
    return Findings(margins, 0.0, _build_checks(scores), _build_table(scores), partial(_draw, scores))


def _build_checks(scores: Mapping[str, Sequence[Score]]) -> tuple[Check, ...]:
    """Return the checks: similar words are close, for every learner, and nearly all questions could be
    asked."""
    gains = {}
    for name, of_learner in scores.items():
        gains[name] = compute_interval([score.alike - score.alike_chance for score in of_learner])
    least = min(gains, key=lambda name: gains[name].low)
    coverage = min(score.coverage for of_learner in scores.values() for score in of_learner)
    gain = gains[least]
    span = f"{format_signed(gain.mean)} [{format_signed(gain.low)}, {format_signed(gain.high)}]"
    return (
        Check(
            Text(
                "alike words lie close: more often closer than unlike ones than with shuffled vectors, "
                f"least so {NAMES[least].en}: {span}",
                f"相似的词彼此靠近：比不相似的词更近的比例高于打乱的词向量，差距最小的是 {NAMES[least].zh}：{span}",
            ),
            gain.low > 0,
        ),
        Check(
            Text(
                f"coverage: {coverage:.0%} of the questions or more could be asked",
                f"覆盖率：至少 {coverage:.0%} 的题目可问",
            ),
            coverage >= 0.95,
        ),
    )


def _build_table(scores: Mapping[str, Sequence[Score]]) -> Table:
    """Return the mean scores of each learner."""
    columns = (
        Column(Text("vectors", "词向量")),
        Column(Text("analogies, MRR", "类比 MRR"), ".3f"),
        Column(Text("shuffled", "打乱后"), ".3f"),
        Column(Text("alike words closer", "相似词更近"), ".3f"),
        Column(Text("shuffled", "打乱后"), ".3f"),
        Column(Text("coverage", "覆盖率"), ".0%"),
    )
    keys = ("analogies", "chance", "alike", "alike_chance", "coverage")
    rows: list[tuple[Cell, ...]] = []
    for name, of_learner in scores.items():
        means = [float(np.mean([getattr(score, key) for score in of_learner])) for key in keys]
        rows.append((NAMES[name], *means))
    return Table(columns, tuple(rows))


def _draw(scores: Mapping[str, Sequence[Score]], lang: Lang) -> Figure:
    """Draw both measures as bars, each beside that of the shuffled vectors."""
    figure = Figure(figsize=SIZE)
    add_headline(
        figure,
        Text("The company of words tells what is alike and what is analogous", "词的上下文道出何者相似、何者可类比"),
        Text(
            "mean of the seeds (dots); gray: the same vectors dealt out to other words",
            "各种子（点）的平均；灰色：同样的词向量打乱分给别的词",
        ),
        lang=lang,
    )
    panels = (
        (Text("analogies: mean reciprocal rank", "类比：平均倒数排名"), "analogies", "chance"),
        (Text("alike words closer than unlike: share", "相似词比不相似词更近的比例"), "alike", "alike_chance"),
    )
    for panel, (title, key, other) in enumerate(panels):
        axes = figure.add_axes((0.07 + 0.48 * panel, 0.1, 0.42, 0.64))
        for center, (name, of_learner) in enumerate(scores.items()):
            values, chance = ([getattr(score, field) for score in of_learner] for field in (key, other))
            axes.bar(center - 0.19, float(np.mean(values)), 0.36, color=COLORS[name], alpha=0.85)
            axes.bar(center + 0.19, float(np.mean(chance)), 0.36, color="#9aa3ad")
            axes.plot([center - 0.19] * len(values), values, "o", color="#1d2430", markersize=3.5)
            for x, value in ((center - 0.19, float(np.mean(values))), (center + 0.19, float(np.mean(chance)))):
                axes.text(
                    x,
                    max(value, *(values if x < center else chance)) + 0.025,
                    f"{value:.2f}",
                    ha="center",
                    fontsize=12.5,
                )
        axes.set_xticks(range(len(scores)), [NAMES[name].of(lang) for name in scores])
        axes.set(ylim=(0, 1.14), yticks=[0, 0.25, 0.5, 0.75, 1])
        axes.grid(axis="x", visible=False)
        axes.set_title(title.of(lang), loc="left", fontsize=14)
    return figure


LAB = Lab(
    name="word-analogies",
    claim_id="C20",
    title=Text("word vectors put similar words close and carry analogies", "词向量让相似的词靠近，并承载类比"),
    claim=Text(
        "Vectors learned from the neighbors of words alone put similar words close and carry analogies: "
        "word2vec's, learned on "
        "the way through the text, and GloVe's, fitted to global counts that are gathered once.",
        "只从词的上下文学到的词向量，让相似的词靠近，并承载类比：word2vec 逐遍读文本来学，GloVe "
        "则拟合一次收集的全局计数。",
    ),
    formula=Text(
        "analogy      a : b = c : argmax over d of cos(d, b − a + c)\n"
        "word2vec     log σ(v·u) + Σ log σ(−v·uₙ)                 u a neighbor, uₙ drawn words\n"
        "GloVe        f(X) (v·u + b + b′ − log X)²                X how often both stand together\n"
        "MRR          mean of 1 / rank of the right answer among all words\n"
        "closer       share of pairs (alike, unlike) of which the alike one has the larger cosine",
        "类比         a : b = c : 使 cos(d, b − a + c) 最大的 d\n"
        "word2vec     log σ(v·u) + Σ log σ(−v·uₙ)                 u 为上下文词，uₙ 为随机抽取的词\n"
        "GloVe        f(X) (v·u + b + b′ − log X)²                X 为两词共现的次数\n"
        "MRR          正确答案在全部词中排名的倒数，取平均\n"
        "更近         （相似，不相似）词对中，相似的一对余弦更大的比例",
    ),
    method=Text(
        "A language is made up: words in a table of rows (countries) and columns (country, capital, river "
        "…). A sentence has one word of "
        "the table, two words of its row's company, two of its column's, and common words as frequent as in "
        "any language (Zipf); the order "
        "is drawn. Two words of the table never stand in one sentence, so that nothing but their company "
        "makes them alike. Skip-gram, CBOW "
        "and GloVe learn from the same text. Then 400 analogies over two rows and two columns are asked, and "
        "the right answer's rank is taken among all words; and of every alike and unlike pair of the table "
        "(of one row or column, or of "
        "neither) it is asked which is closer. The measure of chance is the same vectors dealt out to other words.",
        "造一种语言：词排成表，行如国家，列如国名、首都、河流……。一个句子含表中的一个词、"
        "其所在行的两个伴随词、所在列的两个伴随词，"
        "以及若干常用词（频率服从 Zipf 定律），次序随机。表中任何两个词都不同句，因此只有共同的伴随词能使它们相似。"
        "skip-gram、CBOW 与 GloVe 读同一份文本。然后问 400 道类比题（两行两列），"
        "取正确答案在全部词中的排名；再对表中的相似词对（同行或同列）与不相似词对逐一比较，看哪一对更近。"
        "随机水平用同样的词向量打乱分给别的词来测。",
    ),
    margin=Text(
        "the analogies' mean reciprocal rank minus that of shuffled vectors, of the learner for which it is least",
        "类比的平均倒数排名减去打乱的词向量的平均倒数排名，取三种方法中最小者",
    ),
    held=Text(
        "Who stands with whom is enough to tell what is alike, and differences of vectors are then "
        "relations. That the language was made "
        "of rows and columns makes it easier than a real one, where a word belongs to several things and "
        "rare words keep little company.",
        "知道谁与谁同现，就足以判断何者相似；词向量之差便是关系。这种语言由行与列构成，比真实语言容易："
        "真实的词不止属于一类，"
        "罕见词的上下文也少。",
    ),
    refuted=Text(
        "Here the claim did not hold: one of the learners answered analogies no better than its own vectors "
        "shuffled, or alike words were "
        "not close. Look at the table and the checks.",
        "此处论断不成立：某种方法回答类比不比打乱的词向量更好，或者相似的词并不靠近。请看表格与各项检查。",
    ),
    experiment=measure,
)

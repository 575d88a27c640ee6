"""Words from their neighbors: what word2vec learns, how likely held-out windows are, and predictions about words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.source import Array, Examples, Source
from layerwise.errors import UsageError
from layerwise.functional import word2vec_likelihood
from layerwise.kernels.text import END
from layerwise.nn.word_vectors import NearestWords, Word2VecModel, WordVectors
from layerwise.recipe import Fraction, NonNegativeInt, PositiveInt
from layerwise.tasks.base import Export, Goal, Loss, Output, PredictionModule, Task
from layerwise.tasks.records import WordTaskRecord
from layerwise.tasks.vocabulary import KINDS, WordInputs

NEIGHBORS = 10  # neighbors in a prediction
NOISE = 1024  # negatives that held-out windows are measured with, the same for every model
BLOCKS_AT_ONCE = 64  # blocks that are measured at once: 64 Ki tokens of the usual block
LossName = Literal["negative", "hierarchical"]


class VocabularyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``min_count``: how often a word must occur in the training part to get a vector; ``max_words`` keeps the most
    frequent, 0: all."""

    min_count: PositiveInt = 5
    max_words: NonNegativeInt = 0


class WordsOptions(VocabularyOptions, frozen=True, forbid_unknown_fields=True):
    """``window``: words on each side that belong together, of which training takes 1 … window, drawn evenly. ``loss``:
    against ``negative`` words drawn ∝ count^``power``, or down a Huffman tree. ``sample``: occurrences of words more
    frequent than this share of the text are thinned out in training (0: none are)."""

    window: PositiveInt = 5
    loss: LossName = "negative"
    negative: PositiveInt = 5
    power: Fraction = 0.75
    sample: Fraction = 1e-3


class WordPrediction(msgspec.Struct, frozen=True):
    """A prediction about words.

    ``asked``: what kind of question it was; ``word`` and ``similarity`` (a cosine): the nearest word, the one compared,
    or the odd one out; ``nearest``: words by falling cosine, without those asked with, or the listed ones; ``vector``
    (D,): of a mean, the mean itself.
    """

    asked: str
    word: str
    similarity: float
    nearest: dict[str, float]
    vector: list[float] | None = None


@dataclass
class NegativeLogLikelihoodMeter:
    """Mean negative log-likelihood of held-out windows."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add each block's loss and the pairs or windows it covers, (N, 2)."""
        self.sums += outputs.double().sum(0).cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the two sums."""
        return {"sums": self.sums}

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add another meter's sums."""
        self.sums = self.sums + other["sums"]

    def result(self) -> dict[str, float]:
        """Return ``loss``: nats for each pair (skip-gram) or window (CBOW)."""
        total, count = self.sums.tolist()
        return {"loss": total / max(1.0, count)}


@dataclass
class WordTask(Task):
    """What tasks about words share: a vocabulary, options, and predictions for questions."""

    Options: ClassVar[type[VocabularyOptions]]
    inputs: WordInputs
    options: VocabularyOptions

    @classmethod
    def prepare(cls, source: Source, options: msgspec.Struct, given: dict[str, Any] | None = None) -> Self:
        """Make the vocabulary of the training part."""
        assert isinstance(options, cls.Options)
        if given:
            return cls.from_json(given)
        return cls(WordInputs.fit(source, min_count=options.min_count, largest=options.max_words), options)

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary and the options."""
        return {"name": self.name, "inputs": self.inputs.to_json(), "options": msgspec.to_builtins(self.options)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """Restore the task from `to_json`'s output."""
        record = msgspec.convert(saved, WordTaskRecord)
        return cls(WordInputs.from_record(record.inputs), msgspec.convert(record.options, cls.Options))

    def prediction_model(self, model: nn.Module) -> nn.Module:
        """Return the module that maps questions to cosines. Raises `UsageError` for a network without word vectors."""
        return NearestWords(require_word_vectors(model))

    def decode(self, outputs: Tensor, batch: Batch) -> list[msgspec.Struct]:
        """Turn cosines with every word and the asked-for sum, (N, V + D), into predictions."""
        words = len(self.inputs.words)
        return [
            self._decode_question(row[:words], row[words:], asked)
            for row, asked in zip(outputs.float().cpu(), batch.input_tensor.float().cpu(), strict=True)
        ]

    def _decode_question(self, cosines: Tensor, vector: Tensor, asked: Tensor) -> WordPrediction:
        """Predict from one question (T, 2), encoded as `WordInputs.encode` says."""
        names = self.inputs.words
        kind = KINDS[int(asked[0, 1])]
        ids, weights = asked[1:, 0].long(), asked[1:, 1]
        listed = ids[(ids >= 0) & (weights == 0)].tolist()
        if listed:
            order = sorted(listed, key=lambda number: -float(cosines[number]))
            nearest = {names[number]: float(cosines[number]) for number in order}
            word = names[order[-1]]
            return WordPrediction(kind, word, nearest[word], nearest)
        free = cosines.clone()
        free[ids[ids >= 0]] = -torch.inf
        values, top = free.topk(min(NEIGHBORS, len(names)))
        nearest = {names[n]: float(v) for n, v in zip(top.tolist(), values.tolist(), strict=True) if v > -torch.inf}
        word = next(iter(nearest), "")
        return WordPrediction(kind, word, nearest.get(word, 0.0), nearest, vector.tolist() if kind == "mean" else None)

    def export_module(self, model: nn.Module) -> Export:
        """Return the module that maps questions to cosines, with the nearest word's number, (N,)."""
        words = len(self.inputs.words)
        outputs = (
            Output("cosines", "the cosine with every word, then the asked-for sum of unit vectors"),
            Output("nearest", "the number of the word with the largest cosine, the question's own words included"),
        )
        return Export(
            PredictionModule(self.prediction_model(model), lambda cosines, x: cosines[:, :words].argmax(1).float()),
            outputs,
        )


@dataclass
class Words(WordTask):
    """Predict each word's neighbors from it (E30), or it from them."""

    name = "words"
    Options = WordsOptions
    goal: ClassVar[Goal] = Goal("loss", False)
    options: WordsOptions

    def model_args(self) -> dict[str, Any]:
        """Return ``words``, and ``outputs``: as many, or one less with a tree."""
        words = len(self.inputs.words)
        return {"words": words, "outputs": words - (self.options.loss == "hierarchical")}

    def convert_source(self, source: Source) -> Source:
        """Return the text by the vocabulary's numbers."""
        return self.inputs.convert_source(source)

    def collate(self, examples: Examples) -> Batch:
        """Turn blocks into (N, L) int32."""
        return Batch(self.inputs.tensor(examples.inputs), None, torch.from_numpy(examples.ids))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return each block's loss in nats and the expected pairs or windows that it covers, (N, 2)."""
        words = require_predictive(model)
        measure, score = (
            word2vec_likelihood.cbow_log_likelihood if words.pooled else word2vec_likelihood.skipgram_log_likelihood,
            self._make_score(words),
        )
        gain = torch.cat(
            [
                measure(
                    word2vec_likelihood.split_sentences(part, end=END),
                    words.vectors.weight,
                    score,
                    window=self.options.window,
                    blocks=len(part),
                )
                for part in batch.input_tensor.split(BLOCKS_AT_ONCE)
            ]
        )
        return gain * gain.new_tensor([-1.0, 1.0])

    def _make_score(self, words: Word2VecModel) -> word2vec_likelihood.WindowScore:
        """Return the score of a vector and the word it is to predict."""
        outputs = words.context.weight
        if self.options.loss == "hierarchical":
            nodes, signs = (torch.from_numpy(array).to(outputs.device) for array in self._paths)
            return word2vec_likelihood.score_hierarchical_softmax(outputs, nodes, signs)
        return word2vec_likelihood.score_negative_sampling(
            outputs, torch.from_numpy(self.choose_negatives()).to(outputs.device), count=self.options.negative
        )

    @cached_property
    def _paths(self) -> tuple[Array, Array]:
        """Each word's path down the tree, built once: every batch of an evaluation needs it."""
        return build_paths(self.inputs.frequencies)

    def choose_negatives(self) -> Array:
        """Return the negatives that held-out windows are measured with, (S,) int64, evenly spread over P ∝
        count^power."""
        share = np.cumsum(self.inputs.frequencies.astype(np.float64) ** self.options.power)
        return np.searchsorted(share / share[-1], (np.arange(NOISE) + 0.5) / NOISE)

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the expected loss of a batch's pairs or windows (E30), summed."""
        outputs = self.outputs(model, batch)
        return Loss(
            outputs[:, 0].sum(), float(outputs[:, 1].sum()), {"negative log-likelihood": outputs[:, 0].sum()}, outputs
        )

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each block's mean loss, (N,)."""
        return outputs[:, 0] / outputs[:, 1].clamp_min(1e-9)

    def meter(self) -> NegativeLogLikelihoodMeter:
        """Return a new meter of the mean log-likelihood."""
        return NegativeLogLikelihoodMeter()


def build_paths(counts: Array) -> tuple[Array, Array]:
    """Return each word's path down the Huffman tree of counts (V,): inner nodes (V, longest) int64, and the signs
    there, 0 beyond."""
    from layerwise.kernels.text import huffman  # numba is slow to import

    tree = huffman.build_huffman_tree(counts)
    step = np.arange(tree.lengths.max())
    inside = step < tree.lengths[:, None]
    at = np.where(inside, tree.starts[:, None] + step, 0)
    return np.where(inside, tree.nodes[at], 0).astype(np.int64), np.where(inside, 2 * tree.signs[at] - 1, 0).astype(
        np.float32
    )


def require_word_vectors(model: nn.Module) -> WordVectors:
    """Return a network that holds word vectors. Raises `UsageError` for others."""
    if isinstance(model, WordVectors):
        return model
    raise UsageError(
        "only a network with vectors for words answers questions about words",
        expected="skipgram, cbow or glove",
        received=type(model).__name__,
    )


def require_predictive(model: nn.Module) -> Word2VecModel:
    """Return a network that predicts words from their neighbors. Raises `UsageError` for others."""
    if isinstance(model, Word2VecModel):
        return model
    raise UsageError(
        "this network does not predict words from their neighbors",
        expected="skipgram or cbow",
        received=type(model).__name__,
    )

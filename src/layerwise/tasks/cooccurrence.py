"""Co-occurrence: the product of two words' vectors is to be the logarithm of how often they stand together (E31)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import msgspec
import torch
from torch import Tensor, nn

from layerwise.data.cooccurrence import counted_pairs
from layerwise.data.corpus import counted
from layerwise.data.loader import Batch
from layerwise.data.source import Examples, Source
from layerwise.errors import UsageError
from layerwise.functional.glove import errors
from layerwise.nn.word_vectors import GlobalVectors
from layerwise.recipe import Count, Positive, Share
from layerwise.tasks.base import Goal, Loss
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import LikelihoodMeter, VocabularyOptions, WordTask


class CoOccurrenceOptions(VocabularyOptions, frozen=True, forbid_unknown_fields=True):
    """``window``: words on each side that are counted, by 1/distance. f(x) = min(1, (x/``x_max``)^``alpha``)."""

    window: Count = 15
    x_max: Positive = 100.0
    alpha: Share = 0.75


@dataclass
class CoOccurrence(WordTask):
    """L = Σ f(X)(wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ − log X)² over the pairs that occur (E31), mean over them.

    A held-out part is smaller than the training part, and so are its counts: they are raised by the ratio of the words in both.
    """

    name = "co-occurrence"
    Options = CoOccurrenceOptions
    goal: ClassVar[Goal] = Goal("loss", False)
    options: CoOccurrenceOptions

    @classmethod
    def prepare(cls, source: Source, options: msgspec.Struct, given: dict[str, Any] | None = None) -> Self:
        """Make the vocabulary of the training part."""
        assert isinstance(options, CoOccurrenceOptions)
        if given:
            return cls.from_json(given)
        return cls(WordInputs.fit(source, min_count=options.min_count, largest=options.max_words), options)

    def adopt(self, source: Source) -> Source:
        """Count the pairs of a text's words, on disk, in random order."""
        coded = self.inputs.adopt(source)
        mapping = self.inputs.mapping
        kept = counted(source)
        del mapping, kept
        return counted_pairs(coded, len(self.inputs.words), window=self.options.window)

    def collate(self, examples: Examples) -> Batch:
        """Turn blocks of records into (N, L, 3) float32: i, j, X; X is 0 where a block is not full."""
        return Batch(torch.from_numpy(examples.inputs), None, torch.from_numpy(examples.ids))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return each block's weighted squared error and how many pairs it covers, (N, 2) float64."""
        words = global_vectors(model)
        records = batch.inputs
        found = errors(
            words.vectors.weight, words.context.weight, words.bias, words.context_bias, records, x_max=self.options.x_max,
            alpha=self.options.alpha,
        )  # fmt: skip
        return torch.stack([found.double().sum(1), (records[..., 2] > 0).double().sum(1)], 1)

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the weighted squared error of a batch's pairs (E31), summed."""
        found = self.outputs(model, batch)
        return Loss(found[:, 0].sum(), float(found[:, 1].sum()), {"weighted squared error": found[:, 0].sum()}, found)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each block's mean error, (N,)."""
        return outputs[:, 0] / outputs[:, 1].clamp_min(1)

    def meter(self) -> LikelihoodMeter:
        """Return a meter of the mean error."""
        return LikelihoodMeter()

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary and the options."""
        return {"name": self.name, "inputs": self.inputs.to_json(), "options": msgspec.to_builtins(self.options)}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """Make the task again from what `to_json` returned."""
        return cls(WordInputs.from_json(saved["inputs"]), msgspec.convert(saved["options"], CoOccurrenceOptions))


def global_vectors(model: nn.Module) -> GlobalVectors:
    """Return a network that fits co-occurrences. Raises `UsageError` for others."""
    if isinstance(model, GlobalVectors):
        return model
    raise UsageError("this network does not fit co-occurrences", expected="glove", received=type(model).__name__)

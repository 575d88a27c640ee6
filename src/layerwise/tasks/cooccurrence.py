"""Co-occurrence: the product of two words' vectors fits the logarithm of how often they occur together (E31)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.source import Examples, Source
from layerwise.errors import UsageError
from layerwise.functional.word_vectors import glove_weight
from layerwise.nn.word_vectors import GlobalVectors
from layerwise.recipe import Fraction, PositiveFloat, PositiveInt
from layerwise.tasks.base import Goal, Loss
from layerwise.tasks.vocabulary import get_corpus
from layerwise.tasks.words import VocabularyOptions, WordTask

LIMIT = 10 * 2**30  # bytes of counts on disk


class CoOccurrenceOptions(VocabularyOptions, frozen=True, forbid_unknown_fields=True):
    """``window``: words on each side that are counted, by 1/distance. f(x) = min(1, (x/``x_max``)^``alpha``)."""

    window: PositiveInt = 15
    x_max: PositiveFloat = 100.0
    alpha: Fraction = 0.75


@dataclass
class CooccurrenceMeter:
    """How well products of vectors fit log counts, up to a constant. Holds seven sums over the pairs.

    With ẑ = wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ, y = log X and weights f: their number, Σf, Σfẑ, Σfy, Σfẑ², Σfy², Σfẑy.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(7, dtype=torch.float64))

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add each pair's ẑ, y and f, (N, L, 3); f is 0 where there is no pair."""
        z, y, f = outputs.double().unbind(-1)
        products = [(f > 0).double(), f, f * z, f * y, f * z * z, f * y * y, f * z * y]
        self.sums += torch.stack([part.sum() for part in products]).cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the sums."""
        return {"sums": self.sums}

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add another meter's sums."""
        self.sums = self.sums + other["sums"]

    def result(self) -> dict[str, float]:
        """Return ``loss``, the mean of f(ẑ − y − c)² with the best c, and ``correlation``, Pearson's of ẑ and y,
        weighted by f.

        c accounts for the size of the text: a part of a hundredth of it has counts a hundredth as large.
        """
        pairs, f, z, y, zz, yy, zy = self.sums.tolist()
        if not f:
            return {"loss": 0.0, "correlation": 0.0}
        total = zz - 2 * zy + yy - (z - y) ** 2 / f
        spread = (zz - z * z / f) * (yy - y * y / f)
        return {
            "loss": max(0.0, total) / pairs,
            "correlation": (zy - z * y / f) / math.sqrt(spread) if spread > 0 else 0.0,
        }


@dataclass
class CoOccurrence(WordTask):
    """L = Σ f(X)(wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ − log X)² over the pairs that occur (E31), mean over them."""

    name = "co-occurrence"
    Options = CoOccurrenceOptions
    goal: ClassVar[Goal] = Goal("correlation", True)
    options: CoOccurrenceOptions

    def model_args(self) -> dict[str, Any]:
        """Return ``words``, and ``outputs``: as many contexts."""
        return {**self.inputs.model_args(), "outputs": len(self.inputs.words)}

    def convert_source(self, source: Source) -> Source:
        """Count the pairs of a text's words; the counts are stored next to the text's tokens, in random order."""
        from layerwise.data.text.cooccurrence_build import open_cooccurrences  # numba is slow to import

        corpus = get_corpus(source)
        return open_cooccurrences(
            Path(corpus.folder).parent / "co-occurrences",
            self.inputs.convert_source(source),
            len(self.inputs.words),
            origin=corpus.index.origin,
            limit=LIMIT,
            window=self.options.window,
        )

    def collate(self, examples: Examples) -> Batch:
        """Turn blocks of records into (N, L, 3) float32: i, j, X; X is 0 where a block is not full."""
        assert not isinstance(examples.inputs, list)
        return Batch(torch.from_numpy(examples.inputs), None, torch.from_numpy(examples.ids))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return each pair's wᵢᵀw̃ⱼ + bᵢ + b̃ⱼ, log X and f(X), (N, L, 3); zeros where there is no pair."""
        words, x = require_global_vectors(model), batch.input_tensor[..., 2]
        i, j = batch.input_tensor[..., 0].long(), batch.input_tensor[..., 1].long()
        z = (words.vectors(i) * words.context(j)).sum(-1) + words.bias[i] + words.context_bias[j]
        outputs = torch.stack([z, x.log(), glove_weight(x, x_max=self.options.x_max, alpha=self.options.alpha)], -1)
        return torch.where((x > 0).unsqueeze(-1), outputs, torch.zeros_like(outputs))

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the weighted squared error of a batch's pairs (E31), summed."""
        outputs = self.outputs(model, batch)
        total = weighted_squared_errors(outputs).sum()
        return Loss(total, float((outputs[..., 2] > 0).sum()), {"weighted squared error": total}, outputs)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each block's mean error, (N,)."""
        return weighted_squared_errors(outputs).sum(1) / (outputs[..., 2] > 0).sum(1).clamp_min(1)

    def meter(self) -> CooccurrenceMeter:
        """Return a new meter of the fit."""
        return CooccurrenceMeter()


def weighted_squared_errors(outputs: Tensor) -> Tensor:
    """Return f·(ẑ − y)² of pairs (N, L, 3)."""
    return outputs[..., 2] * (outputs[..., 0] - outputs[..., 1]).square()


def require_global_vectors(model: nn.Module) -> GlobalVectors:
    """Return a network that fits co-occurrences. Raises `UsageError` for others."""
    if isinstance(model, GlobalVectors):
        return model
    raise UsageError("this network does not fit co-occurrences", expected="glove", received=type(model).__name__)

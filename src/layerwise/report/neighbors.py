"""What the page shows of word vectors: some words, and the words nearest to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from layerwise.inference.predict import Predictor
from layerwise.tasks.base import Task
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import WordPrediction

ROWS, SHOWN = 16, 6
FREQUENT = 30  # the most frequent words say little: articles, prepositions


def neighbors(model: nn.Module, task: Task) -> list[dict[str, Any]] | None:
    """Return words, evenly spread over the ranks of the frequent half, with their counts and neighbors; None for other
    tasks."""
    if not isinstance(task.inputs, WordInputs):
        return None
    words = task.inputs.words
    first = min(FREQUENT, len(words) // 4)
    last = max(first, min(len(words) // 2, 40 * ROWS) - 1)
    picked = [words[int(n)] for n in torch.linspace(first, last, min(ROWS, last - first + 1))]
    answers = Predictor(task.answering(model), task)(*picked)
    return [
        {
            "word": word,
            "count": task.inputs.counts[task.inputs.numbers[word]],
            "nearest": list(answer.nearest.items())[:SHOWN],
        }
        for word, answer in zip(picked, answers, strict=True)
        if isinstance(answer, WordPrediction)
    ]

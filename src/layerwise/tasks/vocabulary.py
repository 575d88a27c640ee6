"""Words as inputs: a vocabulary, and questions about words as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from layerwise.data.source import Array, Source
from layerwise.data.text.corpus import Corpus, Recoded, count_words, find_corpus
from layerwise.errors import DataError, UsageError, find_nearest
from layerwise.kernels.text import GAP
from layerwise.tasks.inputs import Inputs
from layerwise.tasks.records import WordInputsRecord

TERMS = 64  # words in a question
Kind = Literal["neighbors", "analogy", "mean", "similarity", "odd one out"]
KINDS: tuple[Kind, ...] = ("neighbors", "analogy", "mean", "similarity", "odd one out")
HEAD = -2.0  # marks the first row of an encoded question, which holds its kind


class Question(NamedTuple):
    """A question: its kind, the words that are summed with their weights, and the words to compare."""

    kind: Kind
    terms: tuple[tuple[str, float], ...]
    listed: tuple[str, ...] = ()


def parse_question(text: str) -> Question:
    """Read a question.

    ``king - man + woman`` is an analogy, ``cup ~ mug`` asks for the similarity, ``cat, dog, stone`` for the odd one
    out, a single word for its neighbors, and several for the neighbors of their mean. Raises `UsageError` for one
    without words.
    """
    words = text.split()
    if not words:
        raise UsageError(
            "there is no word in the question", expected="a word, king - man + woman, cup ~ mug, or cat, dog, stone"
        )
    if "~" in words:
        a, _, b = text.partition("~")
        one, other = a.split(), b.split()
        if len(one) != 1 or len(other) != 1:
            raise UsageError("two words are compared", expected="a question like cup ~ mug", received=f"'{text}'")
        return Question("similarity", ((one[0], 1.0),), (other[0],))
    if any(sign in words for sign in "+-"):
        return Question("analogy", _parse_terms(words, text))
    if "," in text or "，" in text or "、" in text:
        listed = tuple(part.strip() for part in re.split("[,，、]", text) if part.strip())
        if len(listed) < 3:
            raise UsageError("the odd one out is looked for among three words or more", received=f"'{text}'")
        return Question("odd one out", tuple((word, 1.0) for word in listed), listed)
    return Question("neighbors" if len(words) == 1 else "mean", tuple((word, 1.0) for word in words))


def _parse_terms(words: Sequence[str], text: str) -> tuple[tuple[str, float], ...]:
    """Return the terms of a sum. Raises `UsageError` for one that lacks a word, or a sign, somewhere."""
    terms: list[tuple[str, float]] = []
    sign = 1.0
    wants_word = True
    for word in words:
        if word in "+-":
            if wants_word and (terms or word == "+"):
                break
            sign, wants_word = (1.0 if word == "+" else -1.0), True
        elif wants_word:
            terms.append((word, sign))
            wants_word = False
        else:
            wants_word = True
            break
    if wants_word:
        raise UsageError(
            "a sum of words has a sign between any two", expected="king - man + woman", received=f"'{text}'"
        )
    return tuple(terms)


@dataclass(frozen=True)
class WordInputs(Inputs):
    """A vocabulary: ``words`` by falling count in the training part, and their ``counts``."""

    kind = "text"
    words: tuple[str, ...]
    counts: tuple[int, ...]
    numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {word: number for number, word in enumerate(self.words)})

    @classmethod
    def fit(cls, source: Source, *, min_count: int, largest: int) -> Self:
        """Count the words of the training part and keep those that occur often enough, the ``largest`` most frequent
        (0: all).

        Raises `DataError` where fewer than two are left.
        """
        corpus, counts = get_corpus(source), count_words(source)
        order = np.argsort(-counts, kind="stable")
        selected = order[counts[order] >= min_count]
        selected = selected[:largest] if largest else selected
        if len(selected) < 2:
            most = int(counts.max(initial=0))
            raise DataError(
                f"{corpus.index.origin} has too few words for vectors",
                expected=f"two words at least that occur {min_count} times",
                received=f"{len(counts)} different words, the most frequent {most} times",
                do="lower task.min_count, or give more text",
            )
        return cls(tuple(corpus.words[int(i)] for i in selected), tuple(counts[selected].tolist()))

    @cached_property
    def frequencies(self) -> Array:
        """The counts, (V,) int64."""
        return np.asarray(self.counts, dtype=np.int64)

    def map_words(self, words: Sequence[str]) -> Array:
        """Return the vocabulary's numbers of a corpus's words, int32, `GAP` for those outside."""
        return np.fromiter((self.numbers.get(word, GAP) for word in words), dtype=np.int32, count=len(words))

    def convert_source(self, source: Source) -> Source:
        """Return the corpus with its words by this vocabulary's numbers. Raises `DataError` for what is no text."""
        return Recoded(source, self.map_words(get_corpus(source).words))

    def notes(self, source: Source) -> tuple[str, ...]:
        """Return the share of words outside the vocabulary, where it is over 20 %."""
        counts = count_words(source)
        outside = int(counts[self.map_words(get_corpus(source).words) < 0].sum())
        share = outside / max(1, int(counts.sum()))
        return (f"{share:.1%} of the words are outside the vocabulary",) if share > 0.2 else ()

    def tensor(self, inputs: Array | list[Array]) -> Tensor:
        """Return blocks (N, L) as int32."""
        assert not isinstance(inputs, list)
        return torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.int32))

    def encode(self, raw: object) -> Tensor:
        """Turn a question (`parse_question`) into (T, 2) float32: a head, then words by number with their weights in
        the sum, then the listed ones.

        Raises `UsageError` for text that is no question, and `DataError` for a word outside the vocabulary.
        """
        if not isinstance(raw, str):
            raise UsageError("a question about words is text", received=type(raw).__name__)
        asked = parse_question(raw)
        if 1 + len(asked.terms) + len(asked.listed) > TERMS:
            raise UsageError(f"a question has at most {TERMS // 2 - 1} words", received=str(len(asked.terms)))
        out = torch.full((TERMS, 2), -1.0)
        out[:, 1] = 0
        out[0] = torch.tensor([HEAD, float(KINDS.index(asked.kind))])
        rows = [(self.find_number(word), weight) for word, weight in asked.terms] + [
            (self.find_number(word), 0.0) for word in asked.listed
        ]
        out[1 : 1 + len(rows)] = torch.tensor(rows)
        return out

    def find_number(self, word: str) -> int:
        """Return a word's number. Raises `DataError` with the nearest if it is not in the vocabulary."""
        known = word if word in self.numbers else word.lower()
        if known not in self.numbers:
            hint = find_nearest(known, self.words)
            raise DataError(
                f"'{word}' is not in the vocabulary",
                expected=f"one of {len(self.words)} words that occurred often enough in training",
                do=f"did you mean '{hint}'?" if hint else "try another word",
            )
        return self.numbers[known]

    def model_args(self) -> dict[str, Any]:
        """Return ``words``, the vocabulary's size."""
        return {"words": len(self.words)}

    def probe(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw questions for the neighbors of words, (count, T, 2)."""
        out = torch.full((count, TERMS, 2), -1.0)
        out[:, :, 1] = 0
        out[:, 0] = torch.tensor([HEAD, 0.0])
        out[:, 1, 0] = torch.randint(len(self.words), (count,), generator=generator).float()
        out[:, 1, 1] = 1
        return out

    def raw(self, tensor: Tensor) -> Tensor:
        """Return numbers of words as they are."""
        return tensor

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary."""
        return {"kind": self.kind, "words": list(self.words), "counts": list(self.counts)}

    @classmethod
    def from_record(cls, saved: WordInputsRecord) -> Self:
        """Make the inputs again from what `to_json` returned, checked."""
        return cls(saved.words, saved.counts)


def get_corpus(source: Source) -> Corpus:
    """Return a source's text. Raises `DataError` for what is no text."""
    corpus = find_corpus(source)
    if corpus is None:
        raise DataError(
            f"{source.name_of(0)} is no text",
            expected="a text, a folder of texts, or - for standard input",
            received=f"{source.schema.kind}s of shape {source.schema.shape}",
        )
    return corpus

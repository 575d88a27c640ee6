"""What task.json holds, typed: a file from elsewhere is checked before a task is made of it.

Each record checks itself when it is made, so that an error names the field: ``$.inputs.std``.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

ClassLossName = Literal["cross-entropy", "binary-cross-entropy", "focal"]
GAMMA = 2.0  # of the focal loss, as Lin et al. 2017 found best
Unseen = Literal["unknown", "refuse"]
LARGEST_IMAGE = 1 << 27  # numbers of one encoded image: twice what decoding accepts as a gray one
Text = Annotated[str, msgspec.Meta(max_length=1 << 16)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=1 << 24)]
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
Spread = Annotated[float, msgspec.Meta(gt=0, le=1e300)]
Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class ImageInputsRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="image"):
    """Images: their size, channels, and each channel's statistics."""

    size: tuple[Side, Side]
    channels: Annotated[int, msgspec.Meta(ge=1, le=1 << 10)]
    mean: tuple[Finite, ...]
    std: tuple[Spread, ...]

    def __post_init__(self) -> None:
        if math.prod(self.size) * self.channels > LARGEST_IMAGE:
            raise ValueError(
                f"size {list(self.size)} with {self.channels} channel(s) is more than {LARGEST_IMAGE:,} numbers"
            )
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std must have {self.channels} number(s) each, one a channel")


class NumberRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="number"):
    """A column of numbers."""

    name: Text
    has_missing: bool
    shift: Finite
    spread: Spread
    clamp: bool


class DateRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="date"):
    """A column of dates."""

    name: Text
    has_missing: bool
    shift: Finite
    spread: Spread
    clock: bool
    unit: bool


class CategoryRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="category"):
    """A column of categories."""

    name: Text
    has_missing: bool
    values: Texts
    embed: bool
    unseen: Unseen

    def __post_init__(self) -> None:
        check_unique("values", self.values)


Columns = Annotated[
    tuple[NumberRecord | DateRecord | CategoryRecord, ...], msgspec.Meta(min_length=1, max_length=1 << 24)
]


class RowInputsRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="row"):
    """Rows: each column, and how the table was written."""

    columns: Columns
    missing: Texts = ()
    dates: Text = ""
    encoding: Text = "utf-8"

    def __post_init__(self) -> None:
        check_unique("columns", [column.name for column in self.columns])
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError(f"encoding {self.encoding!r} is unknown") from error


class WordInputsRecord(msgspec.Struct, frozen=True, tag_field="kind", tag="text"):
    """Words: the vocabulary and its counts."""

    words: Annotated[Texts, msgspec.Meta(min_length=1)]
    counts: tuple[Annotated[int, msgspec.Meta(ge=0, le=1 << 62)], ...]

    def __post_init__(self) -> None:
        check_unique("words", self.words)
        if len(self.counts) != len(self.words):
            raise ValueError(f"counts has {len(self.counts):,} numbers for {len(self.words):,} words")


InputRecord = ImageInputsRecord | RowInputsRecord


class LossRecord(msgspec.Struct, frozen=True):
    """A loss of classification."""

    kind: ClassLossName = "cross-entropy"
    gamma: Annotated[float, msgspec.Meta(ge=0, le=1e300)] = GAMMA
    smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    weights: tuple[Annotated[float, msgspec.Meta(ge=0, le=1e300)], ...] = ()


class ClassificationRecord(msgspec.Struct, frozen=True):
    """A classification: its classes, inputs and loss."""

    classes: Annotated[Texts, msgspec.Meta(min_length=1)]
    inputs: InputRecord
    loss: LossRecord | None = None

    def __post_init__(self) -> None:
        check_unique("classes", self.classes)
        if self.loss is not None and len(self.loss.weights) not in (0, len(self.classes)):
            raise ValueError(f"loss.weights has {len(self.loss.weights):,} numbers for {len(self.classes):,} classes")


class RegressionRecord(msgspec.Struct, frozen=True):
    """A regression: its target's statistics, inputs and loss."""

    inputs: InputRecord
    target: Text
    shift: Finite
    spread: Spread
    loss: Literal["mse", "mae", "huber"]
    delta: Spread = 1.0


class ReconstructionRecord(msgspec.Struct, frozen=True):
    """A reconstruction: its inputs."""

    inputs: InputRecord


class WordTaskRecord(msgspec.Struct, frozen=True):
    """A task about words: its vocabulary, and options of its own."""

    inputs: WordInputsRecord
    options: dict[str, Any]


def check_unique(field: str, names: Sequence[str]) -> None:
    """Raise `ValueError` if a name is repeated."""
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{field} has {twice[:60]!r} twice")

"""Sources, which every reader returns: indexed examples with a schema.

Shape letters: ``N`` examples, ``H W C`` pixels as decoded (uint8, RGB or gray), ``D`` features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["image", "row", "text", "counts"]
Target = Literal["class", "number", "either", "none"]
SPLITS = ("train", "val", "test")
FLOAT32_MAX = float(np.finfo(np.float32).max)  # networks get float32, whatever the precision of a run
MAPPED_KINDS: tuple[Kind, ...] = ("text", "counts")  # memory-mapped: a loader worker would only copy them
TASKS_FOR: dict[Target, tuple[str, ...]] = {
    "class": ("classification",),
    "number": ("regression",),
    "either": ("classification", "regression"),
    "none": (),
}


class Column(msgspec.Struct, frozen=True):
    """A column of a table: a number, a category with its ``values`` (cells hold their index) or a date (days since
    1970).

    ``has_missing``: whether some row has no value there.
    """

    name: str
    kind: Literal["number", "category", "date"] = "number"
    values: tuple[str, ...] = ()
    has_missing: bool = False


class ColumnSummary(NamedTuple):
    """A column's role in the table, its kind, how many missing values and different values it has, and an example
    value."""

    name: str
    role: str
    kind: str
    missing: int
    distinct: int
    example: str


class Schema(msgspec.Struct, frozen=True):
    """What the examples are.

    ``kind``: images, rows or text. ``shape``: of one decoded input, ``(H, W, C)``, ``(D,)`` or, of text, tokens in a
    block; 0 where sizes differ.
    ``features``: column names of rows; ``columns`` says more of them, if not all are numbers. ``target``: a class, a
    number, either (whole numbers in a table: the task must be named) or none. ``classes``: their names, in the order of
    the labels.
    """

    kind: Kind
    shape: tuple[int, ...]
    target: Target
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    target_name: str = "target"
    columns: tuple[Column, ...] = ()

    @property
    def table(self) -> tuple[Column, ...]:
        """The columns of rows."""
        return self.columns or tuple(Column(name) for name in self.features)


class Example(NamedTuple):
    """One decoded example: ``input`` is ``(H, W, C)`` uint8 or ``(D,)`` float64 (NaN: a missing value); ``target`` a
    label, a number or None."""

    input: Array
    target: float | None


class Examples(NamedTuple):
    """Several examples, by column.

    ``inputs`` is one array ``(N, …)``, or a list where sizes differ; ``weights`` (N,) say how much each counts in
    training, None: all the same.
    """

    inputs: Array | list[Array]
    targets: Array | None
    ids: Array
    weights: Array | None = None


class Source(Protocol):
    """Indexed examples. Items must not depend on the order in which they are asked for."""

    @property
    def schema(self) -> Schema:
        """What the examples are."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name_of(self, index: int) -> str:
        """Where the example comes from, for messages and reports: a file, or a file and row."""
        ...

    def fingerprint(self) -> str:
        """A digest that changes when the data change: of contents in memory, of names, sizes and times on disk."""
        ...


@runtime_checkable
class SupportsFetch(Protocol):
    """A source that can return many examples at once, faster than one by one."""

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        ...


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, notes from reading it, and, for tables, summaries of the columns."""

    train: Source
    val: Source
    test: Source
    name: str
    notes: tuple[str, ...] = ()
    columns: tuple[ColumnSummary, ...] = ()

    def part(self, name: str) -> Source:
        """Return the part of this name: train, val or test."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def fingerprint(self) -> str:
        """One digest of all parts."""
        digest = hashlib.sha256()
        for part in SPLITS:
            digest.update(self.part(part).fingerprint().encode())
        return digest.hexdigest()[:32]


def fetch(source: Source, indices: Sequence[int] | Array) -> Examples:
    """Return several examples by column, by the source's own ``fetch`` if it has one."""
    if isinstance(source, SupportsFetch):
        return source.fetch(indices)
    examples = [source[int(i)] for i in indices]
    return Examples(
        stack_inputs([e.input for e in examples]), collect_targets(examples), np.asarray(indices, dtype=np.int64)
    )


def stack_inputs(inputs: list[Array]) -> Array | list[Array]:
    """Stack arrays of one shape ``(N, …)``; leave a list where shapes differ."""
    return np.stack(inputs) if len({a.shape for a in inputs}) == 1 else inputs


def collect_targets(examples: Sequence[Example]) -> Array | None:
    """Return the targets as one array, or None if there are none."""
    targets = [e.target for e in examples if e.target is not None]
    return np.asarray(targets) if targets and len(targets) == len(examples) else None


@dataclass(frozen=True)
class ArraySource:
    """Examples held as arrays: ``inputs`` (N, …) and ``targets`` (N,) or None.

    ``origin`` names where they come from, ``rows`` (N,) their numbers there. ``weights`` (N,): how much each counts in
    training.
    """

    schema: Schema
    inputs: Array
    targets: Array | None
    origin: str
    rows: Array | None = None
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Example:
        return Example(self.inputs[index], None if self.targets is None else self.targets[index].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        at = np.asarray(indices, dtype=np.int64)
        targets = None if self.targets is None else self.targets[at]
        return Examples(self.inputs[at], targets, at, None if self.weights is None else self.weights[at])

    def name_of(self, index: int) -> str:
        """Return ``origin[row]``, counted as in the file."""
        return f"{self.origin}[{index if self.rows is None else self.rows[index]}]"

    def fingerprint(self) -> str:
        """Return a digest of the contents."""
        digest = hashlib.sha256(repr(self.schema).encode())
        for array in (self.inputs, self.targets, self.weights):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Subset:
    """Some examples of another source, renumbered from 0."""

    base: Source
    indices: Array

    @property
    def schema(self) -> Schema:
        """What the examples are: as in the full source."""
        return self.base.schema

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.base[int(self.indices[index])]

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        at = np.asarray(indices, dtype=np.int64)
        examples = fetch(self.base, self.indices[at])
        return examples._replace(ids=at)

    def name_of(self, index: int) -> str:
        """Return the name the example has in the full source."""
        return self.base.name_of(int(self.indices[index]))

    def fingerprint(self) -> str:
        """Return a digest of the full source and of the indices."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update(np.ascontiguousarray(self.indices).data)
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Relabeled:
    """Another source with other class names and numbers: ``mapping[old label]`` is the new one; ``kind`` of target, if
    another."""

    base: Source
    classes: tuple[str, ...]
    mapping: Array
    kind: Target | None = None

    @property
    def schema(self) -> Schema:
        """What the examples are: as before, with the new classes."""
        return msgspec.structs.replace(
            self.base.schema, classes=self.classes, target=self.kind or self.base.schema.target
        )

    @property
    def targets(self) -> Array:
        """All new labels, (N,)."""
        old = get_targets(self.base)
        assert old is not None  # only sources with classes are relabeled
        return np.asarray(self.mapping[old.astype(np.int64)])

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Example:
        example = self.base[index]
        assert example.target is not None
        return example._replace(target=self.mapping[int(example.target)].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        examples = fetch(self.base, indices)
        assert examples.targets is not None
        return examples._replace(targets=self.mapping[examples.targets.astype(np.int64)])

    def name_of(self, index: int) -> str:
        """Return the name the example has in the base source."""
        return self.base.name_of(index)

    def fingerprint(self) -> str:
        """Return a digest of the base source and of the mapping."""
        text = f"{self.base.fingerprint()}{self.classes}{self.mapping.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def summarize_columns(source: ArraySource) -> tuple[ColumnSummary, ...]:
    """Return summaries of the columns of numeric rows and of their target."""
    summaries = []
    for index, column in enumerate(source.schema.table):
        cells = source.inputs[:, index]
        values = cells[~np.isnan(cells)]
        example = "" if not len(values) else column.values[int(values[0])] if column.values else f"{values[0]:g}"
        summaries.append(
            ColumnSummary(
                column.name, "feature", column.kind, len(cells) - len(values), len(np.unique(values)), example
            )
        )
    if source.targets is not None and len(source):
        names, first = source.schema.classes, source.targets[0]
        kind = "category" if source.schema.target == "class" else "number"
        example = names[int(first)] if names else f"{first:g}"
        summaries.append(
            ColumnSummary(source.schema.target_name, "target", kind, 0, len(np.unique(source.targets)), example)
        )
    return tuple(summaries)


def select_examples(source: Source, indices: Array) -> Source:
    """Return some examples of a source; arrays are sliced once, other sources are indexed through."""
    at = np.asarray(indices, dtype=np.int64)
    if isinstance(source, ArraySource):
        rows = at if source.rows is None else source.rows[at]
        targets = None if source.targets is None else source.targets[at]
        weights = None if source.weights is None else source.weights[at]
        return replace(source, inputs=source.inputs[at], targets=targets, rows=rows, weights=weights)
    return Subset(source, at)


@runtime_checkable
class Resizable(Protocol):
    """A source of images that resizes them while it decodes them. ``sides`` (N,) are their shorter sides, if known."""

    sides: Array | None
    size: tuple[int, int] | None


def set_image_size(source: Source, size: tuple[int, int]) -> Source:
    """Return the source with its images resized to (H, W), if it decodes them; other sources are returned unchanged."""
    if isinstance(source, Subset | Relabeled):
        base = set_image_size(source.base, size)
        return source if base is source.base else replace(source, base=base)
    if not isinstance(source, Resizable) or source.size == size:
        return source
    return cast(Source, replace(cast(Any, source), size=size))


def get_shorter_sides(source: Source) -> Array | None:
    """Return the shorter sides of a source's images (N,), if it knows them without decoding."""
    if isinstance(source, Subset):
        base = get_shorter_sides(source.base)
        return None if base is None else base[source.indices]
    if isinstance(source, Relabeled):
        return get_shorter_sides(source.base)
    return source.sides if isinstance(source, Resizable) else None


def get_targets(source: Source) -> Array | None:
    """Return all targets of a source ``(N,)`` without decoding inputs where the source allows it."""
    if source.schema.target == "none":
        return None
    if isinstance(source, ArraySource):
        return source.targets
    if isinstance(source, Subset):
        base = get_targets(source.base)
        return None if base is None else base[source.indices]
    known = getattr(source, "targets", None)
    if known is not None:
        return np.asarray(known)
    return collect_targets([source[i] for i in range(len(source))])

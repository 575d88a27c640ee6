"""What every reader gives: indexed examples with a schema.

Shape letters: ``N`` examples, ``H W C`` pixels as decoded (uint8, RGB or gray), ``D`` features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["image", "row", "text", "counts"]
Target = Literal["class", "number", "either", "none"]
SPLITS = ("train", "val", "test")
LARGEST = float(np.finfo(np.float32).max)  # networks get float32, whatever the precision of a run
MAPPED: tuple[Kind, ...] = (
    "text",
    "counts",
)  # read from a file that is mapped into memory: a worker would only copy it
TASKS_FOR: dict[Target, tuple[str, ...]] = {
    "class": ("classification",),
    "number": ("regression",),
    "either": ("classification", "regression"),
    "none": (),
}


class Column(msgspec.Struct, frozen=True):
    """A column of a table: a number, a category with its ``values`` (cells hold the place of theirs) or a date (days
    since 1970).

    ``gaps``: whether some row has no value there.
    """

    name: str
    kind: Literal["number", "category", "date"] = "number"
    values: tuple[str, ...] = ()
    gaps: bool = False


class Described(NamedTuple):
    """What is shown of a column: its part in the table, its kind, how many gaps and different values it has, and a
    value."""

    name: str
    role: str
    kind: str
    gaps: int
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
    """One decoded example: ``input`` is ``(H, W, C)`` uint8 or ``(D,)`` float64 (NaN: a gap); ``target`` a label, a
    number or None."""

    input: Array
    target: float | None


class Examples(NamedTuple):
    """Several examples, by column. ``inputs`` is one array ``(N, …)``, or a list where sizes differ; ``weights`` (N,)
    say how much
    each counts in training, None: all the same."""

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
class Columnar(Protocol):
    """A source that can hand out many examples at once, faster than one by one."""

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        ...


class Stream(Protocol):
    """More than memory or disk order allows to index: chunks from a cursor on."""

    @property
    def schema(self) -> Schema:
        """What the examples are."""
        ...

    @property
    def total(self) -> int | None:
        """How many examples there are, if known."""
        ...

    def chunks(self, cursor: int) -> Iterator[Examples]:
        """Yield chunks of examples from position ``cursor`` on."""
        ...


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, what was noticed while reading it, and of tables what is shown of the columns."""

    train: Source
    val: Source
    test: Source
    name: str
    notes: tuple[str, ...] = ()
    columns: tuple[Described, ...] = ()

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
    """Return several examples by column, by the source's own fast way if it has one."""
    if isinstance(source, Columnar):
        return source.fetch(indices)
    found = [source[int(i)] for i in indices]
    return Examples(stacked([e.input for e in found]), targets_of(found), np.asarray(indices, dtype=np.int64))


def stacked(inputs: list[Array]) -> Array | list[Array]:
    """Stack arrays of one shape ``(N, …)``; leave a list where shapes differ."""
    return np.stack(inputs) if len({a.shape for a in inputs}) == 1 else inputs


def targets_of(examples: Sequence[Example]) -> Array | None:
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
        """What the examples are: as in the whole."""
        return self.base.schema

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.base[int(self.indices[index])]

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        at = np.asarray(indices, dtype=np.int64)
        found = fetch(self.base, self.indices[at])
        return found._replace(ids=at)

    def name_of(self, index: int) -> str:
        """Return the name the example has in the whole."""
        return self.base.name_of(int(self.indices[index]))

    def fingerprint(self) -> str:
        """Return a digest of the whole and of the choice."""
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
        old = labels(self.base)
        assert old is not None  # only sources with classes are relabeled
        return np.asarray(self.mapping[old.astype(np.int64)])

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Example:
        found = self.base[index]
        assert found.target is not None
        return found._replace(target=self.mapping[int(found.target)].item())

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order."""
        found = fetch(self.base, indices)
        assert found.targets is not None
        return found._replace(targets=self.mapping[found.targets.astype(np.int64)])

    def name_of(self, index: int) -> str:
        """Return the name the example has in the source beneath."""
        return self.base.name_of(index)

    def fingerprint(self) -> str:
        """Return a digest of the source beneath and of the mapping."""
        text = f"{self.base.fingerprint()}{self.classes}{self.mapping.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def described(source: ArraySource) -> tuple[Described, ...]:
    """Return what is shown of the columns of rows held as numbers, and of their target."""
    out = []
    for at, column in enumerate(source.schema.table):
        cells = source.inputs[:, at]
        known = cells[~np.isnan(cells)]
        example = "" if not len(known) else column.values[int(known[0])] if column.values else f"{known[0]:g}"
        out.append(
            Described(column.name, "feature", column.kind, len(cells) - len(known), len(np.unique(known)), example)
        )
    if source.targets is not None and len(source):
        names, first = source.schema.classes, source.targets[0]
        kind = "category" if source.schema.target == "class" else "number"
        example = names[int(first)] if names else f"{first:g}"
        out.append(Described(source.schema.target_name, "target", kind, 0, len(np.unique(source.targets)), example))
    return tuple(out)


def subset(source: Source, indices: Array) -> Source:
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
    """A source of images that brings them to a size while it decodes them. ``sides`` (N,) are their shorter sides, if
    known."""

    sides: Array | None
    size: tuple[int, int] | None


def sized(source: Source, size: tuple[int, int]) -> Source:
    """Return a source whose images come in this size (H, W), if it decodes them; others are returned as they are."""
    if isinstance(source, Subset | Relabeled):
        base = sized(source.base, size)
        return source if base is source.base else replace(source, base=base)
    if not isinstance(source, Resizable) or source.size == size:
        return source
    return cast(Source, replace(cast(Any, source), size=size))


def shorter_sides(source: Source) -> Array | None:
    """Return the shorter sides of a source's images (N,), if it knows them without decoding."""
    if isinstance(source, Subset):
        base = shorter_sides(source.base)
        return None if base is None else base[source.indices]
    if isinstance(source, Relabeled):
        return shorter_sides(source.base)
    return source.sides if isinstance(source, Resizable) else None


def labels(source: Source) -> Array | None:
    """Return all targets of a source ``(N,)`` without decoding inputs where the source allows it."""
    if source.schema.target == "none":
        return None
    if isinstance(source, ArraySource):
        return source.targets
    if isinstance(source, Subset):
        base = labels(source.base)
        return None if base is None else base[source.indices]
    known = getattr(source, "targets", None)
    if known is not None:
        return np.asarray(known)
    return targets_of([source[i] for i in range(len(source))])

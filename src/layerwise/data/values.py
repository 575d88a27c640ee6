"""Values: what a network takes and returns, as tensors, sequences of different lengths, and trees of both.

The only code that looks inside a tree. Shape letters: ``N`` examples, ``T`` the longest length of a batch, ``ΣT`` the
sum of all lengths. Sequences are padded, not packed or jagged: on a CPU ``pack_padded_sequence`` makes a step of an
LSTM several times slower, and jagged tensors lack half of the operations.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

Leaves: TypeAlias = Tensor | Mapping[str, Tensor]
Value: TypeAlias = "Tensor | Ragged | Mapping[str, Value]"
V = TypeVar("V", bound=Value)


@dataclass(frozen=True, eq=False)
class Ragged:
    """``N`` sequences, or ``N`` sets of boxes, of different lengths, one after the other.

    ``values``: a tensor (ΣT, …), or several by name that share the lengths. ``offsets`` (N + 1,) int64: example ``i``
    has the entries from ``offsets[i]`` to ``offsets[i + 1]``. Offsets stay on the CPU, so that lengths never wait for a
    device.

    Raises `ValueError` for offsets of another type or device, and for offsets that do not cover the values.
    """

    values: Leaves
    offsets: Tensor

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.ndim != 1 or not len(offsets) or offsets.dtype != torch.int64 or offsets.device.type != "cpu":
            raise ValueError(f"offsets are int64 (N + 1,) on the CPU, not {offsets.dtype} {tuple(offsets.shape)}")
        first, last = int(offsets[0]), int(offsets[-1])
        for name, leaf in iterate_leaves(self.values):
            if first != 0 or last != len(leaf):
                raise ValueError(f"offsets from {first} to {last} do not cover the {len(leaf)} entries of '{name}'")

    @classmethod
    def from_sequences(cls, sequences: Sequence[Tensor]) -> Ragged:
        """Join sequences (T, …) of one type. Raises `ValueError` for none of them: their type is not known."""
        if not sequences:
            raise ValueError("no sequences to join")
        return cls(torch.cat(list(sequences)), compute_offsets(torch.tensor([len(s) for s in sequences])))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """The number of entries of each example, (N,) int64 on the CPU."""
        return self.offsets.diff()

    def __getitem__(self, index: int) -> Leaves:
        """Return one example's entries (T, …), as views. Raises `IndexError` outside ``0 … N − 1``."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return span(self, slice(index, index + 1)).values

    def padded(self, fill: float, multiple: int = 1) -> tuple[Leaves, Tensor]:
        """Return the sequences padded at their ends, (N, T, …), and their lengths (N,) on the CPU.

        Args:
            fill: what stands after an example's last entry.
            multiple: T is the longest length rounded up to a multiple of this, and at least this.
        """
        lengths = self.lengths
        longest = max(1, int(lengths.max())) if len(self) else 1
        positions = torch.arange(-(-longest // multiple) * multiple)
        is_padding = positions >= lengths[:, None]
        index = (self.offsets[:-1, None] + positions).masked_fill_(is_padding, 0).flatten()
        device = first_leaf(self.values).device
        index, mask = index.to(device, non_blocking=True), is_padding.to(device, non_blocking=True)

        def pad(leaf: Tensor) -> Tensor:
            shape = (*mask.shape, *leaf.shape[1:])
            if not len(leaf):
                return leaf.new_full(shape, fill)
            rows = leaf.index_select(0, index).view(shape)
            return rows.masked_fill_(mask.view(*mask.shape, *[1] * (leaf.ndim - 1)), fill)

        return map_leaves(pad, self.values), lengths


def compute_offsets(lengths: Tensor) -> Tensor:
    """Return the offsets (N + 1,) of sequences with these lengths (N,)."""
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.to("cpu", torch.int64).cumsum(0)])


def map_leaves(function: Callable[[Tensor], Tensor], value: V) -> V:
    """Return a value of the same form with each tensor replaced by ``function(tensor)``. Offsets stay.

    ``function`` keeps the number of entries of a ragged value's tensors.
    """
    tree: Any = value
    if isinstance(tree, Tensor):
        return cast(V, function(tree))
    if isinstance(tree, Ragged):
        return cast(V, Ragged(map_leaves(function, tree.values), tree.offsets))
    return cast(V, {name: map_leaves(function, part) for name, part in tree.items()})


def iterate_leaves(value: Value, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a value by name, ``boxes`` or ``source.tokens``; a single tensor has an empty name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Ragged):
        yield from iterate_leaves(value.values, name)
    else:
        for key, part in value.items():
            yield from iterate_leaves(part, f"{name}.{key}" if name else key)


def first_leaf(value: Value) -> Tensor:
    """Return the first tensor of a value, to ask for its device or type."""
    return next(iterate_leaves(value))[1]


def count_examples(value: Value) -> int:
    """Return the number of examples N of a value."""
    return len(value) if isinstance(value, Tensor | Ragged) else count_examples(next(iter(value.values())))


def nbytes(value: Value) -> int:
    """Return the bytes of all tensors of a value, offsets included."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Ragged):
        return value.offsets.nbytes + nbytes(value.values)
    return sum(map(nbytes, value.values()))


def to(value: V, device: torch.device, dtype: torch.dtype) -> V:
    """Move a value to a device. Floating-point tensors take the type; integers and booleans keep theirs."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, non_blocking=True)

    return map_leaves(move, value)


def take(value: V, index: Tensor, moved: Tensor | None = None) -> V:
    """Return the examples at these positions (N,), int64 on the CPU.

    Reading an index back from a device would wait for all of the device's pending work. ``moved``: the same positions
    on the tensors' device, where several values need them.
    """
    tree: Any = value
    if isinstance(tree, Tensor):
        return cast(V, gather_rows(tree, index.to(tree.device, non_blocking=True) if moved is None else moved))
    if isinstance(tree, Ragged):
        lengths = tree.lengths[index]
        offsets = compute_offsets(lengths)
        shift = tree.offsets[index] - offsets[:-1]
        entries = torch.arange(int(offsets[-1])) + shift.repeat_interleave(lengths)
        return cast(V, Ragged(take(tree.values, entries), offsets))
    return cast(V, {name: take(part, index, moved) for name, part in tree.items()})


def span(value: V, part: slice) -> V:
    """Return consecutive examples, as views. ``part`` has no step."""
    tree: Any = value
    if isinstance(tree, Tensor):
        return cast(V, tree[part])
    if isinstance(tree, Ragged):
        start, stop, _ = part.indices(len(tree))
        offsets = tree.offsets[start : max(start, stop) + 1]
        entries = slice(int(offsets[0]), int(offsets[-1]))
        return cast(V, Ragged(span(tree.values, entries), offsets - offsets[0]))
    return cast(V, {name: span(each, part) for name, each in tree.items()})


def cat(values: Sequence[V]) -> V:
    """Return the examples of several values of one form, one after the other."""
    collector = Collector(sum(map(count_examples, values)))
    start = 0
    for value in values:
        collector.add(value, start)
        start += count_examples(value)
    return cast(V, collector.finish())


def call(model: nn.Module, value: Value) -> Any:
    """Run a model on a value: a tensor is its argument, a mapping its arguments by name.

    Raises `TypeError` for a ragged value: a task pads it first.
    """
    if isinstance(value, Tensor):
        return model(value)
    if isinstance(value, Ragged):
        raise TypeError("a network takes tensors; pad the sequences first (`Ragged.padded`)")
    return model(**value)


def gather_rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Return the rows (N, …) of these positions. Images (N, C, H, W) keep their channels last in memory, which
    ``index_select`` alone would undo: convolution and pooling are faster so, on one channel too."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return tensor.index_select(0, index)


class Collector:
    """Joins parts of a value into one of ``count`` examples. Several threads may add parts, in any order.

    A tensor is allocated with the first part, and the others are copied into it. The parts of ragged values wait until
    their lengths are all known, and each is freed as soon as it is copied, so that memory does not hold them twice.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.tensor: Tensor | None = None
        self.ragged: dict[int, Ragged] = {}
        self.parts: dict[str, Collector] = {}
        self.lock = threading.Lock()

    @property
    def has_parts(self) -> bool:
        """Whether a part was added."""
        return self.tensor is not None or bool(self.ragged or self.parts)

    def add(self, value: Value, start: int) -> None:
        """Take the examples of ``value``, of which the first is number ``start``."""
        if isinstance(value, Tensor):
            with self.lock:
                if self.tensor is None:
                    self.tensor = allocate_like(value, self.count)
            self.tensor[start : start + len(value)] = value
        elif isinstance(value, Ragged):
            self.ragged[start] = value
        else:
            for name, part in value.items():
                with self.lock:
                    collector = self.parts.setdefault(name, Collector(self.count))
                collector.add(part, start)

    def finish(self) -> Value:
        """Return the merged value."""
        if self.tensor is not None:
            return self.tensor
        if self.ragged:
            return self._join_ragged()
        return {name: part.finish() for name, part in self.parts.items()}

    def _join_ragged(self) -> Ragged:
        """Join the ragged parts in the order of their first examples, and free them."""
        starts = sorted(self.ragged)
        offsets = compute_offsets(torch.cat([self.ragged[start].lengths for start in starts]))
        merged = Collector(int(offsets[-1]))
        for start in starts:
            merged.add(self.ragged.pop(start).values, int(offsets[start]))
        return Ragged(cast(Leaves, merged.finish()), offsets)


def allocate_like(tensor: Tensor, count: int) -> Tensor:
    """Return an uninitialized tensor for ``count`` examples like these, with images in the same memory format."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((count, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device, memory_format=layout)

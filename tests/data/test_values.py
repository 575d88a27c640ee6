"""Values against plain Python lists: one list of entries for each example."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from layerwise.data import values
from layerwise.data.batch import Batch, BatchCollector, Mix
from layerwise.data.values import Collector, Ragged, Value

CPU = torch.device("cpu")
# sets of boxes: lengths of up to 8 sets, and numbers to fill them with
LENGTHS = st.lists(st.integers(0, 5), max_size=8)


def make_lists(lengths: list[int], seed: int) -> list[list[float]]:
    """Return sequences of these lengths, of different whole numbers."""
    numbers = iter(random.Random(seed).sample(range(10_000), sum(lengths)))
    return [[float(next(numbers)) for _ in range(length)] for length in lengths]


def make_ragged(lists: list[list[float]]) -> Ragged:
    flat = torch.tensor([number for entries in lists for number in entries], dtype=torch.float32)
    return Ragged({"boxes": torch.stack([flat, -flat], 1), "labels": flat.long()}, offsets_by_hand(lists))


def offsets_by_hand(lists: list[list[float]]) -> Tensor:
    offsets = [0]
    for entries in lists:
        offsets.append(offsets[-1] + len(entries))
    return torch.tensor(offsets)


def make_tree(lists: list[list[float]]) -> dict[str, Value]:
    """Return a tree with a tensor, boxes and a nested tensor for each example."""
    numbers = torch.arange(float(len(lists)))
    return {"image": torch.stack([numbers, numbers + 0.5], 1), "objects": make_ragged(lists), "more": {"id": numbers}}


def to_lists(value: Any) -> Any:
    """Return a value as plain lists, one item for each example."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Ragged):
        ends = value.offsets.tolist()
        return {
            name: [leaf[a:b].tolist() for a, b in pairwise(ends)]
            for name, leaf in (value.values.items() if not isinstance(value.values, Tensor) else [("", value.values)])
        }
    return {name: to_lists(part) for name, part in value.items()}


def pick(tree: Any, index: list[int]) -> Any:
    """Return the items of plain lists at these positions."""
    return (
        [tree[i] for i in index] if isinstance(tree, list) else {name: pick(part, index) for name, part in tree.items()}
    )


@given(LENGTHS, st.integers(0, 99), st.data())
def test_take_span_and_cat_are_those_of_lists(lengths: list[int], seed: int, data: st.DataObject) -> None:
    lists = make_lists(lengths, seed)
    tree, plain = make_tree(lists), to_lists(make_tree(lists))
    count = len(lists)
    assert values.count_examples(tree) == count
    if count:
        index = data.draw(st.lists(st.integers(0, count - 1), max_size=10))
        assert to_lists(values.take(tree, torch.tensor(index, dtype=torch.int64))) == pick(plain, index)
    start, stop = data.draw(st.integers(0, count + 2)), data.draw(st.integers(0, count + 2))
    part = values.span(tree, slice(start, stop))
    assert to_lists(part) == pick(plain, list(range(count))[start:stop])
    ends = sorted(data.draw(st.lists(st.integers(0, count), max_size=3)))
    cuts = [slice(a, b) for a, b in zip([0, *ends], [*ends, count], strict=True)]
    assert to_lists(values.cat([values.span(tree, cut) for cut in cuts])) == plain


@given(LENGTHS.filter(bool), st.integers(0, 99), st.integers(1, 4), st.randoms())
def test_parts_are_joined_in_any_order(lengths: list[int], seed: int, size: int, order: random.Random) -> None:
    tree = make_tree(make_lists(lengths, seed))
    starts = list(range(0, len(lengths), size))
    order.shuffle(starts)
    collector = Collector(len(lengths))
    for start in starts:
        collector.add(values.span(tree, slice(start, start + size)), start)
    assert to_lists(collector.finish()) == to_lists(tree)


def test_parts_may_be_added_by_threads() -> None:
    tree = make_tree(make_lists([3, 0, 5, 1] * 50, 0))
    collector = Collector(200)
    threads = [
        Thread(target=collector.add, args=(values.span(tree, slice(start, start + 4)), start))
        for start in range(0, 200, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert to_lists(collector.finish()) == to_lists(tree)


@given(LENGTHS, st.integers(0, 99), st.integers(1, 5))
def test_padding_is_that_of_lists(lengths: list[int], seed: int, multiple: int) -> None:
    lists = make_lists(lengths, seed)
    padded, out = make_ragged(lists).padded(-7, multiple)
    assert out.tolist() == lengths
    assert isinstance(padded, dict)
    longest = max([1, *lengths])
    while longest % multiple:
        longest += 1
    rows = [entries + [-7.0] * (longest - len(entries)) for entries in lists]
    assert padded["labels"].tolist() == [[int(number) for number in row] for row in rows]
    assert padded["labels"].dtype == torch.int64
    boxes = [
        [[n, -n] if at < length else [-7.0, -7.0] for at, n in enumerate(row)]
        for row, length in zip(rows, lengths, strict=True)
    ]
    assert padded["boxes"].tolist() == boxes


def test_examples_of_a_ragged_value() -> None:
    ragged = Ragged.from_sequences([torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([3])])
    assert len(ragged) == 3
    assert [ragged[i].tolist() for i in range(3)] == [[1, 2], [], [3]]  # type: ignore[union-attr]
    assert list(ragged.lengths) == [2, 0, 1]
    for index in (3, -1):
        with pytest.raises(IndexError):
            ragged[index]
    with pytest.raises(ValueError, match="no sequences"):
        Ragged.from_sequences([])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([0, 2, 4]), "from 0 to 4 do not cover the 3 entries of 'a'"),
        (torch.tensor([1, 3]), "from 1 to 3 do not cover"),
        (torch.tensor([0, 3], dtype=torch.int32), r"not torch\.int32 \(2,\)"),
        (torch.tensor([], dtype=torch.int64), r"\(N \+ 1,\) on the CPU"),
        (torch.tensor([[0, 3]]), r"not torch\.int64 \(1, 2\)"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(offsets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ragged({"a": torch.zeros(3)}, offsets)


def test_integers_stay_integers_on_their_way_to_a_device() -> None:
    tree = make_tree([[1.0, 2.0], [3.0]])
    moved = values.to(tree, CPU, torch.float64)
    types = {name: leaf.dtype for name, leaf in values.iterate_leaves(moved)}
    assert types == {
        "image": torch.float64,
        "objects.boxes": torch.float64,
        "objects.labels": torch.int64,
        "more.id": torch.float64,
    }
    assert values.nbytes(moved) == 2 * 2 * 8 + 3 * 2 * 8 + 3 * 8 + 3 * 8 + 2 * 8


class TwoInputs(nn.Module):
    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return tokens.sum(1) - lengths


def test_a_model_is_called_with_a_tensor_or_by_names() -> None:
    x = torch.tensor([[1, 2], [3, 4]])
    assert values.call(nn.Identity(), x) is x
    assert values.call(TwoInputs(), {"lengths": torch.tensor([1, 1]), "tokens": x}).tolist() == [2, 6]
    with pytest.raises(TypeError, match="pad the sequences first"):
        values.call(nn.Identity(), Ragged.from_sequences([x[0]]))


def test_batches_carry_trees() -> None:
    tree = make_tree([[1.0], [2.0, 3.0], []])
    targets = make_ragged([[], [5.0], [6.0]])
    mix = Mix(torch.tensor([1.0, 0.5, 0.25]), targets, None)
    batch = Batch(tree, targets, torch.tensor([7, 8, 9]), torch.tensor([1.0, 2.0, 3.0]), mix, {"tokens": 3})
    for part, index in ((batch.take(torch.tensor([2, 1])), [2, 1]), (batch.span(slice(1, 3)), [1, 2])):
        assert to_lists(part.inputs) == pick(to_lists(tree), index)
        assert to_lists(part.targets) == pick(to_lists(targets), index)
        assert part.ids.tolist() == [7 + i for i in index]
        assert part.mix is not None
        assert part.mix.share.tolist() == [[1.0, 0.5, 0.25][i] for i in index]
        assert to_lists(part.mix.targets) == pick(to_lists(targets), index)
        assert part.weights is not None
        assert part.weights.tolist() == [1.0 + i for i in index]
        assert part.units == {}, "what the whole batch counted is not true of a part"
    assert [len(part) for part in batch.chunk(2)] == [2, 1]
    moved = batch.to(CPU, torch.float64)
    assert moved.units == {"tokens": 3}
    assert moved.mix is not None
    assert moved.mix.share.dtype == torch.float64
    assert batch.nbytes == values.nbytes(tree) + values.nbytes(targets) + 12


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda b: b.input_tensor, "inputs of this batch are not one tensor but dict"),
        (lambda b: b.target_tensor, "targets .* NoneType"),
    ],
)
def test_a_batch_that_is_more_than_tensors_says_so(read: Callable[[Batch], Tensor], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read(Batch(make_tree([[1.0]]), None, torch.tensor([0])))


def test_a_source_is_collected_into_one_batch() -> None:
    lists = make_lists([2, 0, 1, 4, 3], 1)
    tree, boxes = make_tree(lists), make_ragged(lists)
    collector = BatchCollector(5)
    for start in (3, 0):
        part = slice(start, start + 3)
        collector.add(Batch(values.span(tree, part), values.span(boxes, part), torch.arange(5)[part]), start)
    batch = collector.finish()
    assert to_lists(batch.inputs) == to_lists(tree)
    assert to_lists(batch.targets) == to_lists(boxes)
    assert batch.ids.tolist() == [0, 1, 2, 3, 4]
    assert batch.weights is None

"""Splits: every example once, every class in every part, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data import splits
from layerwise.data.source import ArraySource, Schema, get_targets
from layerwise.errors import DataError

FRACTIONS = st.sampled_from([(0.15, 0.15), (0.15,), (0.4, 0.4)])


def make_source(targets: np.ndarray, kind: str = "class") -> ArraySource:
    names = tuple(str(i) for i in range(int(targets.max()) + 1)) if len(targets) else ()
    return ArraySource(Schema("row", (1,), kind, names, ("x",)), np.arange(len(targets))[:, None] * 1.0, targets, "t")


@given(st.lists(st.integers(0, 5), max_size=200), FRACTIONS, st.integers(0, 10))
@settings(max_examples=80, deadline=None)
def test_partition(values: list[int], fractions: tuple[float, ...], seed: int) -> None:
    targets = np.array(values, dtype=np.int64)
    if not values:
        return
    parts = splits.partition(targets, len(targets), fractions, seed)
    assert len(parts) == len(fractions) + 1
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(targets)))
    for part in parts:
        np.testing.assert_array_equal(part, np.sort(part))
    for label in range(6):
        count = int((targets == label).sum())
        shares = [int((targets[part] == label).sum()) for part in parts]
        if count >= 3:
            assert min(shares) >= 1
        elif count:
            assert shares[0] >= 1  # the training part first: no class in val or test that it lacks
        for share, fraction in zip(shares[1:], fractions, strict=True):
            assert share <= max(1, round(fraction * count))
    again = splits.partition(targets, len(targets), fractions, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@given(st.integers(3, 500), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_partition_of_numbers(count: int, seed: int) -> None:
    parts = splits.partition(None, count, (0.15, 0.15), seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert len(parts[1]) == len(parts[2]) == max(1, round(0.15 * count))


def test_seeds_give_other_parts() -> None:
    targets = np.arange(100) % 2
    first, second = (splits.partition(targets, 100, (0.15, 0.15), seed)[0] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_given_parts_are_kept() -> None:
    full, test = make_source(np.arange(100) % 4), make_source(np.arange(8) % 4)
    parts = splits.complete_splits({"train": full, "test": test}, name="x", seed=0)
    assert parts.test is test
    assert (len(parts.train), len(parts.val)) == (92, 8)  # round(0.1 × 25) = 2 of each class
    everything = splits.complete_splits({"train": full, "val": test, "test": test}, name="x", seed=0)
    assert everything.train is full


def test_few_whole_numbers_are_drawn_by_value_too() -> None:
    rare = np.array([0] * 100 + [1] * 3)
    parts = splits.complete_splits({"train": make_source(rare, "either")}, name="x", seed=0)
    for part in ("train", "val", "test"):
        assert 1 in get_targets(parts.part(part))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_examples(count: int) -> None:
    with pytest.raises(DataError, match=r"few: nothing is left for the val and test part"):
        splits.complete_splits({"train": make_source(np.zeros(count, dtype=np.int64))}, name="few", seed=0)


def test_a_labeled_subset_keeps_shares() -> None:
    subset = splits.draw_subset(make_source(np.array([0] * 60 + [1] * 30 + [2] * 10)), 20, seed=0)
    np.testing.assert_array_equal(np.bincount(get_targets(subset)), [12, 6, 2])
    assert len(splits.draw_subset(subset, 0, seed=0)) == len(subset)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_a_small_subset_has_as_many_as_were_asked_for(count: int) -> None:
    """By hand: shares of 10 classes of 10 and one of 20, rounded down, and then no class has two more than another of
    its size."""
    targets = np.array([*np.repeat(np.arange(10), 10), *[10] * 20])
    counts = np.bincount(get_targets(splits.draw_subset(make_source(targets), count, seed=1)), minlength=11)
    assert counts.sum() == count
    assert counts[:10].max() - counts[:10].min() <= 1
    assert counts[10] - count * 20 / 120 < 1
    drawn = [
        np.concatenate([splits.draw_subset(make_source(targets), count, seed=seed)[i].input for i in range(count)])
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])

"""Sources: indexing, subsets, other labels, fingerprints."""

from dataclasses import dataclass

import numpy as np

from layerwise.data.source import (
    ArraySource,
    Example,
    Relabeled,
    Schema,
    Splits,
    Subset,
    fetch,
    get_targets,
    select_examples,
)

SCHEMA = Schema("row", (2,), "class", ("a", "b", "c"), ("x", "y"))
INPUTS = np.arange(20.0).reshape(10, 2)
TARGETS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
ARRAYS = ArraySource(SCHEMA, INPUTS, TARGETS, "t.csv", np.arange(10) + 2)


@dataclass(frozen=True)
class OneByOne:
    """A source without arrays, of inputs that differ in size."""

    schema: Schema = SCHEMA

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Example:
        return Example(np.zeros(index + 1), index % 3)

    def name_of(self, index: int) -> str:
        return f"one {index}"

    def fingerprint(self) -> str:
        return "same"


def test_arrays() -> None:
    examples = fetch(ARRAYS, [3, 1])
    np.testing.assert_array_equal(examples.inputs, INPUTS[[3, 1]])
    np.testing.assert_array_equal(examples.targets, [0, 1])
    np.testing.assert_array_equal(examples.ids, [3, 1])
    assert ARRAYS[2].target == 2
    assert ARRAYS.name_of(0) == "t.csv[2]"


def test_subsets_agree_whether_sliced_or_indexed_through() -> None:
    at = np.array([7, 2, 5])
    sliced, through = select_examples(ARRAYS, at), Subset(ARRAYS, at)
    for i in range(3):
        np.testing.assert_array_equal(sliced[i].input, through[i].input)
        assert sliced[i].target == through[i].target
        assert sliced.name_of(i) == through.name_of(i) == f"t.csv[{at[i] + 2}]"
    np.testing.assert_array_equal(get_targets(sliced), get_targets(through))
    np.testing.assert_array_equal(fetch(through, [2, 0]).inputs, INPUTS[[5, 7]])
    np.testing.assert_array_equal(fetch(through, [2, 0]).ids, [2, 0])


def test_relabeled() -> None:
    turned = Relabeled(ARRAYS, ("c", "b", "a"), np.array([2, 1, 0]))
    names = [turned.schema.classes[int(turned[i].target)] for i in range(10)]
    assert names == [SCHEMA.classes[t] for t in TARGETS]
    np.testing.assert_array_equal(get_targets(turned), 2 - TARGETS)
    np.testing.assert_array_equal(fetch(select_examples(turned, np.array([4, 5])), [1]).targets, [0])
    assert turned.fingerprint() != ARRAYS.fingerprint()


def test_sources_without_arrays() -> None:
    examples = fetch(OneByOne(), [0, 2])
    assert [len(a) for a in examples.inputs] == [1, 3]
    np.testing.assert_array_equal(get_targets(OneByOne()), [0, 1, 2, 0])
    np.testing.assert_array_equal(get_targets(select_examples(OneByOne(), np.array([2, 1]))), [2, 1])


def test_fingerprints_follow_contents() -> None:
    changed = INPUTS.copy()
    changed[9, 1] += 1e-9
    prints = {
        ARRAYS.fingerprint(),
        ArraySource(SCHEMA, changed, TARGETS, "t.csv").fingerprint(),
        ArraySource(SCHEMA, INPUTS, TARGETS[::-1], "t.csv").fingerprint(),
        select_examples(ARRAYS, np.arange(9)).fingerprint(),
    }
    assert len(prints) == 4
    assert ArraySource(SCHEMA, INPUTS.copy(), TARGETS.copy(), "other").fingerprint() == ARRAYS.fingerprint()
    parts = Splits(ARRAYS, ARRAYS, select_examples(ARRAYS, np.arange(3)), "x")
    swapped = Splits(parts.test, ARRAYS, ARRAYS, "x")
    assert parts.fingerprint() != swapped.fingerprint()

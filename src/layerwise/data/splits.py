"""Training, validation and test parts. Given parts stay; missing ones are drawn 70/15/15, stratified if there are
classes.

Blocks of text are drawn 98/1/1.
"""

from __future__ import annotations

import numpy as np

from layerwise.data.source import Array, Source, Splits, fetch, get_targets, select_examples
from layerwise.errors import DataError
from layerwise.runtime.rng import GOLDEN, make_numpy_generator, splitmix64

VAL_FRACTION, TEST_FRACTION = 0.15, 0.15
VAL_FRACTION_OF_TRAINING = 0.1
TEXT_FRACTION = 0.01  # of the blocks
MAX_DEVIATION = 0.05  # how far a drawn subset's size may be off by rounding within classes


def partition(targets: Array | None, count: int, fractions: tuple[float, ...], seed: int) -> list[Array]:
    """Split ``count`` indices into a first part (the rest) and one part per fraction, stratified if there are classes.

    Within each class, parts get their rounded share of a seeded permutation, so every class with three examples or more
    is in every part. Returned indices are sorted.
    """
    groups = [np.arange(count)] if targets is None else [np.flatnonzero(targets == c) for c in np.unique(targets)]
    rng = make_numpy_generator("split", seed)
    parts: list[list[Array]] = [[] for _ in range(len(fractions) + 1)]
    for group in groups:
        shuffled = rng.permutation(group)
        start = 0
        for number, fraction in enumerate(fractions, start=1):
            largest = (
                len(group) - start - (len(fractions) - number) - 1
            )  # the first and the later parts get one at least
            take = min(max(1, round(fraction * len(group))), largest) if len(group) > len(fractions) else 0
            parts[number].append(shuffled[start : start + take])
            start += take
        parts[0].append(shuffled[start:])
    return [np.sort(np.concatenate(part)) for part in parts]


def get_strata(source: Source) -> Array | None:
    """Return the labels to stratify by, if any: of classes, and of whole numbers that may be classes."""
    return get_targets(source) if source.schema.target in ("class", "either") else None


def split_by_group(groups: Array, fractions: tuple[float, ...], seed: int) -> list[Array]:
    """Split indices into a first part (the rest) and one part per fraction, so that no group (N,) is in two parts.

    Groups are taken in a seeded order until a part has its share. Returned indices are sorted; parts may be empty where
    there are fewer groups than parts.
    """
    values, group_indices, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = make_numpy_generator("split", seed).permutation(len(values))
    part_of = np.zeros(len(values), dtype=np.int64)
    start = 0
    for number, fraction in enumerate(fractions, start=1):
        left = len(order) - start - (len(fractions) - number) - 1  # the first and the later parts get a group at least
        filled = np.cumsum(counts[order[start:]])
        take = min(int(np.searchsorted(filled, fraction * len(groups), side="right")), left)
        take = max(take, min(1, left))
        part_of[order[start : start + take]] = number
        start += take
    return [np.flatnonzero(part_of[group_indices] == number) for number in range(len(fractions) + 1)]


def split_by_time(times: Array, fractions: tuple[float, ...]) -> list[Array]:
    """Split indices by time (N,): the earliest rows are the first part, the latest the last. Rows of one time stay
    together."""
    order = np.argsort(times, kind="stable")
    ends = np.round(len(times) * (1 - np.cumsum((*fractions[::-1], 0.0))[:-1][::-1])).astype(np.int64)
    cuts = [int(np.searchsorted(times[order], times[order[min(end, len(order) - 1)]])) for end in ends]
    return [np.sort(part) for part in np.split(order, cuts)]


def complete_splits(
    parts: dict[str, Source],
    *,
    name: str,
    seed: int,
    notes: tuple[str, ...] = (),
    groups: Array | None = None,
    times: Array | None = None,
) -> Splits:
    """Complete the given parts to training, validation and test.

    ``{"train": all}`` is drawn 70/15/15, by class where there are classes, or by ``groups`` or ``times`` (N,) of the
    training part if they are given. Where a test part is given, a missing validation part is a tenth of training. Of
    text a missing part is a hundredth of the blocks. Raises `DataError` where a part would be empty.
    """
    if "train" not in parts:
        raise DataError(f"{name} has no training part", expected="train, val and test", received=" and ".join(parts))
    train = parts["train"]
    text = train.schema.kind == "text"
    missing = [p for p in ("val", "test") if p not in parts]
    fractions = {"val": VAL_FRACTION if "test" in missing else VAL_FRACTION_OF_TRAINING, "test": TEST_FRACTION}
    if text:
        fractions = dict.fromkeys(fractions, TEXT_FRACTION)
    if missing:
        shares = tuple(fractions[p] for p in missing)
        if times is not None:
            drawn = split_by_time(times, shares)
        elif groups is not None:
            drawn = split_by_group(groups, shares, seed)
        else:
            drawn = partition(get_strata(train), len(train), shares, seed)
        parts = parts | {p: select_examples(train, at) for p, at in zip(missing, drawn[1:], strict=True)}
        parts["train"] = select_examples(train, drawn[0])
    empty = [p for p in ("train", "val", "test") if len(parts[p]) == 0]
    if empty:
        raise DataError(
            f"{name}: nothing is left for the {' and '.join(empty)} part",
            expected=f"at least 3 {_name_examples(train)} to train, validate and test on",
            received=_describe_counts(train),
            do=f"add {'text' if text else 'examples'}, or give train/, val/ and test/ parts yourself",
        )
    return Splits(parts["train"], parts["val"], parts["test"], name, notes)


def find_repeated_rows(parts: Splits) -> tuple[str, ...]:
    """Return notes on rows of the validation and test parts that are in the training part too, target and all."""
    if parts.train.schema.kind != "row":
        return ()
    train_keys = hash_rows(parts.train)
    notes = []
    for name in ("val", "test"):
        keys = hash_rows(parts.part(name))
        count = int(np.isin(keys, train_keys).sum())
        if count:
            notes.append(
                f"{count} of {len(keys)} rows of the {name} part are in the training part too, target and all: "
                "what is measured on them may be memory"
            )
    return tuple(notes)


def hash_rows(source: Source) -> Array:
    """Return a 64-bit digest of each row with its target, (N,): equal rows have equal digests, others by chance of 2⁻⁶⁴
    a pair."""
    examples = fetch(source, np.arange(len(source)))
    inputs = np.asarray(examples.inputs, dtype=np.float64)
    keys = np.zeros(len(inputs), dtype=np.uint64)
    for column in (*inputs.T, *(() if examples.targets is None else (examples.targets.astype(np.float64),))):
        cells = np.where(np.isnan(column), np.nan, column + 0.0)  # one bit pattern for missing values, one for zero
        keys = splitmix64(keys * GOLDEN + cells.view(np.uint64))
    return keys


def _name_examples(source: Source) -> str:
    """Return a noun for the examples, for messages."""
    return f"blocks of {source.schema.shape[0]} tokens" if source.schema.kind == "text" else "examples (of each class)"


def _describe_counts(source: Source) -> str:
    """Return how many examples there are, and how many of the smallest class, for messages."""
    unit = "block" if source.schema.kind == "text" else "example"
    strata, count = get_strata(source), f"{len(source)} {unit}{'s' * (len(source) != 1)}"
    if strata is None or not source.schema.classes:
        return count
    names, counts = np.unique(strata, return_counts=True)
    fewest = int(counts.argmin())
    return f"{count}, {counts[fewest]} of class '{source.schema.classes[int(names[fewest])]}'"


def draw_subset(source: Source, count: int, seed: int) -> Source:
    """Return a stratified subset of ``count`` examples, drawn once with the seed.

    Shares are rounded by class, so the subset may be a few examples larger or smaller; where that would be off by over
    5 % (few examples for the number of classes), exactly ``count`` are drawn, some classes with one more than others.
    """
    if count <= 0 or count >= len(source):
        return source
    strata = get_strata(source)
    indices = partition(strata, len(source), (count / len(source),), seed)[1]
    if strata is not None and abs(len(indices) - count) > MAX_DEVIATION * count:
        indices = draw_exactly(strata, count, seed)
    return select_examples(source, indices)


def draw_exactly(targets: Array, count: int, seed: int) -> Array:
    """Return ``count`` indices, sorted: each class its share rounded down, and one more for the largest remainders
    (Hamilton)."""
    rng = make_numpy_generator("split", seed)
    groups = [rng.permutation(np.flatnonzero(targets == c)) for c in np.unique(targets)]
    shares = np.array([len(group) for group in groups]) * (count / len(targets))
    sizes = np.floor(shares).astype(np.int64)
    order = rng.permutation(len(groups))  # of equal remainders the seed picks
    first = order[np.argsort(sizes[order] - shares[order], kind="stable")][: count - int(sizes.sum())]
    sizes[first] += 1
    return np.sort(np.concatenate([group[:size] for group, size in zip(groups, sizes, strict=True)]))

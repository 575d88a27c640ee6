"""Co-occurrence counts of words as a source: blocks of records from a memory-mapped file.

A record is (i, j, X) float32: words and Σ 1/distance over all positions where j is near i. It is symmetric: (j, i) has
the same X. Each block is an even sample of all records, in the order of i (`kernels.cooccurrence.distribute`).
`cooccurrence_build` writes the file once, from a corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from layerwise.data.cache_folders import find_damaged, has_size, load_array, make_damaged_error, read_index
from layerwise.data.source import Array, Example, Examples, Schema

FORMAT = 2
MAX_WORDS = 1 << 24  # words: float32 holds their numbers exactly up to here
RECORDS, SUMS = "records.bin", "sums.npy"


Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]


class Index(msgspec.Struct, frozen=True):
    """The contents of a folder with counts.

    ``origin`` is the name of the text for messages; ``blocks`` of ``block`` records each; ``records`` counts those with
    a count: the others, (0, 0, 0), pad the blocks, at most one each. ``digest`` covers the text and the settings.
    """

    format: int
    origin: str
    words: Count
    window: Count
    block: Count
    blocks: Count
    records: Count
    digest: str


@dataclass(frozen=True)
class Cooccurrences:
    """The blocks of counts in a folder. Their checksums are verified as they are read."""

    folder: str
    index: Index

    @property
    def schema(self) -> Schema:
        """What the examples are: blocks of records, nothing to predict."""
        return Schema("counts", (self.index.block, 3), "none")

    @property
    def targets(self) -> None:
        """Nothing is to be predicted."""
        return None

    @cached_property
    def _records(self) -> tuple[Array, Array]:
        """The blocks, memory-mapped, and their checksums."""
        shape = (self.index.blocks, self.index.block, 3)
        return np.memmap(Path(self.folder, RECORDS), dtype=np.float32, mode="r", shape=shape), _load_sums(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory maps out: a worker opens its own."""
        return {"folder": self.folder, "index": self.index}

    def __len__(self) -> int:
        return self.index.blocks

    def __getitem__(self, index: int) -> Example:
        return Example(self.fetch([range(len(self))[index]]).inputs[0], None)

    def fetch(self, indices: Sequence[int] | Array) -> Examples:
        """Return the examples of these indices, in this order: ``inputs`` are (N, block, 3) float32.

        Raises `DamagedError` for a block that is not what was written.
        """
        at = np.asarray(indices, dtype=np.int64)
        records, sums = self._records
        out = records[at]
        if find_damaged(self.folder, out, sums[at]):
            raise make_damaged_error(self.folder, RECORDS, f"the co-occurrences of {self.index.origin}")
        words, counts = out[..., :2], out[..., 2]  # compiled loops look words up without a check
        if out.size and not (
            0 <= words.min() <= words.max() < self.index.words and 0 <= counts.min() <= counts.max() < np.inf
        ):
            raise make_damaged_error(
                self.folder,
                RECORDS,
                f"pairs of the {self.index.words:,} words of {self.index.origin}, and their counts",
            )
        return Examples(out, None, at)

    def name_of(self, index: int) -> str:
        """Return the text and the number of the block."""
        return f"{self.index.origin}, co-occurrences, block {index} of {self.index.blocks}"

    def fingerprint(self) -> str:
        """Return a digest of the text and of the settings; the folder's path does not count."""
        return self.index.digest


def load_cooccurrences(folder: Path) -> Cooccurrences | None:
    """Return the counts in a folder, checked by its index and file sizes; None if they are missing or incomplete."""
    index = read_index(folder, Index, SUMS)
    if index is None:
        return None
    counts = Cooccurrences(str(folder), index)
    try:
        has_sizes = (
            has_size(folder / RECORDS, index.blocks * index.block * 12) and len(_load_sums(counts)) == index.blocks
        )
    except (OSError, ValueError, EOFError):
        return None
    return counts if has_sizes and index.format == FORMAT else None


def _load_sums(counts: Cooccurrences) -> Array:
    """Return the CRC-32 of each block, (blocks,)."""
    return load_array(Path(counts.folder, SUMS), np.uint32, (counts.index.blocks,))

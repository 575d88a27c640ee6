"""The second epoch over a folder of JPEGs that are kept decoded on disk; beside the same images held in memory, and
decoded anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.cases.decoding import CASE as DECODING
from layerwise.bench.cases.decoding import reading, streamed, timed
from layerwise.bench.process import Measure
from layerwise.runtime.atomic_io import open_temporary_folder

if TYPE_CHECKING:
    from layerwise.data.loader import Batches


def second(batches: Batches) -> Measure:
    """Return the speed of the second epoch."""
    for _ in batches.epoch(0):
        pass
    return timed(batches.epoch(1))


def cached(spec: Spec) -> Measure:
    """Read from a cache, as `train.images` has it."""
    from layerwise.data.images import image_cache

    with reading(spec) as found, open_temporary_folder() as place:
        files = image_cache.beneath(found.images)
        assert files is not None
        kept = image_cache.opened(Path(place), files, limit=1 << 40, told=lambda done, count: None)
        assert isinstance(kept, Path), kept
        return second(streamed(found, image_cache.served(found.images, kept)))


def held(spec: Spec) -> Measure:
    """Read from tensors in memory, as a training does with images that fit."""
    from layerwise.data.loader import MemoryBatches, collated

    with reading(spec) as found:
        return second(found.changed(MemoryBatches(collated(found.images, found.collate, 2), found.order)))


def decoded(spec: Spec) -> Measure:
    """Decode again, without a cache."""
    with reading(spec) as found:
        return second(streamed(found, found.images))


CASE = Case(
    name="cache",
    unit="images/s",
    spec={**DECODING.spec, "workers": 0},
    sides={"ours": cached, "memory": held, "decoded": decoded},
    rows=(Row("the same, held in memory", "memory", Bound(0.95)), Row("the same, decoded anew", "decoded", None)),
    quality=(Quality("cpu_ms", more_is_better=False, judged=False),),
    note="the second epoch over 640×480 JPEGs, to normalized float batches 224×224 with random resized crop and "
    "flip, nothing learned, no "
    "loader workers; the cache is on disk, mapped, and the checksum of every image is computed as it is read",
)

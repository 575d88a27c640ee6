"""The second epoch over a folder of JPEGs with a decoded cache on disk; beside the same images in memory, and
decoded again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.cases.decoding import CASE as DECODING
from layerwise.bench.cases.decoding import measure_speed, open_pipeline, stream_batches
from layerwise.bench.side import Measurement
from layerwise.runtime.in_place_io import open_temporary_folder

if TYPE_CHECKING:
    from layerwise.data.loader import Batches


def measure_second_epoch(batches: Batches) -> Measurement:
    """Return the speed of the second epoch."""
    for _ in batches.iterate(0):
        pass
    return measure_speed(batches.iterate(1))


def measure_cached(spec: Spec) -> Measurement:
    """Read from a cache, as `train.images` has it."""
    from layerwise.data.images import image_cache

    with open_pipeline(spec) as pipeline, open_temporary_folder() as folder:
        files = image_cache.find_image_source(pipeline.images)
        assert files is not None
        cache = image_cache.open_cache(Path(folder), files, limit=1 << 40, progress=lambda done, count: None)
        assert isinstance(cache, Path), cache
        return measure_second_epoch(stream_batches(pipeline, image_cache.use_cache(pipeline.images, cache)))


def measure_in_memory(spec: Spec) -> Measurement:
    """Read from tensors in memory, as a training does if the images fit."""
    from layerwise.data.loader import MemoryBatches, collate_source

    with open_pipeline(spec) as pipeline:
        return measure_second_epoch(
            pipeline.augment(MemoryBatches(collate_source(pipeline.images, pipeline.collate, 2), pipeline.order))
        )


def measure_decoded(spec: Spec) -> Measurement:
    """Decode again, without a cache."""
    with open_pipeline(spec) as pipeline:
        return measure_second_epoch(stream_batches(pipeline, pipeline.images))


CASE = Case(
    name="cache",
    unit="images/s",
    spec={**DECODING.spec, "workers": 0},
    sides={"ours": measure_cached, "memory": measure_in_memory, "decoded": measure_decoded},
    rows=(Row("the same, held in memory", "memory", Bound(0.95)), Row("the same, decoded anew", "decoded", None)),
    quality=(Quality("cpu_ms", more_is_better=False, decides=False),),
    note="the second epoch over 640×480 JPEGs, to normalized float batches 224×224 with random resized crop and "
    "flip, nothing learned, no "
    "loader workers; the cache is on disk, mapped, and the checksum of every image is computed as it is read",
)

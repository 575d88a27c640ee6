"""Reading a folder of JPEGs for training: decoded, cropped at random, flipped, in batches; beside torchvision's
transforms v2."""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement
from layerwise.runtime.atomic_io import make_folder, write_file
from layerwise.runtime.in_place_io import open_temporary_folder

if TYPE_CHECKING:
    from layerwise.data.loader import Batches, BatchSampler, Collate
    from layerwise.data.source import Source
    from layerwise.runtime.compute_settings import ComputeSettings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@contextmanager
def make_image_folder(spec: Spec) -> Iterator[Path]:
    """Make class folders of JPEGs 640×480: parts of scikit-learn's two photographs, enlarged."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    with open_temporary_folder() as root:
        for label, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
            make_folder(root / label)
            for n in range(spec["images"] // 2):
                left, top, share = rng.uniform(0, 100), rng.uniform(0, 60), rng.uniform(0.6, 0.84)
                box = (left, top, left + 640 * share, top + 427 * share)
                image = Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC, box=box)
                buffer = io.BytesIO()
                image.save(buffer, "jpeg", quality=spec["quality"])
                write_file(root / label / f"{n:04d}.jpg", buffer.getvalue())
        yield root


def measure_speed(batches: Iterable[Any]) -> Measurement:
    """Return images per second and processor time, from the first batch to the last, so without the start of the
    workers."""
    marks: list[tuple[float, float]] = []
    count = 0
    for batch in batches:
        count += len(batch) if marks else 0
        marks.append((time.perf_counter(), get_cpu_seconds()))
    (start, before), (end, after) = marks[0], marks[-1]
    return Measurement(count / (end - start), {"cpu_ms": 1e3 * (after - before) / count}, {"counted": count})


def get_cpu_seconds() -> float:
    """Return the seconds of processor time that this process and its workers have used so far."""
    current = psutil.Process()
    times = [process.cpu_times() for process in (current, *current.children(recursive=True))]
    return sum(one.user + one.system for one in times)


class Pipeline(NamedTuple):
    """A training's input pipeline: the folder's images as the task's source, the collation, and the augmentation of
    batches."""

    images: Source
    collate: Collate
    augment: Callable[[Batches], Batches]
    order: BatchSampler
    settings: ComputeSettings


@contextmanager
def open_pipeline(spec: Spec) -> Iterator[Pipeline]:
    """Prepare a training's input pipeline, with its settings applied inside."""
    from layerwise.data import load
    from layerwise.data.loader import BatchSampler
    from layerwise.runtime import compute_settings
    from layerwise.tasks import augmentation
    from layerwise.tasks.classification import Classification

    with make_image_folder(spec) as path:
        source = load.load_parts(load.Options(source=str(path))).parts["train"]
        task = Classification.prepare(source, Classification.Options(size=spec["size"]))
        table = augmentation.resolve_augment(
            {"crop_scale": spec["crop_scale"], "flip": "horizontal"}, task.inputs, "the benchmark"
        )
        settings = compute_settings.resolve(
            device="cpu",
            precision="fp32",
            threads=0,
            workers=spec["workers"],
            streams=spec["workers"] > 0,
            deterministic=False,
            world=1,
        )
        augment = partial(augmentation.augment_batches, inputs=task.inputs, table=table, seed=spec["seed"], stage=0)
        order = BatchSampler(len(source), spec["batch"], spec["seed"])
        with compute_settings.use_settings(settings):
            yield Pipeline(
                task.convert_source(source), augmentation.choose_collate(task, table), augment, order, settings
            )


def stream_batches(pipeline: Pipeline, images: Source) -> Batches:
    """Return augmented batches by the streaming path."""
    import torch

    from layerwise.data.loader import StreamedBatches

    device = torch.device("cpu")
    return pipeline.augment(
        StreamedBatches(images, pipeline.collate, pipeline.order, device, torch.float32, pipeline.settings.workers)
    )


def measure_ours(spec: Spec) -> Measurement:
    """Read by the streaming path of a training."""
    with open_pipeline(spec) as pipeline:
        return measure_speed(stream_batches(pipeline, pipeline.images).iterate(0))


def import_torchvision_v2() -> Any:
    """Import torchvision's transforms v2. Its wheel's operators do not load with a torch for the CPU: they are
    declared but not used."""
    from layerwise.bench.images import declare_torchvision_operators

    declare_torchvision_operators()
    return importlib.import_module("torchvision.transforms.v2")  # it has no types


class ImageFolder:
    """A data set like torchvision's ``ImageFolder``: PIL opens a file, RGB, then the transforms."""

    def __init__(self, path: Path, transform: Any) -> None:
        self.files = sorted(path.rglob("*.jpg"))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        with self.files[index].open("rb") as stream:
            image = Image.open(stream).convert("RGB")
        return self.transform(image), int(self.files[index].parent.name == "temple")


def measure_dataloader(spec: Spec, *, tensors: bool) -> Measurement:
    """Read by ``DataLoader``: PIL, then transforms v2 on PIL's images or, as its pages advise, on tensors of
    bytes."""
    import torch
    from torch.utils.data import DataLoader

    v2 = import_torchvision_v2()
    steps = [v2.RandomResizedCrop(spec["size"], scale=spec["crop_scale"], antialias=True), v2.RandomHorizontalFlip()]
    steps.insert(0 if tensors else len(steps), v2.ToImage())
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    torch.manual_seed(spec["seed"])
    with make_image_folder(spec) as path:
        data: Any = ImageFolder(path, transform)
        return measure_speed((x for x, _ in DataLoader(data, spec["batch"], shuffle=True, num_workers=spec["workers"])))


CASE = Case(
    name="decoding",
    unit="images/s",
    spec={"images": 768, "quality": 90, "batch": 32, "workers": 1, "size": 224, "crop_scale": [0.08, 1.0]},
    sides={
        "ours": measure_ours,
        "pil": lambda spec: measure_dataloader(spec, tensors=False),
        "tensors": lambda spec: measure_dataloader(spec, tensors=True),
    },
    rows=(
        Row("DataLoader, PIL, torchvision transforms v2", "pil", Bound(1.5)),
        Row("the same, transforms on tensors of bytes", "tensors", Bound(1.5)),
    ),
    quality=(Quality("cpu_ms", more_is_better=False, decides=False),),
    note="640×480 JPEGs on disk to normalized float batches 224×224, random resized crop and flip, one loader "
    "worker each, nothing "
    "learned; from the first batch to the last. Ours decodes to 224 first (the JPEG's transform at half "
    "size) and crops from that, so "
    "small crops are softer than the peer's, which crops from all of 640×480; ours crops in the training "
    "process, the peers in the worker; "
    "cpu_ms is the processor time of all processes for an image, which says more where cores are shared or few",
)

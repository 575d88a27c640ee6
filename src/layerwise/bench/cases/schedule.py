"""resnet20 on the JPEG copy of CIFAR-10 by its paper's schedule on an NVIDIA GPU, beside a plain script of
torchvision's kind.

He et al. 2016, section 4.2: 64,000 steps of 128 images, SGD with momentum 0.9 and weight decay 1e-4, the rate 0.1
divided by 10 at half and at three quarters of them; images padded by 4, cut back at random and mirrored. Both sides
train equally long on 45,000 files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerwise.bench.base import Case, Quality, Row, Spec
from layerwise.bench.cases.cuda import lacking
from layerwise.bench.process import Measure
from layerwise.runtime.atomic_io import open_temporary_folder

if TYPE_CHECKING:
    from layerwise.planning.resolve import Plan, Request

SETTINGS = (
    "rule.optimizer='momentum'",
    "rule.lr=0.1",
    "rule.schedule='step'",
    "rule.warmup=0",
    "rule.l2=0",
    "rule.weight_decay=0.0001",
    "monitor='last'",
    "train.device='cuda'",
    "train.compile=true",
)


@contextmanager
def unpacked() -> Iterator[Path]:
    """Unpack the images into class folders under ``train`` and ``test``."""
    import tarfile

    from layerwise.data.download.datasets import folder_of

    (archive,) = folder_of("cifar10").glob("*.tar.gz")
    with open_temporary_folder() as folder, tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
        yield folder


def asked(images: Path, spec: Spec) -> Request:
    """Return the request of our side."""
    from layerwise.bench.training import request

    return request("resnet20", {**spec, "data": str(images)}, SETTINGS)


def ours(spec: Spec) -> Measure:
    """Train as ``layerwise train`` does."""
    from layerwise.bench.training import trained

    began = time.perf_counter()
    with unpacked() as images, trained(asked(images, spec)) as done:
        facts = {**done.facts, "seconds": time.perf_counter() - began, "steps_per_second": done.steps_per_second}
        accuracy = done.outcome.metrics["test/accuracy"]
    return Measure(accuracy, {"accuracy": accuracy, "seconds": facts["seconds"]}, {**facts, **device()})


def device() -> dict[str, str]:
    """Return the GPU's name."""
    import torch

    return {"device": torch.cuda.get_device_name()}


class Labeled:
    """Files as torchvision's ``ImageFolder`` gives them: PIL opens one, RGB, then the transforms; the label is the
    folder's place."""

    def __init__(self, files: Sequence[str], transform: Any) -> None:
        self.files, self.transform = [Path(file) for file in files], transform
        classes = sorted({file.parent.name for file in self.files})
        self.labels = [classes.index(file.parent.name) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        with self.files[index].open("rb") as stream:
            image = Image.open(stream).convert("RGB")
        return self.transform(image), self.labels[index]


def loaders(made: Plan) -> tuple[Any, Any]:
    """Return the plain script's loaders of the files that our side learns from and is tested on, with the same mean and
    deviation."""
    from torch.utils.data import DataLoader

    from layerwise.bench.images import torchvision_operators
    from layerwise.runtime.machine import cores

    torchvision_operators()
    from torchvision import transforms as T

    usual = [T.ToTensor(), T.Normalize(made.task.inputs.mean, made.task.inputs.std)]  # type: ignore[attr-defined]
    changed = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *usual])
    found = []
    for part, transform in ((made.splits.train, changed), (made.splits.test, T.Compose(usual))):
        data: Any = Labeled([part.name_of(i) for i in range(len(part))], transform)
        found.append(
            DataLoader(
                data,
                batch_size=made.recipe.stages[0].batch,
                shuffle=transform is changed,
                num_workers=max(1, cores() - 2),
                pin_memory=True,
                persistent_workers=True,
            )
        )
    return found[0], found[1]


def script(spec: Spec) -> Measure:
    """Train the same network as torchvision's references and the tutorials do: a loader, a plain loop, torch's SGD and
    schedule."""
    import torch
    from torch import nn

    from layerwise.planning import build
    from layerwise.planning.resolve import plan

    began = time.perf_counter()
    torch.backends.cudnn.benchmark = True
    with unpacked() as images:
        made = plan(asked(images, spec))
        train, test = loaders(made)
        network = build.network(made, torch.device("cuda"))
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        steps = spec["epochs"] * len(train)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        for epoch in range(spec["epochs"]):
            print(f"epoch {epoch}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            network.train()
            for images, labels in train:
                images, labels = images.cuda(non_blocking=True), labels.cuda(non_blocking=True)
                loss = criterion(network(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        network.eval()
        right = 0
        with torch.inference_mode():
            for images, labels in test:
                right += int((network(images.cuda()).argmax(1) == labels.cuda()).sum())
        accuracy = right / len(test.dataset)
    seconds = time.perf_counter() - began
    return Measure(
        accuracy,
        {"accuracy": accuracy, "seconds": seconds},
        {"steps": steps, "last_loss": float(loss.detach()), **device()},
    )


CASE = Case(
    name="schedule",
    unit="accuracy",
    spec={"epochs": 182},
    sides={"ours": ours, "script": script},
    rows=(Row("plain script, the same network, files and schedule", "script", None),),
    quality=(Quality("accuracy", judged=False), Quality("seconds", more_is_better=False, judged=False)),
    average="mean",
    note="182 epochs of 352 steps, batch 128; the last weights on the 10,000 test images; seconds from start to "
    "end, unpacking too",
    timeout=7200,
    lacking=lacking,
)

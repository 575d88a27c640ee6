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
from layerwise.bench.cases.cuda import get_skip_reason
from layerwise.bench.side import Measurement
from layerwise.runtime.in_place_io import open_temporary_folder

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
def unpack_images() -> Iterator[Path]:
    """Unpack the images into class folders under ``train`` and ``test``."""
    import tarfile

    from layerwise.data.download.datasets import get_dataset_folder

    (archive,) = get_dataset_folder("cifar10").glob("*.tar.gz")
    with open_temporary_folder() as folder, tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
        yield folder


def build_request(images: Path, spec: Spec) -> Request:
    """Return the request of our side."""
    from layerwise.bench.training import make_request

    return make_request("resnet20", {**spec, "data": str(images)}, SETTINGS)


def measure_ours(spec: Spec) -> Measurement:
    """Train as ``layerwise train`` does."""
    from layerwise.bench.training import train_run

    start = time.perf_counter()
    with unpack_images() as images, train_run(build_request(images, spec)) as run:
        facts = {**run.facts, "seconds": time.perf_counter() - start, "steps_per_second": run.steps_per_second}
        accuracy = run.outcome.metrics["test/accuracy"]
    return Measurement(accuracy, {"accuracy": accuracy, "seconds": facts["seconds"]}, {**facts, **get_device()})


def get_device() -> dict[str, str]:
    """Return the GPU's name."""
    import torch

    return {"device": torch.cuda.get_device_name()}


class ImageFiles:
    """Files as torchvision's ``ImageFolder`` gives them: PIL opens one, RGB, then the transforms; the label is the
    folder's index."""

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


def build_loaders(plan: Plan) -> tuple[Any, Any]:
    """Return the plain script's loaders of the files that our side learns from and is tested on, with the same mean and
    deviation."""
    from torch.utils.data import DataLoader

    from layerwise.bench.images import declare_torchvision_operators
    from layerwise.runtime.resources import count_cores

    declare_torchvision_operators()
    from torchvision import transforms as T

    usual = [T.ToTensor(), T.Normalize(plan.task.inputs.mean, plan.task.inputs.std)]  # type: ignore[attr-defined]
    augmented = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *usual])
    loaders = []
    for part, transform in ((plan.splits.train, augmented), (plan.splits.test, T.Compose(usual))):
        data: Any = ImageFiles([part.name_of(i) for i in range(len(part))], transform)
        loaders.append(
            DataLoader(
                data,
                batch_size=plan.recipe.stages[0].batch_size,
                shuffle=transform is augmented,
                num_workers=max(1, count_cores() - 2),
                pin_memory=True,
                persistent_workers=True,
            )
        )
    return loaders[0], loaders[1]


def measure_script(spec: Spec) -> Measurement:
    """Train the same network as torchvision's references and the tutorials do: a loader, a plain loop, torch's SGD and
    schedule."""
    import torch
    from torch import nn

    from layerwise.planning import build
    from layerwise.planning.resolve import make_plan

    start = time.perf_counter()
    torch.backends.cudnn.benchmark = True
    with unpack_images() as images:
        plan = make_plan(build_request(images, spec))
        train, test = build_loaders(plan)
        network = build.build_model(plan, torch.device("cuda"))
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        steps = spec["epochs"] * len(train)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        for epoch in range(spec["epochs"]):
            print(f"epoch {epoch}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            network.train()
            for images, labels in train:
                images, labels = images.cuda(non_blocking=True), labels.cuda(non_blocking=True)
                loss = criterion(network(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        network.eval()
        correct = 0
        with torch.inference_mode():
            for images, labels in test:
                correct += int((network(images.cuda()).argmax(1) == labels.cuda()).sum())
        accuracy = correct / len(test.dataset)
    seconds = time.perf_counter() - start
    return Measurement(
        accuracy,
        {"accuracy": accuracy, "seconds": seconds},
        {"steps": steps, "last_loss": float(loss.detach()), **get_device()},
    )


CASE = Case(
    name="resnet20-cifar10",
    unit="accuracy",
    spec={"epochs": 182},
    sides={"ours": measure_ours, "script": measure_script},
    rows=(Row("plain script, the same network, files and schedule", "script", None),),
    quality=(Quality("accuracy", decides=False), Quality("seconds", more_is_better=False, decides=False)),
    average="mean",
    note="182 epochs of 352 steps, batch 128; the last weights on the 10,000 test images; seconds from start to "
    "end, unpacking too",
    timeout=7200,
    skip_reason=get_skip_reason,
)

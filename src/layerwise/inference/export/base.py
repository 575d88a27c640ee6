"""What every export needs: its `ExportSource`, its `Check` against the network, and its metadata."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from layerwise import __version__
from layerwise.errors import LayerwiseError, UsageError
from layerwise.registry import ModelSpec
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs

FORMAT = 1
INPUT = "input"
SIZES = (1, 2, 7, 16)  # batch sizes that an export is checked over
TOLERANCE = 1e-4  # of the largest reference value: rounding adds up to 1e-6 or so, a wrong graph is off by far more
Json = dict[str, Any]
Forward = Callable[[Tensor], Sequence[Tensor]]


class ExportError(LayerwiseError):
    """The exported file does not compute what the network computes."""


@dataclass(frozen=True)
class ExportSource:
    """What is exported: a model's network with its weights, the task that gives it meaning, and the weights'
    checksum."""

    spec: ModelSpec
    arguments: Json
    model: nn.Module
    task: Task
    weights: str

    @property
    def prediction_model(self) -> nn.Module:
        """The network that maps encoded raw inputs to what the task decodes."""
        return self.task.prediction_model(self.model)


class Difference(msgspec.Struct, frozen=True):
    """Over a batch of this size: the largest difference, and that relative to the largest value of the network's
    output."""

    batch: int
    absolute: float
    relative: float


class Check(msgspec.Struct, frozen=True):
    """How far an export is from the network, and by what it was run."""

    by: str
    tolerance: float
    differences: list[Difference]

    @property
    def passed(self) -> bool:
        """Whether every difference keeps to the tolerance; NaN does not."""
        return all(one.relative <= self.tolerance for one in self.differences)


def compare(
    run: Forward, source: ExportSource, *, by: str, sizes: Sequence[int] = SIZES, reference: nn.Module | None = None
) -> Check:
    """Run made-up inputs of several batch sizes through both, and return the differences of all outputs.

    ``reference`` is the network with its prediction (`Task.export_module`) unless another module is given.
    """
    module = (reference or source.task.export_module(source.model).module).eval()
    dtype = get_dtype(source.model)
    generator = torch.Generator().manual_seed(0)
    differences = []
    with torch.inference_mode():
        for size in sizes:
            x = source.task.inputs.probe(size, generator)
            expected = module(x.to(dtype))
            actual = run(x)
            expected = expected if isinstance(expected, tuple) else (expected,)
            differences.append(_compute_difference(size, expected, actual))
    return Check(by, TOLERANCE, differences)


def _compute_difference(size: int, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Difference:
    """Return the largest differences over all outputs; infinite where a shape is wrong."""
    absolute = relative = 0.0
    for a, b in zip(expected, actual, strict=True):
        if a.shape != b.shape:
            return Difference(size, float("inf"), float("inf"))
        gap = float((a.double() - b.double()).abs().max())
        largest = float(a.double().abs().max())
        part = gap / largest if largest else gap
        absolute = gap if not gap <= absolute else absolute
        relative = part if not part <= relative else relative
    return Difference(size, absolute, relative)


def raise_if_failed(check: Check, what: str) -> None:
    """Raise `ExportError` for an export that does not compute what the network computes."""
    if not check.passed:
        worst = max(check.differences, key=lambda one: one.relative if one.relative == one.relative else float("inf"))
        raise ExportError(
            f"{what} does not compute what the network computes, and was not kept",
            expected=f"differences up to {check.tolerance:g} of the largest output, run by {check.by}",
            received=f"{worst.relative:.3g} at batch size {worst.batch}",
            do="export .safetensors, which keeps the weights as they are, and report this with the model's name",
        )


def get_dtype(model: nn.Module) -> torch.dtype:
    """Return the floating-point type of a network's weights; float32 if it has none."""
    return next((t.dtype for t in model.state_dict().values() if t.is_floating_point()), torch.float32)


def require_packages(*packages: str, extra: str, to: str) -> None:
    """Raise `UsageError` that says what to install where a package of an extra is missing."""
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{to} needs {' and '.join(missing)}, not installed here",
            expected=f"the extra '{extra}'",
            do=f'pip install "layerwise[{extra}]"',
        )


@contextmanager
def mute_logger(name: str) -> Iterator[None]:
    """Keep a library's log off standard error: errors are raised with our own messages."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def build_metadata(source: ExportSource, *, folded: int | None) -> Json:
    """Return what an exported file needs besides the network: task with labels and preprocessing, the names and shapes
    of inputs and outputs, versions.

    ``folded``: how many batch norms were folded away, None where that was not asked for.
    """
    task = source.task
    saved = task.to_json()
    with torch.inference_mode():
        probe = task.inputs.probe(2, torch.Generator().manual_seed(0)).to(get_dtype(source.model))
        exported = task.export_module(source.model)
        shapes = [list(out.shape[1:]) for out in exported.module.eval()(probe)]
    return {
        "format": FORMAT,
        "model": source.spec.name,
        "arguments": source.arguments,
        "weights": source.weights,
        "batch_norms_folded": folded,
        "input": {
            "name": INPUT,
            "shape": ["batch", *probe.shape[1:]],
            "type": "float32",
            "preprocessing": describe_preprocessing(task),
        },
        "outputs": [
            {"name": out.name, "shape": ["batch", *shape], "meaning": out.meaning}
            for out, shape in zip(exported.outputs, shapes, strict=True)
        ],
        "labels": saved.get("classes"),
        "task": saved,
        "versions": {"layerwise": __version__, "torch": version("torch"), "python": platform.python_version()},
    }


def describe_preprocessing(task: Task) -> list[str]:
    """Return, in words and in order, what is done to a raw input before the graph sees it; the numbers are in
    ``task``."""
    inputs = task.inputs
    if isinstance(inputs, ImageInputs):
        height, width = inputs.size
        color = "gray (ITU-R 601-2 luma)" if inputs.channels == 1 else "RGB"
        return [
            f"decode to 8-bit {color}, EXIF rotation applied, alpha over white",
            "divide by 255",
            f"scale, keeping the proportions, until both sides reach {height}×{width} (bilinear, "
            "antialiased); crop the center to that",
            f"subtract the mean {list(inputs.mean)} and divide by the standard deviation {list(inputs.std)}, "
            "by channel",
            "order the axes batch, channel, row, column",
        ]
    return [
        "encode each column by its encoder (task.inputs.columns), in order; embedded categories come last, as numbers"
    ]

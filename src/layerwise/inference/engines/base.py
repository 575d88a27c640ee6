"""The contract of an engine: it maps encoded inputs to the network's own outputs, in chunks that fit the caches and
memory.

``N`` examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.errors import DamagedError, UsageError
from layerwise.inference.export.base import ExportSource, compare
from layerwise.runtime import compute_settings

NAMES = ("torch", "compiled", "onnxruntime", "openvino", "auto")
CPU_ENGINES = ("onnxruntime", "openvino")
CHUNK_NUMBERS = 16 * 3 * 224 * 224  # 16 images of ImageNet's size: more gain nothing, and their maps fill the memory
MAX_CHUNK = 256  # examples: as many as `predict` gathers


def compute_chunk_size(shape: tuple[int, ...]) -> int:
    """Return how many inputs of a shape, without the batch dimension, are run at a time."""
    return max(1, min(MAX_CHUNK, CHUNK_NUMBERS // max(1, torch.Size(shape).numel())))


def choose_device(engine: str, wanted: str) -> torch.device:
    """Return the device on which an engine of this name runs: the one wanted, and for ``auto`` CUDA before the CPU.

    The runtimes run on the CPU alone. Raises `UsageError` for another device there, and for one that is not here.
    """
    if engine not in CPU_ENGINES:
        return compute_settings.pick_device(wanted)
    if wanted not in ("auto", "cpu"):
        raise UsageError(
            f"the engine {engine} runs on the CPU",
            expected="--device cpu, or the engine torch",
            received=f"--device {wanted}",
            do=f"leave out --engine {engine}; torch runs the network on {wanted}",
        )
    return torch.device("cpu")


class Engine(nn.Module, ABC):
    """Runs a network's forward pass. A module, so that it stands wherever the network itself would."""

    name: str

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """Map one chunk of encoded inputs (N, …) to the network's own outputs (N, …)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map encoded inputs (N, …), chunk by chunk."""
        size = compute_chunk_size(tuple(x.shape[1:]))
        if len(x) <= size:
            return self.run(x)
        return torch.cat([self.run(part) for part in x.split(size)])

    def describe(self) -> Mapping[str, Any]:
        """Return what ran, as plain JSON."""
        return {"name": self.name}

    def notes(self) -> list[str]:
        """Return what a user should know of how the engine was chosen, in lines."""
        return []


def verify_engine(engine: Engine, source: ExportSource) -> None:
    """Compare an engine with the network on made-up inputs. Raises `DamagedError` where they differ by more than
    rounding."""
    check = compare(lambda x: [engine.run(x)], source, by=engine.name, sizes=(1, 3), reference=source.prediction_model)
    if not check.passed:
        worst = max(one.relative for one in check.differences)
        raise DamagedError(
            f"the engine {engine.name} does not compute what {source.spec.name} computes here, and was not used",
            expected=f"outputs within {check.tolerance:g} of the largest",
            received=f"{worst:.3g}",
            do="use --engine torch",
        )

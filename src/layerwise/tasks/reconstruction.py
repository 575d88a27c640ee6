"""Reconstruction of the input. Needs no targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import msgspec
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch, get_weights
from layerwise.data.source import Examples, Source
from layerwise.data.values import call
from layerwise.functional.losses import squared_error
from layerwise.tasks import input_options
from layerwise.tasks.base import Export, Goal, Loss, Output, PredictionModule, Task
from layerwise.tasks.column_encoders import Scale
from layerwise.tasks.records import ReconstructionRecord


class ReconstructionOptions(input_options.InputOptions, frozen=True, forbid_unknown_fields=True):
    """``scale`` unit gives inputs in [0, 1], as Boltzmann machines need; the others as in classification."""

    scale: Scale = "unit"


class ReconstructionPrediction(msgspec.Struct, frozen=True):
    """How far the reconstruction is from the input: the mean squared error over its features, in scaled units."""

    error: float


@dataclass
class ReconstructionMeter:
    """Mean squared error per feature, and per example."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add reconstructions (N, …) of the inputs."""
        error = squared_error(outputs.double(), batch.input_tensor.double().view_as(outputs)).sum()
        counts = error.new_tensor([float(len(batch)), float(batch.input_tensor.numel())])
        self.sums += torch.cat([error[None], counts]).cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the three sums."""
        return {"sums": self.sums}

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add another meter's sums."""
        self.sums = self.sums + other["sums"]

    def result(self) -> dict[str, float]:
        """Return ``mse`` (per feature) and ``loss`` = mean of ‖x−x̂‖² (E24)."""
        error, examples, features = self.sums.tolist()
        return {"mse": error / max(1.0, features), "loss": error / max(1.0, examples)}


@dataclass
class Reconstruction(Task):
    """The input is the target: L = ‖x − x̂‖², summed over features, mean over the batch (E24)."""

    name = "reconstruction"
    Options = ReconstructionOptions
    goal: ClassVar[Goal] = Goal("mse", False)

    @classmethod
    def prepare(cls, source: Source, options: msgspec.Struct, given: dict[str, Any] | None = None) -> Self:
        """Take the input statistics from the training part."""
        assert isinstance(options, ReconstructionOptions)
        return cls.from_json(given) if given else cls(input_options.fit_inputs(source, options))

    def model_args(self) -> dict[str, Any]:
        """Return what the inputs decide."""
        return self.inputs.model_args()

    def convert_source(self, source: Source) -> Source:
        """Check the inputs; targets are ignored."""
        return self.inputs.convert_source(source)

    def collate(self, examples: Examples) -> Batch:
        """Turn decoded examples into inputs (N, …)."""
        return Batch(self.inputs.tensor(examples.inputs), None, torch.from_numpy(examples.ids), get_weights(examples))

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the summed squared error of the model's reconstruction."""
        outputs = call(model, batch.inputs)
        total = self.losses(outputs, batch).sum()
        return Loss(total, float(len(batch)), {"squared error": total}, outputs)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each example's squared error, (N,)."""
        return squared_error(outputs, batch.input_tensor.view_as(outputs))

    def meter(self) -> ReconstructionMeter:
        """Return a new meter of the mean squared error."""
        return ReconstructionMeter()

    def decode(self, outputs: Tensor, batch: Batch) -> list[msgspec.Struct]:
        """Return each input's mean squared reconstruction error per feature."""
        errors = self.losses(outputs, batch).double() / batch.input_tensor[0].numel()
        return [ReconstructionPrediction(error) for error in errors.tolist()]

    def export_module(self, model: nn.Module) -> Export:
        """Return the network with each input's mean squared error of reconstruction per feature, (N,)."""
        outputs = (
            Output("reconstruction", "the input as the network says it again"),
            Output("error", "mean squared error per feature"),
        )
        return Export(
            PredictionModule(model, lambda rebuilt, x: (rebuilt.flatten(1) - x.flatten(1)).square().mean(1)), outputs
        )

    def to_json(self) -> dict[str, Any]:
        """Return the inputs."""
        return {"name": self.name, "inputs": self.inputs.to_json()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """Restore the task from `to_json`'s output."""
        return cls(input_options.inputs_from_record(msgspec.convert(saved, ReconstructionRecord).inputs))

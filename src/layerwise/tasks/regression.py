"""Regression: a number from images or rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch, get_weights
from layerwise.data.source import FLOAT32_MAX, Array, Examples, Relabeled, Source, get_targets
from layerwise.data.values import call
from layerwise.errors import DataError, UsageError
from layerwise.functional.losses import absolute_error, huber, squared_error
from layerwise.tasks import input_options
from layerwise.tasks.base import Export, Goal, Loss, Output, PredictionModule, Task, sum_losses
from layerwise.tasks.records import RegressionRecord
from layerwise.tasks.scaling import is_out_of_range, standard_scale

DELTA = 1.0  # deviations of the target
ROUNDED = 1e-12  # Σ(y−ȳ)² below this share of Σy² is what rounding leaves of equal targets


class RegressionOptions(input_options.InputOptions, frozen=True, forbid_unknown_fields=True):
    """``loss``: mse or mae (E06) or huber with ``huber_delta`` δ, on targets brought to mean 0, deviation 1.

    Inputs as in classification.
    """

    loss: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: float = DELTA


class RegressionPrediction(msgspec.Struct, frozen=True):
    """The prediction of a regression, in the target's own unit."""

    value: float


@dataclass
class RegressionMeter:
    """MAE, RMSE and R² in the target's own unit."""

    shift: float
    spread: float
    sums: Tensor = field(default_factory=lambda: torch.zeros(5, dtype=torch.float64))

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add scaled outputs and targets (N, 1)."""
        assert batch.targets is not None
        target = batch.target_tensor.double()  # scaled, so that squares of large amounts do not drown their variance
        error = (outputs.double() - target) * self.spread
        count = error.new_tensor(float(len(batch)))
        parts = (count, error.abs().sum(), error.square().sum(), target.sum(), target.square().sum())
        self.sums += torch.stack(parts).cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the five sums."""
        return {"sums": self.sums}

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add another meter's sums."""
        self.sums = self.sums + other["sums"]

    def result(self) -> dict[str, float]:
        """Return ``mae``, ``rmse``, ``r2`` = 1 − Σ(ŷ−y)² / Σ(y−ȳ)² and ``loss`` (the mean square of the scaled error).

        Where all targets are equal, R² is not defined: NaN.
        """
        count, absolute, square, total, total2 = self.sums.tolist()
        count = max(1.0, count)
        total_variation = (total2 - total * total / count) * self.spread**2
        return {
            "mae": absolute / count,
            "rmse": math.sqrt(square / count),
            "r2": 1 - square / total_variation if total_variation > ROUNDED * total2 * self.spread**2 else math.nan,
            "loss": square / count / self.spread**2,
        }


def to_numeric_targets(source: Source) -> Source:
    """Return the source with numbers as targets: where these are or may be classes, labels become the values they name.

    Raises `DataError` where the target is no number: classes with names that are none.
    """
    schema = source.schema
    if schema.target == "class" and schema.classes and all(map(_is_number, schema.classes)):
        return Relabeled(source, (), np.array([float(name) for name in schema.classes]), "either")
    if schema.target not in ("number", "either"):
        raise DataError(
            "these examples have no number to predict",
            expected="a numeric target",
            received=f"a target of kind '{schema.target}'"
            + (f": {', '.join(schema.classes[:5])}" if schema.classes else ""),
        )
    if schema.target == "either" and schema.classes:
        return Relabeled(source, (), np.array([float(name) for name in schema.classes]))
    return source


def check_targets(source: Source, name: str, targets: Array, *, shift: float = 0.0, spread: float = 1.0) -> None:
    """Raise `DataError` for a target (N,) that is not finite, or that float32 cannot hold, as it is or scaled."""
    values = targets.astype(np.float64)
    invalid = np.flatnonzero(~np.isfinite(values) | is_out_of_range(values, shift=shift, spread=spread))
    if len(invalid):
        finite = np.isfinite(values[invalid[0]])
        raise DataError(
            f"{source.name_of(int(invalid[0]))}: the target '{name}' is {'out of range' if finite else 'not finite'} "
            f"({len(invalid)} such examples)",
            expected=f"a number of at most {FLOAT32_MAX:.4g} in size, before and after scaling"
            if finite
            else "a finite number",
            received=f"{values[invalid[0]]:g}",
            do="correct or remove these rows" + (", or write the target in another unit" if finite else ""),
        )


def _is_number(name: str) -> bool:
    """Whether a class is named by a finite number."""
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def check_delta(options: RegressionOptions) -> None:
    """Raise `UsageError` for a δ that is not over 0, and for one with another loss than Huber's."""
    if options.huber_delta <= 0:
        raise UsageError(
            "Huber's loss turns straight at δ", expected="task.huber_delta over 0", received=f"{options.huber_delta:g}"
        )
    if options.loss != "huber" and options.huber_delta != DELTA:
        raise UsageError(
            f"task.huber_delta is Huber's, and the loss is {options.loss}",
            received=f"task.huber_delta = {options.huber_delta:g}",
            do="set task.loss=huber, or leave task.huber_delta out",
        )


@dataclass
class Regression(Task):
    """Predict one number per example. The model learns the standardized target; predictions are in the target's
    unit."""

    name = "regression"
    Options = RegressionOptions
    goal: ClassVar[Goal] = Goal("rmse", False)
    target: str
    shift: float
    spread: float
    loss: str
    delta: float = DELTA

    @classmethod
    def prepare(cls, source: Source, options: msgspec.Struct, given: dict[str, Any] | None = None) -> Self:
        """Take the target's mean and deviation and the input statistics from the training part."""
        assert isinstance(options, RegressionOptions)
        if given:
            return cls.from_json(given)
        check_delta(options)
        source = to_numeric_targets(source)
        targets = get_targets(source)
        if targets is None:
            raise DataError("these examples have no number to predict", expected="a numeric target", received="none")
        check_targets(source, source.schema.target_name, targets)
        shift, spread = standard_scale(targets.astype(np.float64))
        task = cls(
            input_options.fit_inputs(source, options),
            source.schema.target_name,
            shift,
            spread,
            options.loss,
            options.huber_delta,
        )
        task.convert_source(source)
        return task

    def model_args(self) -> dict[str, Any]:
        """Return ``outputs`` = 1 and what the inputs decide."""
        return {"outputs": 1, **self.inputs.model_args()}

    def convert_source(self, source: Source) -> Source:
        """Check inputs, and that every target is a number that float32 holds; labels become the numbers they name."""
        source = self.inputs.convert_source(source)
        source = to_numeric_targets(source)
        targets = get_targets(source)
        if targets is None:
            raise DataError(f"{source.name_of(0)} has no target to compare with", expected="a numeric target")
        check_targets(source, self.target, targets, shift=self.shift, spread=self.spread)
        return source

    def collate(self, examples: Examples) -> Batch:
        """Turn decoded examples into inputs (N, …) and standardized targets (N, 1) float64."""
        targets = None
        if examples.targets is not None:
            scaled = (np.asarray(examples.targets, dtype=np.float64) - self.shift) / self.spread
            targets = torch.from_numpy(scaled)[:, None]
        return Batch(
            self.inputs.tensor(examples.inputs), targets, torch.from_numpy(examples.ids), get_weights(examples)
        )

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Return the summed error of the model on a batch."""
        outputs = call(model, batch.inputs)
        total, weight = sum_losses(self.losses, outputs, batch)
        return Loss(total, weight, {self.loss: total}, outputs)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each example's error, (N,)."""
        assert batch.targets is not None
        targets = batch.target_tensor.to(outputs.dtype)
        if self.loss == "huber":
            return huber(outputs, targets, delta=self.delta)
        return squared_error(outputs, targets) if self.loss == "mse" else absolute_error(outputs, targets)

    def average_outputs(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the mean."""
        return torch.stack([*outputs]).mean(0)

    def meter(self) -> RegressionMeter:
        """Return a new meter of MAE, RMSE and R²."""
        return RegressionMeter(self.shift, self.spread)

    def decode(self, outputs: Tensor, batch: Batch) -> list[msgspec.Struct]:
        """Return each example's number in the target's own unit."""
        return [RegressionPrediction(v) for v in (outputs.double()[:, 0] * self.spread + self.shift).tolist()]

    def export_module(self, model: nn.Module) -> Export:
        """Return the network with its number in the target's own unit, (N, 1)."""
        outputs = (
            Output("standardized", "the network's own output: (value − mean) / deviation"),
            Output("value", f"'{self.target}' in its own unit"),
        )
        return Export(PredictionModule(model, lambda scaled, _: scaled * self.spread + self.shift), outputs)

    def to_json(self) -> dict[str, Any]:
        """Return the target's statistics and the inputs."""
        return {
            "name": self.name,
            "target": self.target,
            "shift": self.shift,
            "spread": self.spread,
            "loss": self.loss,
            "delta": self.delta,
            "inputs": self.inputs.to_json(),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """Restore the task from `to_json`'s output."""
        record = msgspec.convert(saved, RegressionRecord)
        inputs = input_options.inputs_from_record(record.inputs)
        return cls(inputs, record.target, record.shift, record.spread, record.loss, record.delta)

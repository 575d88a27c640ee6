"""The contract of a task: what outputs mean and how wrong they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import msgspec
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.source import Examples, Source
from layerwise.data.values import call
from layerwise.errors import UsageError
from layerwise.tasks.inputs import Inputs

Json = dict[str, Any]


class Loss(NamedTuple):
    """An objective over a batch: a SUM and the weight it covers. The rule divides by the weight of the whole window
    over all ranks.

    ``parts`` are its named terms (sums too), for progress; ``outputs`` the model's outputs, for meters.
    """

    total: Tensor
    weight: float
    parts: Mapping[str, Tensor]
    outputs: Tensor | None = None


def sum_weighted_losses(losses: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Return the sum of losses (N, …), each times its example's weight, and the sum of the weights."""
    if batch.weights is None:
        return losses.sum(), float(len(batch))
    weights = batch.weights.to(losses.dtype)
    return (losses * weights.view(-1, *[1] * (losses.ndim - 1))).sum(), float(batch.weights.sum())


class PredictionModule(nn.Module):
    """A network that also returns its predictions: the module that is exported as a graph."""

    def __init__(self, model: nn.Module, predict: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.predict = predict

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map encoded inputs (N, …) to the network's outputs (N, …) and its predictions from them."""
        outputs: Tensor = self.model(x)
        return outputs, self.predict(outputs, x)


class Output(NamedTuple):
    """An output of an exported graph: its name, and what it is."""

    name: str
    meaning: str


class Export(NamedTuple):
    """The module that is exported, and its outputs: the network's own first, then the predictions."""

    module: PredictionModule
    outputs: tuple[Output, Output]


def sum_losses(losses: Callable[[Tensor, Batch], Tensor], outputs: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Return the sum of a batch's losses, by ``losses(outputs, batch)`` (N, …) and weights, and the weight it covers.

    Of mixed examples it is the convex combination λ·ℓ(z, y) + (1−λ)·ℓ(z, y′), each term with its own example's weight.
    """
    mix = batch.mix
    if mix is None or mix.targets is None:
        return sum_weighted_losses(losses(outputs, batch), batch)
    other = replace(batch, targets=mix.targets, weights=mix.weights, mix=None)
    other_share = 1 - mix.share
    if batch.weights is None or mix.weights is None:
        own, others = (replace(part, weights=share) for part, share in ((batch, mix.share), (other, other_share)))
    else:
        own = replace(batch, weights=batch.weights * mix.share)
        others = replace(other, weights=mix.weights * other_share)
    (own_total, own_weight), (other_total, other_weight) = (
        sum_weighted_losses(losses(outputs, part), part) for part in (own, others)
    )
    return own_total + other_total, float(len(batch)) if batch.weights is None else own_weight + other_weight


class Meter(Protocol):
    """Gathers what a metric needs over batches; metrics are no means of batches."""

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch of outputs."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What was gathered, as tensors, to be sent to other ranks."""
        ...

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add what another meter gathered (its `state`)."""
        ...

    def result(self) -> dict[str, float]:
        """Return the metrics by name."""
        ...


class EvaluationMeter(Meter, Protocol):
    """A fuller meter, for evaluation and reports: the meter's metrics and more, and tables."""

    def details(self) -> Json:
        """Return the tables as plain JSON; empty where there are none."""
        ...


@dataclass
class BasicEvaluationMeter:
    """A task's own meter as an evaluation meter without tables."""

    basic: Meter

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch of outputs."""
        self.basic.update(outputs, batch)

    def state(self) -> dict[str, Tensor]:
        """What was gathered."""
        return self.basic.state()

    def merge_state(self, other: Mapping[str, Tensor]) -> None:
        """Add what another gathered."""
        self.basic.merge_state(other)

    def result(self) -> dict[str, float]:
        """Return the metrics by name."""
        return self.basic.result()

    def details(self) -> Json:
        """Nothing more."""
        return {}


class Goal(NamedTuple):
    """The metric by which the best weights are chosen, and whether more is better."""

    metric: str
    more_is_better: bool


@dataclass
class Task(ABC):
    """What examples, outputs and errors mean. Subclasses are final and made by ``prepare`` or ``from_json``."""

    name: ClassVar[str]
    Options: ClassVar[type[msgspec.Struct]]
    goal: ClassVar[Goal]
    inputs: Inputs

    @classmethod
    @abstractmethod
    def prepare(cls, source: Source, options: msgspec.Struct, given: Json | None = None) -> Self:
        """Fit what the task must know (classes, statistics) to the training part; ``given`` assets take precedence."""

    @abstractmethod
    def model_args(self) -> Json:
        """What the data decide of the network: a superset of names that builders pick from."""

    @abstractmethod
    def convert_source(self, source: Source) -> Source:
        """Return the source with its targets in this task's terms (classes by name), or raise `DataError` if it does
        not fit."""

    @abstractmethod
    def collate(self, examples: Examples) -> Batch:
        """Turn decoded examples into tensors: preprocessing and targets."""

    @abstractmethod
    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """Run the model on a batch and return how wrong it is, as a sum."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model on a batch to measure it: what `losses` and `meter` take, (N, …)."""
        outputs: Tensor = call(model, batch.inputs)
        return outputs

    def prediction_model(self, model: nn.Module) -> nn.Module:
        """Return the module that maps encoded raw inputs to what `decode` takes: the model itself, where raw inputs are
        like the examples."""
        return model

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return each example's loss, (N,)."""

    @abstractmethod
    def meter(self) -> Meter:
        """Return a fresh meter of this task's metrics, light enough for every epoch."""

    def average_outputs(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the outputs (N, …) of the mean prediction over several outputs for the same examples.

        Raises `UsageError` where predictions have no mean.
        """
        raise UsageError(f"the answers of a {self.name} have no mean", do="leave --tta out")

    def evaluation_meter(self) -> EvaluationMeter:
        """Return a new meter for evaluation and reports; a task with more metrics than its training meter overrides
        this."""
        return BasicEvaluationMeter(self.meter())

    def notes(self, source: Source) -> tuple[str, ...]:
        """Return what a user should know of the training part's targets before training starts."""
        return ()

    @abstractmethod
    def decode(self, outputs: Tensor, batch: Batch) -> list[msgspec.Struct]:
        """Turn outputs (N, …) for a batch of inputs into predictions, one for each example."""

    @abstractmethod
    def export_module(self, model: nn.Module) -> Export:
        """Return the module to export as a graph: it maps inputs as `collate` encodes them to the model's own outputs
        and the predictions (float)."""

    @abstractmethod
    def to_json(self) -> Json:
        """Return everything that must travel with the weights, as plain JSON."""

    @classmethod
    @abstractmethod
    def from_json(cls, saved: Json) -> Self:
        """Restore the task from `to_json`'s output. Raises `msgspec.ValidationError` naming the field that is
        wrong."""

    def encode(self, raw: object) -> Tensor:
        """Turn one raw input (a path, an image, a row) into the network's input, without a batch dimension."""
        return self.inputs.encode(raw)

"""The contract of a learning rule, and what all rules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec
import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.values import call, iterate_leaves
from layerwise.errors import TrainingError
from layerwise.nn.tracing import ModuleCall, trace_modules
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Task

Metrics = Mapping[str, Tensor | float]


class Step(NamedTuple):
    """What a step did: sums over its examples. Tensors stay tensors until someone reads them.

    ``total`` is the summed objective, ``weight`` the count it covers, ``parts`` its named terms (sums), ``units`` what
    else it read, such as words of running text, counted on the CPU.
    """

    total: Tensor
    weight: float
    parts: Mapping[str, Tensor]
    units: Mapping[str, int] = MappingProxyType({})


class Verdict(NamedTuple):
    """A rule's result at the end of an epoch: whether further steps can change nothing, and a note on it."""

    finished: bool
    note: str = ""
    note_zh: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule trains, and how: the model (or the part that a stage trains) and its trainable parameters by name."""

    model: nn.Module
    task: Task
    parameters: dict[str, nn.Parameter]
    world: World
    seed: int
    precision: str
    batch_size: int
    examples: int


class Rule(Protocol):
    """A learning rule. `step` changes the model's weights in place."""

    def step(self, batch: Batch, progress: float) -> Step:
        """Learn from one batch (this rank's share of it; perhaps empty). ``progress`` in [0, 1) is the stage's."""
        ...

    def end_epoch(self) -> Verdict:
        """Close an epoch."""
        ...

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context in which the model holds the weights to evaluate and save (an average, say)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that an exact resume needs, as tensors by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned."""
        ...


class Entry(NamedTuple):
    """What a rule's module gives the registry as ``RULE``: its constructor, and the struct of its options."""

    build: Callable[[Context, Any], Rule]
    options: type[msgspec.Struct]


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite. ``report`` says where; the weights are those before the step."""

    def __init__(self, batch: Batch, parts: Mapping[str, float], layer: str) -> None:
        ids = batch.ids.tolist()
        self.report = {"layer": layer, "terms": parts, "examples": ids}
        terms = ", ".join(f"{name} = {value:g}" for name, value in parts.items())
        super().__init__(
            f"the loss is not finite; the first layer with a non-finite value is {layer}",
            expected="a finite loss",
            received=f"{terms} on {len(ids)} examples (numbers "
            f"{', '.join(map(str, ids[:8]))}{' …' if len(ids) > 8 else ''})",
            do="lower rule.lr, set rule.clip_grad=1, or look at those examples; the last checkpoint is intact",
        )


@torch.no_grad()
def find_first_bad_layer(model: nn.Module, batch: Batch) -> str:
    """Run the model on a batch and name the first module whose input, weights or output is not finite.

    Returns ``the input``, a module's name with ``(weights)`` or ``(output)``, or ``the loss itself`` if all are finite.
    """
    if not all(bool(torch.isfinite(leaf).all()) for _, leaf in iterate_leaves(batch.inputs)):
        return "the input"
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"'{name}' (weights)"
    bad: list[str] = []

    def check_outputs(traced: ModuleCall) -> None:
        if not bad and not all(bool(torch.isfinite(output).all()) for output in traced.outputs):
            bad.append(f"'{traced.name}' (output)" if traced.name else "the output")

    with trace_modules(model, check_outputs):
        call(model, batch.inputs)
    return bad[0] if bad else "the loss itself"

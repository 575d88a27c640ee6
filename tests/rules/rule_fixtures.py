"""Fixtures for the tests of rules: a context over a model, and batches of random examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.values import call
from layerwise.rules.base import Context
from layerwise.runtime.distributed import World
from layerwise.tasks.base import Loss, Meter


class Squares:
    """The least a rule needs of a task: half the squared error, summed."""

    name = "squares"

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        assert batch.targets is not None
        outputs = call(model, batch.inputs)
        total = (outputs - batch.targets).pow(2).sum() / 2
        return Loss(total, float(len(batch)), {"squares": total}, outputs)

    def meter(self) -> Meter:
        raise NotImplementedError


def net(dtype: torch.dtype = torch.float64, *, norm: bool = False) -> nn.Sequential:
    """Return a net of two layers, its weights drawn with seed 0."""
    torch.manual_seed(0)
    middle: list[nn.Module] = [nn.LayerNorm(5)] if norm else []
    return nn.Sequential(nn.Linear(4, 5), *middle, nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def context(
    model: nn.Module, *, batch_size: int, task: object | None = None, precision: str = "fp64", seed: int = 0
) -> Context:
    """Return the context of one process over all parameters."""
    chosen = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return Context(model, task or Squares(), chosen, World(), seed, precision, batch_size, 100)  # type: ignore[arg-type]


def batches(count: int, size: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """Return random batches."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    return [Batch(normal(size, 4), normal(size, 3), torch.arange(size)) for _ in range(count)]

"""Augmentation of training batches: which change an example gets is a pure function of (seed, stage, epoch, its id).

So the batch it lies in, the number of workers and ranks, a resume and the loading path change nothing. Batches are changed where
they are used, on the device, after both loading paths; what is evaluated, predicted and exported never is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from layerwise import recipe
from layerwise.data.loader import Batch, Batches
from layerwise.errors import UsageError
from layerwise.functional.augmentation import DRAWS, AugmentOptions, augment
from layerwise.runtime import draws
from layerwise.tasks.inputs import ImageInputs, Inputs


@dataclass(frozen=True)
class Augmentation:
    """Changes a stage's training pictures. ``seed`` is the run's."""

    inputs: ImageInputs
    options: AugmentOptions
    seed: int
    stage: int = 0

    def draws(self, batch: Batch, epoch: int) -> Tensor:
        """Return the draws of a batch's examples in an epoch, (N, 10) in [0, 1), where and in the type that the pictures are."""
        found = draws.uniform(batch.ids, DRAWS, draws.key(self.seed, "augment", self.stage), epoch)
        return found.to(batch.inputs.device, batch.inputs.dtype, non_blocking=True)

    @torch.no_grad()
    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with its pictures changed as this epoch has it, in the same layout in memory."""
        x = self.inputs.scaled(augment(self.inputs.raw(batch.inputs), self.draws(batch, epoch), self.options))
        last = batch.inputs.ndim == 4 and batch.inputs.is_contiguous(memory_format=torch.channels_last)
        return replace(batch, inputs=x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))


@dataclass(frozen=True)
class Augmented:
    """Batches whose pictures are changed on their way to the rule."""

    batches: Batches
    change: Augmentation

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.batches.per_epoch

    @property
    def examples(self) -> int:
        """Examples in one epoch, over all ranks."""
        return self.batches.examples

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, changed, from batch ``start`` on."""
        for batch in self.batches.epoch(epoch, start):
            yield self.change(batch, epoch)


def augmented(batches: Batches, inputs: Inputs, table: Mapping[str, Any], *, seed: int, stage: int) -> Batches:
    """Return a stage's batches, augmented if its table (resolved) says so."""
    if not table:
        return batches
    assert isinstance(inputs, ImageInputs)
    return Augmented(batches, Augmentation(inputs, msgspec.convert(dict(table), AugmentOptions), seed, stage))


def resolved(table: Mapping[str, Any], inputs: Inputs, where: str) -> dict[str, Any]:
    """Return a stage's ``augment`` table with every option spelled out, or the empty one.

    Raises `UsageError` for unknown keys and values out of range, for inputs that are no pictures, and for colours of grey ones.
    """
    if not table:
        return {}
    options = recipe.checked(AugmentOptions, table, where=f"augment of {where}")
    if not isinstance(inputs, ImageInputs):
        raise UsageError(
            f"{where} cannot augment {inputs.kind}s", expected="pictures, which stay what they are when turned or shifted",
            received=f"augment of {', '.join(table)}", do="leave augment out for these data",
        )  # fmt: skip
    if options.colours and inputs.channels != 3:
        raise UsageError(
            f"{where} cannot change the saturation or hue of these pictures", expected="three channels: red, green, blue",
            received=f"{inputs.channels} channel(s)", do="leave augment.saturation and augment.hue out; brightness and contrast work",
        )  # fmt: skip
    return dict(msgspec.to_builtins(options))

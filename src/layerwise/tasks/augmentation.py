"""Augmentation of training batches: which change an example gets is a pure function of (seed, stage, epoch, its id).

So the batch it lies in, the number of workers and ranks, a resume and the loading path change nothing. Batches are
changed where they are used, on the device, after both loading paths; what is evaluated, predicted and exported never
is.

Mixing takes a second image: the neighbor in the epoch's shuffled order, so the pair is a function of (seed, stage,
epoch, position), and its shares of (seed, stage, epoch, id). Ranks cut a global batch between pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from layerwise import recipe
from layerwise.data.loader import Batch, Batches, Collate, Mix
from layerwise.errors import UsageError
from layerwise.functional.augmentation import mixup
from layerwise.functional.augmentation.transforms import (
    BOX_X,
    BOX_Y,
    DRAWS,
    FIRST,
    KIND,
    MIXED,
    SHARE,
    AugmentOptions,
    augment,
)
from layerwise.runtime import rng
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs, Inputs


@dataclass(frozen=True)
class Augmentation:
    """Changes a stage's training images. ``seed`` is the run's; ``dtype`` that of its floating-point numbers, for
    images that come as bytes; ``plain``: images come as `collating` leaves them, in bytes or in [0, 1]."""

    inputs: ImageInputs
    options: AugmentOptions
    seed: int
    stage: int = 0
    dtype: torch.dtype = torch.float32
    plain: bool = False

    def draws(self, batch: Batch, epoch: int) -> Tensor:
        """Return the draws of a batch's examples in an epoch, (N, 28) float64 in [0, 1)."""
        return torch.cat(
            [
                rng.uniform(batch.ids, count, rng.key(self.seed, name, self.stage), epoch)
                for name, count in (("augment", FIRST), ("augment-more", DRAWS - FIRST))
            ],
            1,
        )

    @torch.no_grad()
    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with its images changed as this epoch has it, in the same layout in memory."""
        u = self.draws(batch, epoch)
        given = batch.inputs.dtype
        x = batch.inputs.clone() if self.plain and given != torch.uint8 else batch.inputs
        x = augment(
            x if self.plain else self.inputs.raw(x),
            u.to(self.dtype if given == torch.uint8 else given).to(x.device, non_blocking=True),
            self.options,
        )
        x = self.inputs.scaled(x)
        last = batch.inputs.ndim == 4 and batch.inputs.is_contiguous(memory_format=torch.channels_last)
        changed = replace(
            batch, inputs=x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        )
        return self.mixed(changed, u) if self.options.mixes and len(batch) else changed

    def shares(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return what draws u (N, 28) leave of each image, λ (N,) float64, 1 for those not mixed, and which are cut
        (CutMix), (N,)."""
        o = self.options
        half = 0.5 if o.mixup and o.cutmix else float(bool(o.cutmix))
        cuts = u[:, KIND] < half
        share = torch.ones(len(u), dtype=torch.float64)
        for alpha, chosen in ((o.mixup, ~cuts), (o.cutmix, cuts)):
            if alpha:
                share = torch.where(chosen & (u[:, MIXED] < o.mix), mixup.shares(u[:, SHARE], alpha), share)
        return share, cuts

    def mixed(self, batch: Batch, u: Tensor) -> Batch:
        """Return a batch of neighbors mixed two by two, by draws u (N, 28)."""
        share, cuts = self.shares(u)
        box = mixup.pasted(u[:, [BOX_X, BOX_Y]], share, (batch.inputs.shape[2], batch.inputs.shape[3]))
        x, kept = mixup.mixed(batch.inputs, *(t.to(batch.inputs.device) for t in (share, box, cuts)))
        other = mixup.partners(len(batch)).to(batch.inputs.device)
        targets, weights = (None if tensor is None else tensor[other] for tensor in (batch.targets, batch.weights))
        return replace(batch, inputs=x, mix=Mix(kept, targets, weights))


@dataclass(frozen=True)
class Augmented:
    """Batches whose images are changed on their way to the rule."""

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


def collating(task: Task, table: Mapping[str, Any]) -> Collate:
    """Return how a stage's training examples are gathered: images that are to be changed stay bytes until then."""
    if not table:
        return task.collate
    assert isinstance(task.inputs, ImageInputs)
    return replace(task, inputs=replace(task.inputs, plain=True)).collate


def paired(table: Mapping[str, Any]) -> bool:
    """Whether a stage's table (resolved) mixes images."""
    return bool(table) and msgspec.convert(dict(table), AugmentOptions).mixes


def augmented(
    batches: Batches,
    inputs: Inputs,
    table: Mapping[str, Any],
    *,
    seed: int,
    stage: int,
    dtype: torch.dtype = torch.float32,
) -> Batches:
    """Return a stage's batches, gathered as `collating` says, augmented if its table (resolved) says so."""
    if not table:
        return batches
    assert isinstance(inputs, ImageInputs)
    options = msgspec.convert(dict(table), AugmentOptions)
    return Augmented(batches, Augmentation(inputs, options, seed, stage, dtype, plain=True))


def resolved(table: Mapping[str, Any], inputs: Inputs, where: str, *, rule: str = "backprop") -> dict[str, Any]:
    """Return a stage's ``augment`` table with every option spelled out, or the empty one.

    Raises `UsageError` for unknown keys and values out of range, for inputs that are no images, for colors of gray
    ones, and for mixed images where another rule than backprop learns.
    """
    if not table:
        return {}
    options = recipe.checked(AugmentOptions, table, where=f"augment of {where}")
    if not isinstance(inputs, ImageInputs):
        raise UsageError(
            f"{where} cannot augment {inputs.kind}s",
            expected="images, which stay what they are when turned or shifted",
            received=f"augment of {', '.join(table)}",
            do="leave augment out for these data",
        )
    if options.colors and inputs.channels != 3:
        raise UsageError(
            f"{where} cannot change the saturation or hue of these images",
            expected="three channels: red, green, blue",
            received=f"{inputs.channels} channel(s)",
            do="leave augment.saturation and augment.hue out; brightness and contrast work",
        )
    for key in ("area", "aspect", "erase_area", "erase_aspect"):
        low, high = getattr(options, key)
        if low > high:
            raise UsageError(
                f"augment.{key} of {where} ends before it begins",
                expected="the smaller number first",
                received=f"{[low, high]}",
                do=f"--set 'augment.{key}=[{high:g}, {low:g}]'",
            )
    if options.mixes and rule != "backprop":
        raise UsageError(
            f"{where} cannot mix images: the rule {rule} learns one class from each",
            expected="the rule backprop",
            received="augment.mixup or augment.cutmix above 0",
            do="leave augment.mixup and augment.cutmix out",
        )
    return dict(msgspec.to_builtins(options))

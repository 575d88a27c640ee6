"""Augmentation of training batches: which change an example gets is a pure function of (seed, stage, epoch, its id).

So the batch it is in, the number of workers and ranks, a resume and the loading path change nothing. Batches are
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
from layerwise.data.batch import Batch, Mix
from layerwise.data.loader import Batches, Collate
from layerwise.data.values import take
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
    images that come as bytes; ``plain``: images come as `choose_collate` leaves them, in bytes or in [0, 1]."""

    inputs: ImageInputs
    options: AugmentOptions
    seed: int
    stage: int = 0
    dtype: torch.dtype = torch.float32
    plain: bool = False

    def get_draws(self, batch: Batch, epoch: int) -> Tensor:
        """Return the draws of a batch's examples in an epoch, (N, 28) float64 in [0, 1)."""
        return torch.cat(
            [
                rng.draw_uniform(batch.ids, count, rng.derive_seed(self.seed, name, self.stage), epoch)
                for name, count in (("augment", FIRST), ("augment-more", DRAWS - FIRST))
            ],
            1,
        )

    @torch.no_grad()
    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the batch with its images changed as this epoch has it, in the same layout in memory."""
        u = self.get_draws(batch, epoch)
        images = batch.input_tensor
        dtype = images.dtype
        x = images.clone() if self.plain and dtype != torch.uint8 else images
        x = augment(
            x if self.plain else self.inputs.raw(x),
            u.to(self.dtype if dtype == torch.uint8 else dtype).to(x.device, non_blocking=True),
            self.options,
        )
        x = self.inputs.normalize(x)
        is_channels_last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
        changed = replace(
            batch,
            inputs=x.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format),
        )
        return self.mix(changed, u) if self.options.has_mixing and len(batch) else changed

    def compute_shares(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return what draws u (N, 28) leave of each image, λ (N,) float64, 1 for those not mixed, and which are cut
        (CutMix), (N,)."""
        options = self.options
        cut_share = 0.5 if options.mixup and options.cutmix else float(bool(options.cutmix))
        cuts = u[:, KIND] < cut_share
        share = torch.ones(len(u), dtype=torch.float64)
        for alpha, chosen in ((options.mixup, ~cuts), (options.cutmix, cuts)):
            if alpha:
                share = torch.where(
                    chosen & (u[:, MIXED] < options.mix_prob), mixup.beta_quantiles(u[:, SHARE], alpha), share
                )
        return share, cuts

    def mix(self, batch: Batch, u: Tensor) -> Batch:
        """Return a batch of neighbors mixed two by two, by draws u (N, 28)."""
        (share, cuts), images = self.compute_shares(u), batch.input_tensor
        box = mixup.draw_cutmix_boxes(u[:, [BOX_X, BOX_Y]], share, (images.shape[2], images.shape[3]))
        x, own_share = mixup.mix_images(images, *(t.to(images.device) for t in (share, box, cuts)))
        other = mixup.find_partners(len(batch))
        targets = None if batch.targets is None else take(batch.targets, other)
        weights = None if batch.weights is None else take(batch.weights, other)
        return replace(batch, inputs=x, mix=Mix(own_share, targets, weights))


@dataclass(frozen=True)
class AugmentedBatches:
    """Batches whose images are changed on their way to the rule."""

    batches: Batches
    augmentation: Augmentation

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.batches.per_epoch

    @property
    def examples(self) -> int:
        """Examples in one epoch, over all ranks."""
        return self.batches.examples

    def iterate(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of the batches of an epoch, changed, from batch ``start`` on."""
        for batch in self.batches.iterate(epoch, start):
            yield self.augmentation(batch, epoch)


def choose_collate(task: Task, table: Mapping[str, Any]) -> Collate:
    """Return how a stage's training examples are gathered: images that are to be changed stay bytes until then."""
    if not table:
        return task.collate
    assert isinstance(task.inputs, ImageInputs)
    return replace(task, inputs=replace(task.inputs, plain=True)).collate


def has_mixing(table: Mapping[str, Any]) -> bool:
    """Whether a stage's table (resolved) mixes images."""
    return bool(table) and msgspec.convert(dict(table), AugmentOptions).has_mixing


def augment_batches(
    batches: Batches,
    inputs: Inputs,
    table: Mapping[str, Any],
    *,
    seed: int,
    stage: int,
    dtype: torch.dtype = torch.float32,
) -> Batches:
    """Return a stage's batches, gathered as `choose_collate` says, augmented if its table (resolved) says so."""
    if not table:
        return batches
    assert isinstance(inputs, ImageInputs)
    options = msgspec.convert(dict(table), AugmentOptions)
    return AugmentedBatches(batches, Augmentation(inputs, options, seed, stage, dtype, plain=True))


def resolve_augment(table: Mapping[str, Any], inputs: Inputs, where: str, *, rule: str = "backprop") -> dict[str, Any]:
    """Return a stage's ``augment`` table with every option spelled out, or the empty one.

    Raises `UsageError` for unknown keys and values out of range, for inputs that are no images, for colors of gray
    ones, and for mixed images where another rule than backprop learns.
    """
    if not table:
        return {}
    options = recipe.check_table(AugmentOptions, table, where=f"augment of {where}")
    if not isinstance(inputs, ImageInputs):
        raise UsageError(
            f"{where} cannot augment {inputs.kind}s",
            expected="images, which stay what they are when turned or shifted",
            received=f"augment of {', '.join(table)}",
            do="leave augment out for these data",
        )
    if options.needs_color and inputs.channels != 3:
        raise UsageError(
            f"{where} cannot change the saturation or hue of these images",
            expected="three channels: red, green, blue",
            received=f"{inputs.channels} channel(s)",
            do="leave augment.saturation and augment.hue out; brightness and contrast work",
        )
    for key in ("crop_scale", "crop_ratio", "erase_scale", "erase_ratio"):
        low, high = getattr(options, key)
        if low > high:
            raise UsageError(
                f"augment.{key} of {where} ends before it begins",
                expected="the smaller number first",
                received=f"{[low, high]}",
                do=f"--set 'augment.{key}=[{high:g}, {low:g}]'",
            )
    if options.has_mixing and rule != "backprop":
        raise UsageError(
            f"{where} cannot mix images: the rule {rule} learns one class from each",
            expected="the rule backprop",
            received="augment.mixup or augment.cutmix above 0",
            do="leave augment.mixup and augment.cutmix out",
        )
    return dict(msgspec.to_builtins(options))

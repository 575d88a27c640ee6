"""Batches of one example, over which a batch norm has no variance (F21): refused before training, with a size that
does."""

from __future__ import annotations

from torch import nn

from layerwise.data.loader import Batch, Batches
from layerwise.errors import UsageError
from layerwise.inference.predict import evaluating
from layerwise.recipe import Stage
from layerwise.runtime.distributed import World


def refuse_lonely_batch(model: nn.Module, batches: Batches, stage: Stage, world: World, *, example: Batch) -> None:
    """Refuse batches of one example (a rank's share of one) under a batch norm that has no variance there (F21)."""
    last = batches.examples % stage.batch
    sizes = {min(stage.batch, batches.examples), last} - {0}
    lonely = any(
        (rank + 1) * size // world.size - rank * size // world.size == 1 for size in sizes for rank in range(world.size)
    )
    if lonely and has_single_values(model, example):
        shared = f", shared by {world.size} processes," if world.size > 1 else ""
        rows = any(isinstance(m, nn.BatchNorm1d) for m in model.modules())
        raise UsageError(
            f"in batches of {stage.batch}{shared} the last batch of {batches.examples} examples has one example, "
            "over which batch normalization has no variance",
            expected="at least two examples in every batch",
            do=f"use --batch {next_batch(batches.examples, stage.batch, world.size)}"
            + (", or set model.batch_norm=false" if rows else ", or larger images with task.size"),
        )


def has_single_values(model: nn.Module, example: Batch) -> bool:
    """Whether one example gives some batch norm a single value for each unit: a row, or maps of one place."""
    single: list[bool] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, given: single.append(given[0][0].numel() == given[0].shape[1]))
        for module in model.modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    if handles:
        with evaluating(model, example.inputs.device):
            model(example.inputs)
    for handle in handles:
        handle.remove()
    return any(single)


def next_batch(examples: int, batch: int, ranks: int) -> int:
    """Return the next batch size that leaves every rank of a last batch two examples or none."""
    first = max(batch, 2 * ranks) + (batch >= 2 * ranks)
    return next(b for b in range(first, 2 * examples) if examples % b == 0 or examples % b >= 2 * ranks)

"""Checks before training: batch sizes that batch norm can use, and checkpoints that a run can resume from.

A checkpoint may come from somebody else, so nothing in it is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from layerwise.data.batch import Batch
from layerwise.data.loader import Batches
from layerwise.data.values import call
from layerwise.errors import UsageError
from layerwise.inference.predict import inference_context
from layerwise.nn.tracing import ModuleCall, trace_modules
from layerwise.planning.resolve import Plan
from layerwise.recipe import Stage
from layerwise.run_directory import Checkpoint, RunDirectory
from layerwise.run_records import ResumeInfo, check_record
from layerwise.runtime.checksums import find_nonfinite, make_damaged_error
from layerwise.runtime.distributed import World
from layerwise.weights.saved_model import check_architecture, check_finite

# -- batches of one example -------------------------------------------------------------------------------------------


def check_batch_norm_batches(model: nn.Module, batches: Batches, stage: Stage, world: World, *, example: Batch) -> None:
    """Raise `UsageError` for batches of one example (a rank's share of one) where batch norm has no variance over it.

    The error names a batch size that works.
    """
    last = batches.examples % stage.batch_size
    sizes = {min(stage.batch_size, batches.examples), last} - {0}
    shares = [
        (rank + 1) * size // world.size - rank * size // world.size for size in sizes for rank in range(world.size)
    ]
    if 1 in shares and has_single_values(model, example):
        shared = f", shared by {world.size} processes," if world.size > 1 else ""
        rows = any(isinstance(m, nn.BatchNorm1d) for m in model.modules())
        raise UsageError(
            f"in batches of {stage.batch_size}{shared} the last batch of {batches.examples} examples has one example, "
            "over which batch normalization has no variance",
            expected="at least two examples in every batch",
            do=f"use --batch-size {find_next_batch_size(batches.examples, stage.batch_size, world.size)}"
            + (", or set model.batch_norm=false" if rows else ", or larger images with task.size"),
        )


def has_single_values(model: nn.Module, example: Batch) -> bool:
    """Whether one example gives some batch norm a single value for each unit: a row, or maps of one pixel."""
    single: list[bool] = []

    def is_batch_norm(module: nn.Module) -> bool:
        return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)

    def check_input(traced: ModuleCall) -> None:
        (x,) = traced.inputs
        single.append(x[0].numel() == x.shape[1])

    if any(map(is_batch_norm, model.modules())):
        with inference_context(model, example.device), trace_modules(model, check_input, select=is_batch_norm):
            call(model, example.inputs)
    return any(single)


def find_next_batch_size(examples: int, batch_size: int, ranks: int) -> int:
    """Return the next batch size that leaves every rank of a last batch two examples or none."""
    first = max(batch_size, 2 * ranks) + (batch_size >= 2 * ranks)
    return next(b for b in range(first, 2 * examples) if examples % b == 0 or examples % b >= 2 * ranks)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def check_resume_state(directory: RunDirectory, which: str, checkpoint: Checkpoint, *, stages: int) -> None:
    """Raise `DamagedError` naming state.json and the field where a run cannot resume from a checkpoint.

    Args:
        directory: the run.
        which: ``last`` or ``best``.
        checkpoint: the checkpoint of that name.
        stages: how many stages the run's recipe has.
    """
    path = directory.path / "checkpoints" / which / "state.json"
    check_record(checkpoint.info, ResumeInfo, path)
    for field, stage in (("cursor", checkpoint.info["cursor"][0]), ("best", checkpoint.info["best"]["stage"])):
        if stage >= stages:
            raise make_damaged_error(
                path, f"its {field} is in stage {stage}, and the recipe has {stages} stage(s), counted from 0"
            )
    # the best checkpoint may be newer than the last one, to which a resume cuts the log back
    log_bytes = checkpoint.info["metrics_bytes"]
    if which == "last" and log_bytes > directory.get_metrics_size():
        raise make_damaged_error(
            directory.path / "metrics.jsonl",
            f"it has {directory.get_metrics_size():,} bytes, and {which}/state.json says {log_bytes:,}",
        )


def check_tensors(directory: RunDirectory, which: str, checkpoint: Checkpoint, plan: Plan) -> None:
    """Raise `DamagedError` where a checkpoint's tensors do not fit the plan's network, or are not finite.

    This takes no memory for the network.
    """
    folder = directory.path / "checkpoints" / which
    weights = folder / "model.safetensors"
    check_architecture(
        plan.spec, plan.model_args, checkpoint.model, path=directory.path / "recipe.toml", weights=weights
    )
    check_finite(checkpoint.model, weights)
    if name := next((name for name, tensor in checkpoint.state.items() if tensor.is_complex()), ""):
        raise make_damaged_error(folder / "state.safetensors", f"the tensor '{name}' holds complex numbers")
    rules = {name: tensor for name, tensor in checkpoint.state.items() if "rule." in name}
    if name := find_nonfinite(rules):
        raise make_damaged_error(folder / "state.safetensors", f"the tensor '{name}' holds numbers that are not finite")


def find_difference(expected: Mapping[str, tuple[torch.Size, torch.dtype]], tensors: Mapping[str, Tensor]) -> str:
    """Return the first name that is missing, left over, or of another shape or type; the empty text if none is."""
    names = {**expected, **tensors}
    return next(
        (n for n in names if n not in tensors or expected.get(n) != (tensors[n].shape, tensors[n].dtype)),
        "",
    )


@contextmanager
def name_state_file(run: Path) -> Iterator[None]:
    """Raise `DamagedError` naming a checkpoint's state.safetensors for errors while its tensors are restored inside."""
    try:
        yield
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        path = run / "checkpoints" / "last" / "state.safetensors"
        raise make_damaged_error(
            path, f"training cannot go on from its tensors ({type(error).__name__}: {reason})"
        ) from error

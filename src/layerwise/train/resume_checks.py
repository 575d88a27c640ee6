"""What is checked of a checkpoint before training goes on from it: a stranger's run is data, and none of it is trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from layerwise.durable import damaged, find_nonfinite
from layerwise.planning.resolve import Plan
from layerwise.run import Checkpoint, RunDirectory
from layerwise.run_records import ResumeInfo, check_record
from layerwise.weights.saved_model import check_built, check_finite


def check_places(directory: RunDirectory, which: str, found: Checkpoint, *, stages: int) -> None:
    """Raise `DamagedError` naming state.json and the field where a checkpoint cannot be gone on from.

    Args:
        directory: the run.
        which: ``last`` or ``best``.
        found: that checkpoint.
        stages: how many the run's recipe has.
    """
    path = directory.path / "checkpoints" / which / "state.json"
    check_record(found.info, ResumeInfo, path)
    for field, stage in (("cursor", found.info["cursor"][0]), ("best", found.info["best"]["stage"])):
        if stage >= stages:
            raise damaged(path, f"its {field} is in stage {stage}, and the recipe has {stages} stage(s), counted from 0")
    # the best checkpoint may be newer than the last one, to which a resume cuts the log back
    if which == "last" and found.info["metrics_bytes"] > directory.metrics_size():
        raise damaged(
            directory.path / "metrics.jsonl",
            f"it has {directory.metrics_size():,} bytes, and {which}/state.json says {found.info['metrics_bytes']:,}",
        )


def check_tensors(directory: RunDirectory, which: str, found: Checkpoint, made: Plan) -> None:
    """Raise `DamagedError` where a checkpoint's tensors are not those of the plan's network, or not finite. No memory is taken for it."""
    folder = directory.path / "checkpoints" / which
    weights = folder / "model.safetensors"
    check_built(made.card, made.model_args, found.model, path=directory.path / "recipe.toml", weights=weights)
    check_finite(found.model, weights)
    if name := next((name for name, tensor in found.state.items() if tensor.is_complex()), ""):
        raise damaged(folder / "state.safetensors", f"the tensor '{name}' holds complex numbers")
    rules = {name: tensor for name, tensor in found.state.items() if "rule." in name}
    if name := find_nonfinite(rules):
        raise damaged(folder / "state.safetensors", f"the tensor '{name}' holds numbers that are not finite")


def differing(wanted: Mapping[str, tuple[torch.Size, torch.dtype]], given: Mapping[str, Tensor]) -> str:
    """Return the first name that is missing, left over, or of another shape or type; the empty text if none is."""
    names = {**wanted, **given}
    return next((name for name in names if name not in given or wanted.get(name) != (given[name].shape, given[name].dtype)), "")


@contextmanager
def name_state_file(run: Path) -> Iterator[None]:
    """Raise `DamagedError` naming a checkpoint's state.safetensors for whatever is wrong with the tensors that are taken up inside."""
    try:
        yield
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        place = run / "checkpoints" / "last" / "state.safetensors"
        raise damaged(place, f"training cannot go on from its tensors ({type(error).__name__}: {reason})") from error

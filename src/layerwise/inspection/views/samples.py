"""The view ``samples``: what a Boltzmann machine draws from its top layer, and the filters its lowest machine learned
(S07)."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from layerwise.errors import UsageError
from layerwise.inspection.base import Target, View, needs_run, save, table
from layerwise.models.boltzmann import sample, stack_of
from layerwise.nn.rbm import RBM
from layerwise.plotting.images import Floats, in_rows, sheet
from layerwise.runtime import rng
from layerwise.tasks.base import Task
from layerwise.tasks.inputs import ImageInputs

COUNT, COLUMNS = 30, 10
STEPS = 500  # of Gibbs sampling: enough to forget the random start


def view(target: Target, *, out: Path | None) -> View:
    """Return samples and their statistics. Writes ``samples.svg`` and ``filters.svg`` where inputs are images.

    Raises `UsageError` for a bare model, and for a network that draws nothing.
    """
    if target.model is None or target.task is None:
        raise needs_run("samples", target.spec)
    if not stack_of(target.model):
        raise UsageError(
            f"{target.spec.name} draws no samples",
            expected="a run of rbm or dbn",
            received=f"a run of {target.spec.name}",
        )
    drawn = samples(target.model, count=target.examples or COUNT)
    rows = [
        [f"{rbm.weight.shape[1]} → {rbm.weight.shape[0]}", f"{float(rbm.weight.detach().std()):.4f}"]
        for rbm in stack_of(target.model)
    ]
    data = {
        "count": len(drawn),
        "steps": STEPS,
        "mean": float(drawn.mean()),
        "deviation": float(drawn.std()),
        "machines": [{"visible": r.weight.shape[1], "hidden": r.weight.shape[0]} for r in stack_of(target.model)],
        "samples": np.round(drawn, 4).tolist(),
    }
    figures = []
    images = as_images(drawn, target.task)
    if images is not None:
        figures += save(out, "samples.svg", sheet(in_rows(list(images), COLUMNS)))
        filters = as_images(strongest_filters(target.model), target.task)
        assert filters is not None
        figures += save(out, "filters.svg", sheet(in_rows(list(filters), COLUMNS)))
    text = target.say(
        f"{len(drawn)} samples after {STEPS} steps of Gibbs sampling in the top machine",
        f"在顶层机器中做 {STEPS} 步吉布斯采样后得到的 {len(drawn)} 个样本",
    )
    header = [target.say("machine", "机器"), target.say("deviation of weights", "权重的标准差")]
    return View("samples", data, f"{text}\n\n{table(header, rows)}", figures)


def samples(model: nn.Module, *, count: int, steps: int = STEPS, seed: int = 0) -> Floats:
    """Draw visible probabilities (count, D) from an rbm or dbn. Uses a generator of its own and leaves the model
    alone."""
    # drawn on the CPU in float32 wherever the model lives: the same seed draws the same images
    stack = [copy.deepcopy(rbm).to("cpu", torch.float32) for rbm in stack_of(model)]
    found = sample(stack, count, steps=steps, generator=rng.generator(seed, "samples"))
    return np.asarray(found.numpy())


def strongest_filters(model: nn.Module, *, count: int = COUNT) -> Floats:
    """Return the lowest machine's weight rows of largest norm, (count, D), each brought to [0, 1] with 0 at
    mid-gray."""
    machine: RBM = stack_of(model)[0]
    weight = machine.weight.detach().to("cpu", torch.float64)  # (H, D)
    order = weight.norm(dim=1).argsort(descending=True, stable=True)[:count]
    rows = weight[order]
    return np.asarray((0.5 + 0.5 * rows / rows.abs().amax(1, keepdim=True).clamp_min(1e-12)).numpy())


def as_images(rows: Floats, task: Task) -> Floats | None:
    """Return flat rows (N, D) as images (N, C, H, W), or None where inputs are no images."""
    if not isinstance(task.inputs, ImageInputs):
        return None
    return rows.reshape(len(rows), task.inputs.channels, *task.inputs.size)
